"""RFC 9421 between two of our services."""

import asyncio
from datetime import UTC, datetime

import httpx
import pytest
from http_message_signatures import HTTPMessageSigner, MappingKeyResolver
from http_message_signatures.algorithms import HMAC_SHA256
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity_sdk.credentials import KeyMaterial
from serviceidentity_sdk.requests import (
    Fixed,
    HmacKey,
    Keyring,
    MemoryReplayCache,
    Received,
    RefusedError,
    SignedRequestMiddleware,
)
from serviceidentity_sdk.requests.message_signatures import MessageAuthenticator, SignedMessages

KEY = b"k" * 32
NOW = 1_800_000_000_000
RING = Keyring.of({"order-service": [b"x" * 32, KEY], "other": [b"o" * 32]})


def signed(
    method="POST", url="https://payment.shop.svc/pay%20now?a=1&b=%C3%A9", content=b'{"a":1}', now=NOW, **headers
):
    auth = SignedMessages("order-service", Fixed(HmacKey("k", KeyMaterial(KEY))), clock_ms=lambda: now)
    return next(auth.auth_flow(httpx.Request(method, url, content=content, headers=headers)))


def received(request, **changes):
    found = {
        "method": request.method,
        "url": str(request.url),
        "headers": tuple(request.headers.items()),
        "body": request.content,
    }
    return Received(**found | changes)


def answer(request, now=NOW, replay=None):
    authenticator = MessageAuthenticator(Fixed(RING), clock_ms=lambda: now, replay=replay)
    try:
        return asyncio.run(authenticator.authenticate(request)).principal.subject
    except RefusedError as error:
        return str(error)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff any bytes"])
def test_signed_and_verified(method, content):
    assert answer(received(signed(method, content=content))) == "order-service"


def test_whatever_is_covered_can_not_be_changed():
    right = signed()
    changes = [
        {"method": "PUT"},
        {"url": "https://payment.shop.svc/pay%20now?a=2&b=%C3%A9"},
        {"url": "https://payment.shop.svc/pay%20now"},
        {"url": "https://payment.shop.svc/other?a=1&b=%C3%A9"},
        {"url": "https://another.svc/pay%20now?a=1&b=%C3%A9"},
        {"body": b'{"a":2}'},
        {"body": b""},
    ]
    assert [answer(received(right, **change)) for change in changes] == ["Invalid signature"] * len(changes)
    for name in ("content-digest", "signature", "signature-input"):
        lines = tuple((key, value) for key, value in right.headers.items() if key != name)
        expected = "Invalid signature" if name == "content-digest" else "Missing service authentication"
        assert answer(received(right, headers=lines)) == expected


def test_a_body_that_was_added_is_not_taken():
    assert answer(received(signed("GET", content=b""), body=b"more")) == "Invalid signature"


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (300_000, "order-service"),
        (-300_000, "order-service"),
        (300_001, "Request expired"),
        (-300_001, "Request expired"),
    ],
)
def test_the_window(offset, expected):
    assert answer(received(signed()), now=NOW + offset) == expected


def edited(request, **changes):
    found = dict(request.headers)
    for old, new in changes.values():
        found["signature-input"] = found["signature-input"].replace(old, new)
    return received(request, headers=tuple(found.items()))


def test_its_parameters():
    assert answer(edited(signed(), a=("order-service", "nobody"))) == "Unknown service"
    assert answer(edited(signed(), a=("order-service", "other"))) == "Invalid signature"
    assert answer(edited(signed(), a=("hmac-sha256", "none"))) == "Invalid signature"
    assert answer(edited(signed(), a=('"@path" ', ""))) == "Invalid signature"
    assert answer(edited(signed(), a=(";created=1800000000", ""))) == "Invalid signature"
    assert answer(edited(signed(), a=("created=1800000000", 'created="1800000000"'))) == "Invalid signature"
    assert answer(edited(signed(), a=("created=1800000000", f"created={'9' * 15}"))) == "Request expired"


def test_a_signature_over_too_little_is_none():

    def over(*components, body=None):
        request = httpx.Request("GET" if body is None else "POST", "https://payment/x?y", content=body)
        HTTPMessageSigner(
            signature_algorithm=HMAC_SHA256,
            key_resolver=MappingKeyResolver(public_keys={}, private_keys={"order-service": KEY}),
        ).sign(
            request,
            key_id="order-service",
            created=datetime.fromtimestamp(NOW / 1000, UTC),
            covered_component_ids=components,
        )
        return answer(received(request))

    assert over("@method", "@target-uri") == "order-service"
    assert over("@method", "@authority", "@path", "@query") == "order-service"
    assert over("@method", "@path", "@query") == "Invalid signature"  # for any other host, too
    assert over("@target-uri") == "Invalid signature"
    assert over("@method", "@target-uri", body=b"x") == "Invalid signature"


def test_once_whatever_the_form_of_the_header():
    cache = MemoryReplayCache()
    request = signed()
    assert answer(received(request), replay=cache) == "order-service"
    assert answer(received(request), replay=cache) == "Request replayed"
    renamed = tuple((name, value.replace("sig1=", "other=")) for name, value in request.headers.items())
    assert answer(received(request, headers=renamed), replay=cache) == "Request replayed"
    assert answer(received(signed()), replay=cache) == "order-service"  # the same again, with a nonce of its own


@given(st.text(st.characters(max_codepoint=255), max_size=60), st.text(st.characters(max_codepoint=255), max_size=60))
def test_whatever_comes_is_an_answer(signature, given_input):
    headers = (("Signature", signature), ("Signature-Input", given_input), ("Host", "x"))
    assert answer(Received("GET", "http://x/", headers, b"")) in {
        "Invalid signature",
        "Unknown service",
        "Request expired",
    }


def test_through_an_application():
    async def app(scope, receive, send):
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["state"]["principal"].subject.encode() + body})

    async def run():
        checked = SignedRequestMiddleware(app, MessageAuthenticator(Fixed(RING)))
        auth = SignedMessages("order-service", Fixed(HmacKey("k", KeyMaterial(KEY))))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(checked), base_url="http://payment:8443", auth=auth
        ) as client:
            return [
                (await client.post(path, content=b"\xff")).content for path in ("/", "/a%2Fb/é?q=ü&x=a+b%20c", "//x")
            ]

    assert asyncio.run(run()) == [b"order-service\xff"] * 3
