"""X-Service-ID, X-Timestamp, X-Signature."""

import asyncio
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serviceidentity_sdk.credentials import CredentialError, KeyMaterial
from serviceidentity_sdk.principal import Kind
from serviceidentity_sdk.requests import (
    Caller,
    EmptyBody,
    Fixed,
    HmacKey,
    Keyring,
    Received,
    RefusedError,
    ServiceAuthenticator,
    ServiceSigner,
    UnsignableError,
)
from serviceidentity_sdk.requests import signature as signatures

from .bodies import NASTY

KEY = bytes(range(32))
NOW = 1_800_000_000_000
RING = Keyring.of({"order-service": [b"\x01" * 32, KEY], "other": [b"\x02" * 32]})


def signer(now=NOW, **options):
    return ServiceSigner("order-service", Fixed(HmacKey("k", KeyMaterial(KEY))), clock_ms=lambda: now, **options)


def authenticator(now=NOW, ring=RING, **options):
    return ServiceAuthenticator(Fixed(ring), clock_ms=lambda: now, **options)


def refusal(headers, body=b"", **options):
    with pytest.raises(RefusedError) as caught:
        authenticator(**options).verify(headers, body)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "message", "mac"),
    [  # RFC 4231 4.2, 4.3, 4.4, 4.5, 4.7, 4.8
        ("0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (b"Jefe".hex(), b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        ("aa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (bytes(range(1, 26)).hex(), b"\xcd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
        ("aa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First", "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
        ("aa" * 131, b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm.", "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
    ],
)  # fmt: skip
def test_rfc_4231(monkeypatch, key, message, mac):
    monkeypatch.setattr(signatures, "message", lambda *_: message)
    assert signatures.sign(bytes.fromhex(key), "", "", b"") == mac


def test_what_is_signed():
    headers = signer().sign(b'{ "a": 1.0 }')
    assert headers == {
        "X-Service-ID": "order-service",
        "X-Timestamp": str(NOW),
        "X-Signature": hmac.new(KEY, f'order-service:{NOW}:{{"a":1}}'.encode(), "sha256").hexdigest(),
    }


def test_node_signs_and_python_verifies(node):
    made = node.ask("sign", key=KEY.hex(), id="order-service", timestamp=str(NOW), texts=[*NASTY, ""])
    for text, signature in zip([*NASTY, ""], made, strict=True):
        headers = {"X-Service-ID": "order-service", "X-Timestamp": str(NOW), "X-Signature": signature}
        assert authenticator().verify(headers, text.encode()).subject == "order-service", text


def test_python_signs_and_node_verifies(node):
    requests = []
    for text in NASTY:
        try:
            requests.append({"text": text, "headers": signer().sign(text.encode())})
        except UnsignableError:
            body, headers = signer().sign_json(__import__("json").loads(text))
            requests.append({"text": body.decode(), "headers": headers})
    requests.append({"text": "", "headers": signer().sign()})
    assert node.ask("verify", key=KEY.hex(), requests=requests) == [True] * len(requests)
    spoilt = [request | {"text": '{"other":1}'} for request in requests]
    assert node.ask("verify", key=KEY.hex(), requests=spoilt) == [False] * len(requests)


def test_empty_body_of_express_5(node):
    made = node.ask("signUndefined", key=KEY.hex(), id="order-service", timestamp=str(NOW))
    assert signer(empty=EmptyBody.UNDEFINED).sign()["X-Signature"] == made


@pytest.mark.parametrize("form", EmptyBody)
def test_an_empty_body_is_what_both_sides_agree_on(form):
    headers = signer(empty=form).sign()
    assert authenticator(empty=[form]).verify(headers).subject == "order-service"
    assert authenticator(empty=list(EmptyBody)).verify(headers).subject == "order-service"
    others = [other for other in EmptyBody if other is not form]
    assert refusal(headers, empty=others) == "Invalid signature"


def test_a_body_is_never_taken_for_none():
    assert refusal(signer(empty=EmptyBody.UNDEFINED).sign(), b"undefined", empty=list(EmptyBody)) == "Invalid signature"
    assert refusal(signer().sign(), b" ") == "Invalid signature"


@pytest.mark.parametrize("offset", [-300_000, -1, 0, 1, 300_000])
def test_within_the_window(offset):
    assert authenticator(now=NOW + offset).verify(signer().sign(b"{}"), b"{}")


@pytest.mark.parametrize("offset", [-300_001, 300_001, -(10**12), 10**12])
def test_outside_of_the_window(offset):
    assert refusal(signer().sign(b"{}"), b"{}", now=NOW + offset) == "Request expired"


BAD_TIMES = ["-1", "+1", "1e12", "1.5", "abc", "NaN", "Infinity", "0x10", f"{NOW}.0", f" {NOW} 1", "9" * 17, "9" * 100_000, "١٢٣", "²", f"{NOW}\n", f"-{NOW}", f"{NOW}, {NOW}", "0"]  # fmt: skip


@pytest.mark.parametrize("timestamp", BAD_TIMES, ids=range(len(BAD_TIMES)))
def test_a_timestamp_that_is_none_has_expired(timestamp):
    signature = signatures.sign(KEY, "order-service", timestamp, b"{}")
    headers = {"X-Service-ID": "order-service", "X-Timestamp": timestamp, "X-Signature": signature}
    assert refusal(headers) == "Request expired"


@pytest.mark.parametrize("name", ["X-Service-ID", "X-Timestamp", "X-Signature"])
def test_a_header_that_is_missing_or_empty(name):
    headers = signer().sign()
    assert refusal({key: value for key, value in headers.items() if key != name}) == "Missing service authentication"
    assert refusal(headers | {name: ""}) == "Missing service authentication"
    assert refusal({}) == "Missing service authentication"


@pytest.mark.parametrize(
    "signature",
    ["0", "f" * 63, "f" * 65, "f" * 64, "g" * 64, "é" * 64, "０" * 64, "\x00" * 64, " " * 64, "f" * 62 + " f", "f" * 100_000, "0x" + "f" * 62, "\ud800"],
    ids=range(13),
)  # fmt: skip
def test_a_signature_that_is_none_is_an_answer(signature):
    assert refusal(signer().sign() | {"X-Signature": signature}) == "Invalid signature"


def test_every_bit_of_the_signature_counts():
    headers = signer().sign()
    right = int(headers["X-Signature"], 16)
    for bit in range(256):
        assert refusal(headers | {"X-Signature": f"{right ^ (1 << bit):064x}"}) == "Invalid signature"
    assert authenticator().verify(headers | {"X-Signature": headers["X-Signature"].upper()})


def test_doubled_headers_are_refused_whichever():
    pairs = list(signer().sign().items())
    answers = [refusal([*pairs, (name.lower(), value)]) for name, value in pairs]
    assert answers == ["Unknown service", "Request expired", "Invalid signature"]


def test_names_of_headers_have_no_case():
    assert authenticator().verify([(name.upper(), value) for name, value in signer().sign().items()])


def test_a_service_that_is_not_in_the_keyring():
    assert refusal(signer().sign() | {"X-Service-ID": "nobody"}) == "Unknown service"
    assert refusal(signer().sign() | {"X-Service-ID": "order-sérvice\ud800"}) == "Unknown service"


def test_a_key_of_another_service_does_not_sign_for_it():
    assert refusal(signer().sign() | {"X-Service-ID": "other"}) == "Invalid signature"


def test_a_caller_without_keys_is_known_and_signs_nothing():
    assert refusal(signer().sign(), ring=Keyring({"order-service": Caller("order-service", ())})) == "Invalid signature"


def test_a_retiring_key_verifies_until_its_deadline():
    until = datetime.fromtimestamp(NOW / 1000, UTC)
    ring = lambda end: Keyring({"order-service": Caller("order-service", (HmacKey("k", KeyMaterial(KEY), end),))})  # noqa: E731
    assert authenticator(ring=ring(until + timedelta(seconds=1))).verify(signer().sign())
    assert refusal(signer().sign(), ring=ring(until)) == "Invalid signature"


def test_the_principal():
    caller = Caller(
        "order-service", (HmacKey("k1", KeyMaterial(KEY)),), "spiffe://td/ns/shop/sa/order", {"namespace": "shop"}
    )
    found = authenticator(ring=Keyring({"order-service": caller})).verify(signer().sign())
    assert (found.kind, found.subject, found.spiffe_id) == (Kind.SIGNATURE, "order-service", caller.spiffe_id)
    assert found.claims == {"namespace": "shop", "keyID": "k1", "timestamp": NOW}
    assert not found.roles and not found.permissions


junk = st.text(st.characters(codec=None), max_size=80)


@given(
    headers=st.lists(st.tuples(st.sampled_from(["X-Service-ID", "x-timestamp", "X-SIGNATURE", "Other"]), junk)),
    body=st.binary(max_size=40),
)
@example([("X-Service-ID", "order-service"), ("X-Timestamp", str(NOW)), ("X-Signature", "0" * 64)], b"\xff")
def test_whatever_comes_the_answer_is_one_of_four(headers, body):
    assert refusal(headers, body) in {
        "Missing service authentication", "Request expired", "Unknown service", "Invalid signature",
    }  # fmt: skip


def test_the_body_to_work_with_is_the_one_that_was_signed():
    """Node signed 9007199254740992 and null; Python alone would read what was put in their place."""
    headers = signer().sign(b'{"a":9007199254740992,"b":null}')
    request = Received("POST", "http://x/", tuple(headers.items()), b'{"a":9007199254740993,"b":1e999}')
    accepted = asyncio.run(authenticator().authenticate(request))
    assert accepted.body == b'{"a":9007199254740992,"b":null}'


def test_a_signer_never_gives_one_timestamp_twice_and_follows_its_clock():
    times = iter([NOW, NOW, NOW, NOW + 1, NOW + 500, NOW - 3_600_000, NOW - 3_600_000])
    one = ServiceSigner("order-service", Fixed(HmacKey("k", KeyMaterial(KEY))), clock_ms=lambda: next(times))
    made = [int(one.sign()["X-Timestamp"]) - NOW for _ in range(7)]
    assert made == [0, 1, 2, 3, 500, -3_600_000, -3_599_999]


@pytest.mark.parametrize("service_id", ["", " a", "a\n", "é", "a\r\nX: y"])
def test_a_service_id_that_fits_no_header(service_id):
    with pytest.raises(ValueError):
        ServiceSigner(service_id, Fixed(HmacKey("k", KeyMaterial(KEY))))


def test_a_number_that_others_would_read_otherwise_is_not_signed_silently():
    with pytest.raises(UnsignableError):
        signer().sign(b'{"id":9007199254740993}')


def test_short_keys_are_refused():
    with pytest.raises(CredentialError):
        Keyring.of({"a": [b""]})
