"""Bearer tokens through an application."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI, Request

from serviceidentity_sdk.jwt import (
    BearerMiddleware,
    Fixed,
    MountedKeys,
    TokenVerifier,
    UnavailableError,
    current_token,
    read_key_set,
)
from serviceidentity_sdk.jwt.exchange import PropagatedToken

from .tokens import ES256, NOW, SECONDS, claims, jwks, token

KEYS = MountedKeys(Fixed(read_key_set(jwks(ES256.published()))))
CHALLENGE = 'Bearer realm="microservices"'


def application(keys=KEYS, revocations=None, **options):
    app = FastAPI()

    @app.get("/who")
    @app.get("/health")
    async def who(request: Request):
        principal = getattr(request.state, "principal", None)
        return {
            "subject": principal and principal.subject,
            "roles": sorted(principal.roles) if principal else [],
            "bound": current_token.get(),
        }

    verifier = TokenVerifier(keys, clock=lambda: NOW, revocations=revocations)
    app.add_middleware(BearerMiddleware, verifier=verifier, **options)
    return app


def get(app, *authorization, path="/who"):
    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://orders") as client:
            return await client.get(path, headers=[("Authorization", value) for value in authorization])

    return asyncio.run(run())


def test_a_good_token():
    text = token()
    for scheme in ("Bearer", "bearer", "BEARER", " Bearer"):
        assert get(application(), f"{scheme} {text}").json() == {
            "subject": "user-1",
            "roles": ["customer"],
            "bound": text,
        }


@pytest.mark.parametrize("authorization", [(), ("Basic dXNlcjpwYXNz",), ("",), ("Token abc",), ("BearerX abc",)])
def test_missing(authorization):
    answer = get(application(), *authorization)
    assert (answer.status_code, answer.json()) == (401, {"error": "Missing authorization header"})
    assert answer.headers["www-authenticate"] == CHALLENGE


@pytest.mark.parametrize(
    "authorization",
    [
        ("Bearer",),
        ("Bearer ",),
        ("Bearer x",),
        ("Bearer a b",),
        (f"Bearer {token()}",) * 2,
        (f"Bearer {token()}, Bearer x",),
        (b"Bearer \xff\xfe",),
        ("Bearer " + "a" * 50_000,),
    ],
    ids=range(8),
)
def test_invalid(authorization):
    answer = get(application(), *authorization)
    assert (answer.status_code, answer.json()) == (401, {"error": "Invalid token"})
    assert (
        answer.headers["www-authenticate"] == f'{CHALLENGE}, error="invalid_token", error_description="Invalid token"'
    )


def test_expired_and_revoked():
    class Revoked:
        async def is_revoked(self, found):
            return True

    for app, text, error in (
        (application(), token(claims(exp=SECONDS)), "Token expired"),
        (application(revocations=Revoked()), token(), "Token revoked"),
    ):
        answer = get(app, f"Bearer {text}")
        assert (answer.status_code, answer.json()) == (401, {"error": error})
        assert answer.headers["www-authenticate"] == f'{CHALLENGE}, error="invalid_token", error_description="{error}"'
        assert answer.headers["cache-control"] == "no-store"


def test_nobody_is_let_in_when_keys_or_revocations_are_away():
    class Away:
        async def keys(self, key_id):
            raise UnavailableError

        async def is_revoked(self, found):
            raise UnavailableError

    for app in (application(Away()), application(revocations=Away())):
        answer = get(app, f"Bearer {token()}")
        assert (answer.status_code, answer.json()) == (503, {"error": "Token check unavailable"})


def test_optional_is_no_token_or_a_good_one():
    app = application(optional=True)
    nobody = {"subject": None, "roles": [], "bound": None}
    assert get(app).json() == get(app, "Basic abc").json() == nobody
    assert get(app, f"Bearer {token()}").json()["subject"] == "user-1"
    assert get(app, f"Bearer {token(claims(exp=SECONDS))}").json() == {"error": "Token expired"}
    assert get(app, "Bearer abc").json() == {"error": "Invalid token"}


def test_exempt_paths_match_exactly():
    app = application(exempt=["/health"])
    assert get(app, path="/health").status_code == 200
    assert get(app, path="/health/").status_code == get(app, path="/health/../who").status_code == 401


@pytest.mark.parametrize("realm", ['a"b', "a\\b", "a\nb", "é"])
def test_a_realm_that_fits_no_header(realm):
    with pytest.raises(ValueError):
        BearerMiddleware(None, TokenVerifier(KEYS), realm=realm)


def test_a_websocket_is_refused_before_it_is_accepted():
    sent = []

    async def run():
        async def send(message):
            sent.append(message)

        await application()({"type": "websocket", "path": "/ws", "headers": []}, None, send)

    asyncio.run(run())
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "Missing authorization header"}]


def propagated(urls, text=None, **headers):
    """Serve one request whose handler calls `urls`; return the Authorization that each got."""
    seen = []

    async def next_service(request):
        seen.append(request.headers.get("authorization"))
        if request.url.path == "/away":
            return httpx.Response(302, headers={"location": "https://evil.example/x"})
        return httpx.Response(200)

    async def run():
        auth = PropagatedToken(hosts=["payment.shop.svc"])
        client = httpx.AsyncClient(transport=httpx.MockTransport(next_service), auth=auth, follow_redirects=True)

        async def app(scope, receive, send):
            for url in urls:
                await client.get(url, headers=headers)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        checked = BearerMiddleware(app, TokenVerifier(KEYS, clock=lambda: NOW), optional=True)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(checked), base_url="http://orders") as caller:
            answer = await caller.get("/", headers={"Authorization": f"Bearer {text}"} if text else {})
            assert answer.status_code == 200
        await client.get(urls[0])  # outside of any request

    asyncio.run(run())
    return seen


def test_the_callers_token_goes_to_the_next_service_and_nowhere_else():
    text = token()
    urls = [
        "https://payment.shop.svc/pay",
        "https://PAYMENT.shop.svc:8443/",
        "https://evil.example/",
        "https://payment.shop.svc.evil.example/",
        "https://payment.shop.svc/away",
    ]
    assert propagated(urls, text) == [f"Bearer {text}", f"Bearer {text}", None, None, f"Bearer {text}", None, None]
    assert propagated(urls[:1]) == [None, None]
    assert propagated(urls[:1], text, Authorization="Basic own") == ["Basic own", None]


def test_requests_at_once_do_not_see_each_others_token():
    texts = [token(claims(sub=f"user-{number}")) for number in range(20)]

    async def app(scope, receive, send):
        before = current_token.get()
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"{before == current_token.get()} {before}".encode()})

    async def run():
        checked = BearerMiddleware(app, TokenVerifier(KEYS, clock=lambda: NOW))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(checked), base_url="http://orders") as client:
            return await asyncio.gather(
                *(client.get("/", headers={"Authorization": f"Bearer {text}"}) for text in texts)
            )

    assert [answer.text for answer in asyncio.run(run())] == [f"True {text}" for text in texts]
