"""RFC 8693: a narrower token in exchange for the caller's."""

import asyncio
from urllib.parse import parse_qs

import httpx
import pytest

from serviceidentity_sdk.jwt import ExchangeError, current_token
from serviceidentity_sdk.jwt.exchange import ExchangedToken, TokenExchange

GOOD = {
    "access_token": "narrow-1",
    "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    "token_type": "Bearer",
    "expires_in": 60,
}


class Endpoint:
    def __init__(self, status=200, **answer):
        self.status, self.answer, self.forms, self.time = status, answer or GOOD, [], 0.0

    async def __call__(self, request):
        self.forms.append({name: values[0] for name, values in parse_qs(request.content.decode()).items()})
        await asyncio.sleep(0)
        return httpx.Response(self.status, json=self.answer)

    def exchange(self, **options):
        client = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return TokenExchange("https://auth/token", client, monotonic=lambda: self.time, **options)


def test_what_is_asked():
    endpoint = Endpoint()
    assert (
        asyncio.run(endpoint.exchange().exchange("wide", audience="payment-service", scope=["b:x", "a:y"]))
        == "narrow-1"
    )
    assert endpoint.forms == [{
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "wide",
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "audience": "payment-service",
        "scope": "a:y b:x",
    }]  # fmt: skip


def test_a_token_is_used_again_while_it_lasts_for_the_same_caller_audience_and_scope():
    endpoint = Endpoint()

    async def run():
        exchange = endpoint.exchange(margin=10)
        await asyncio.gather(*(exchange.exchange("wide", audience="p", scope=["a"]) for _ in range(20)))
        assert len(endpoint.forms) == 1
        for token, audience, scope in (("other", "p", ["a"]), ("wide", "q", ["a"]), ("wide", "p", ["b"])):
            await exchange.exchange(token, audience=audience, scope=scope)
        assert len(endpoint.forms) == 4
        endpoint.time = 49
        await exchange.exchange("wide", audience="p", scope=["a"])
        assert len(endpoint.forms) == 4
        endpoint.time = 50
        await exchange.exchange("wide", audience="p", scope=["a"])
        assert len(endpoint.forms) == 5

    asyncio.run(run())


@pytest.mark.parametrize("lasts", [None, "60", True, -1, 0, 5, 10])
def test_a_token_that_does_not_say_how_long_it_lasts_is_used_once(lasts):
    endpoint = Endpoint(**(GOOD | {"expires_in": lasts}))

    async def run():
        exchange = endpoint.exchange(margin=10)
        for _ in range(2):
            await exchange.exchange("wide", audience="p")

    asyncio.run(run())
    assert len(endpoint.forms) == 2


def test_the_store_is_bounded():
    endpoint = Endpoint()

    async def run():
        exchange = endpoint.exchange(most=10)
        for number in range(50):
            await exchange.exchange(f"wide-{number}", audience="p")
        assert len(exchange._kept) == 10 and not exchange._asking

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (400, {"error": "invalid_target", "error_description": "secret-detail"}, "invalid_target"),
        (400, {"error": "secret-detail"}, None),
        (500, {"access_token": "secret-detail", "token_type": "Bearer"}, None),
        (200, {"access_token": "secret-detail", "token_type": "DPoP"}, None),
        (200, {"access_token": "", "token_type": "Bearer"}, None),
        (200, {"access_token": 5, "token_type": "Bearer"}, None),
        (200, {"a": "secret-detail"}, None),
    ],
)
def test_a_refusal_names_its_code_and_quotes_nothing(status, answer, code):
    with pytest.raises(ExchangeError) as caught:
        asyncio.run(Endpoint(status, **answer).exchange().exchange("wide", audience="p"))
    assert caught.value.code == code
    assert "secret-detail" not in str(caught.value) and "wide" not in str(caught.value)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, text="[]"),
        httpx.Response(302, headers={"location": "/"}),
        httpx.ConnectError("x"),
    ],
    ids=range(4),
)
def test_an_endpoint_that_does_not_answer_as_it_should(response):
    def answer(request):
        if isinstance(response, Exception):
            raise response
        return response

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    with pytest.raises(ExchangeError):
        asyncio.run(TokenExchange("https://auth/token", client).exchange("wide", audience="p"))


def test_the_narrower_token_is_what_the_next_service_gets():
    endpoint, seen = Endpoint(), []

    async def next_service(request):
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200)

    async def run():
        auth = ExchangedToken(
            endpoint.exchange(), hosts=["payment"], audience="payment-service", scope=["payments:create"]
        )
        async with httpx.AsyncClient(transport=httpx.MockTransport(next_service), auth=auth) as client:
            await client.get("https://payment/")
            bound = current_token.set("wide")
            await client.get("https://payment/")
            await client.get("https://evil/")
            current_token.reset(bound)

    asyncio.run(run())
    assert seen == [None, "Bearer narrow-1", None]
    with pytest.raises(RuntimeError):
        httpx.Client(auth=ExchangedToken(endpoint.exchange(), hosts=["payment"], audience="p")).get("https://payment/")
