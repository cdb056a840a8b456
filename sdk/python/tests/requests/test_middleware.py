"""Signed requests through an application, with httpx as the client."""

import asyncio
import json

import httpx
import pytest
from fastapi import FastAPI, Request

from serviceidentity_sdk.credentials import KeyMaterial
from serviceidentity_sdk.requests import (
    Fixed,
    HmacKey,
    Keyring,
    MemoryReplayCache,
    ReplayUnavailableError,
    ServiceAuthenticator,
    ServiceSigner,
    SignedRequestMiddleware,
)
from serviceidentity_sdk.requests.client import SignedRequests

KEY = b"k" * 32
NOW = 1_800_000_000_000


def application(replay=None, *, now=NOW, **options):
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request):
        return {
            "from": request.state.principal.subject,
            "body": (await request.body()).decode(),
            "length": request.headers["content-length"],
        }

    @app.get("/who")
    async def who(request: Request):
        return {"from": request.state.principal.subject, "body": (await request.body()).decode()}

    @app.get("/health")
    async def health(request: Request):
        return {"principal": getattr(request.state, "principal", None)}

    ring = Fixed(Keyring.of({"order-service": [KEY]}))
    app.add_middleware(
        SignedRequestMiddleware,
        authenticator=ServiceAuthenticator(ring, replay=replay, clock_ms=lambda: now),
        exempt=["/health"],
        **options,
    )
    return app


def call(app, *requests, auth=None):
    async def run():
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://payment", auth=auth
        ) as client:
            return [await client.request(method, path, **rest) for method, path, rest in requests]

    return asyncio.run(run())


def signer(now=NOW):
    return ServiceSigner("order-service", Fixed(HmacKey("k", KeyMaterial(KEY))), clock_ms=lambda: now)


def test_a_signed_request_comes_through_with_its_caller_and_body():
    post, get = call(
        application(),
        ("POST", "/echo", {"json": {"b": 1.0, "a": "é"}}),
        ("GET", "/who", {}),
        auth=SignedRequests(signer()),
    )
    assert post.json() == {
        "from": "order-service",
        "body": '{"b":1,"a":"é"}',
        "length": str(len('{"b":1,"a":"é"}'.encode())),
    }
    assert get.json() == {"from": "order-service", "body": ""}


def test_the_answers():
    body = b'{"a":1}'
    headers = signer().sign(body)
    changes = {
        "Missing service authentication": {"X-Signature": ""},
        "Request expired": {"X-Timestamp": "1"},
        "Unknown service": {"X-Service-ID": "nobody"},
        "Invalid signature": {"X-Signature": "abc"},
    }
    for error, change in changes.items():
        (answer,) = call(application(), ("POST", "/echo", {"content": body, "headers": headers | change}))
        assert (answer.status_code, answer.json()) == (401, {"error": error})
        assert answer.headers["www-authenticate"] == 'ServiceSignature realm="services"'
    (answer,) = call(application(), ("POST", "/echo", {"content": b'{"a":2}', "headers": headers}))
    assert answer.json() == {"error": "Invalid signature"}


def test_headers_of_any_bytes_are_an_answer():
    headers = {"X-Service-ID": b"\xe9\xff", "X-Timestamp": b"\xb2", "X-Signature": b"\xff" * 64}
    (answer,) = call(application(), ("POST", "/echo", {"content": b"\xff", "headers": headers}))
    assert (answer.status_code, answer.json()) == (401, {"error": "Request expired"})


def test_an_exempt_path_needs_no_signature_and_gets_no_caller():
    assert call(application(), ("GET", "/health", {}))[0].json() == {"principal": None}


def test_a_body_is_read_to_its_limit():
    exact, longer = json.dumps("x" * 98).encode(), json.dumps("x" * 99).encode()
    answers = call(
        application(largest_body=100),
        *(("POST", "/echo", {"content": body}) for body in (exact, longer)),
        auth=SignedRequests(signer()),
    )
    assert [answer.status_code for answer in answers] == [200, 413]


def test_a_request_is_accepted_once():
    app = application(MemoryReplayCache())
    once = {"content": b'{"a":1}', "headers": signer().sign(b'{"a":1}')}
    again = {
        "content": b'{ "a": 1 }',
        "headers": once["headers"] | {"X-Signature": once["headers"]["X-Signature"].upper()},
    }
    answers = call(app, ("POST", "/echo", once), ("POST", "/echo", once), ("POST", "/echo", again))
    assert [answer.status_code for answer in answers] == [200, 401, 401]
    assert answers[1].json() == answers[2].json() == {"error": "Request replayed"}


def test_what_was_refused_is_not_remembered():
    app = application(MemoryReplayCache())
    headers = signer().sign(b"{}")
    bad, good = call(
        app,
        ("POST", "/echo", {"content": b'{"x":1}', "headers": headers}),
        ("POST", "/echo", {"content": b"{}", "headers": headers}),
    )
    assert (bad.status_code, good.status_code) == (401, 200)


def test_replicas_that_sign_the_same_in_one_millisecond_both_come_through():
    app = application(MemoryReplayCache())
    answers = [call(app, ("GET", "/who", {}), auth=SignedRequests(signer()))[0] for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]


def test_many_equal_requests_at_once_all_come_through():
    app, auth = application(MemoryReplayCache()), SignedRequests(signer())
    assert {answer.status_code for answer in call(app, *[("GET", "/who", {})] * 50, auth=auth)} == {200}


def test_a_cache_that_does_not_answer_lets_nothing_in():
    class Away:
        async def first_use(self, key, lifetime_ms):
            raise ReplayUnavailableError

    (answer,) = call(application(Away()), ("GET", "/who", {}), auth=SignedRequests(signer()))
    assert (answer.status_code, answer.json()) == (503, {"error": "Replay check unavailable"})


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
def test_a_websocket_is_refused_before_it_is_accepted(extensions):
    sent = []

    async def run():
        async def send(message):
            sent.append(message)

        scope = {"type": "websocket", "path": "/ws", "headers": [], "scheme": "ws", "extensions": extensions}
        await application()(scope, None, send)

    asyncio.run(run())
    assert sent[0]["type"] == ("websocket.http.response.start" if extensions else "websocket.close")
    assert sent[0].get("status", 401) == 401


def test_who_hangs_up_before_the_end_of_the_body_gets_no_answer():
    async def run():
        sent = []
        messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

        async def receive():
            return next(messages)

        async def send(message):
            sent.append(message)

        await application()({"type": "http", "path": "/echo", "method": "POST", "headers": []}, receive, send)
        return sent

    assert asyncio.run(run()) == []


def test_a_body_in_chunks_arrives_whole():
    async def chunks():
        for part in (b'{"a"', b":", b"1}"):
            yield part

    (answer,) = call(application(), ("POST", "/echo", {"content": chunks(), "headers": signer().sign(b'{"a":1}')}))
    assert answer.json() == {"from": "order-service", "body": '{"a":1}', "length": "7"}
