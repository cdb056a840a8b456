"""What stands before the routes: limits, validation, headers, and what is said about faults."""

import asyncio
import json

import pytest
from redis.asyncio import Redis

from serviceidentity_sdk.hardening import API
from serviceidentity_sdk.hardening.redis import RedisCounts
from services.auth.tests.contract.servers import PASSWORD, Client, bearer, elsewhere


def test_five_failed_logins_of_an_account_from_an_address(client):
    here, there = elsewhere(), elsewhere()
    for _ in range(5):
        assert client.login("alice", "wrong", headers=here).status_code == 401
    refused = client.login("Alice", PASSWORD, headers=here)
    assert refused.status_code == 429
    assert refused.json()["error"] == "Too many requests"
    assert int(refused.headers["retry-after"]) > 3000
    assert client.login("alice", PASSWORD, headers=there).status_code == 200
    assert client.login("nobody", PASSWORD, headers=here).status_code == 401


def test_successes_are_not_counted(client):
    here = elsewhere()
    assert [client.login(headers=here).status_code for _ in range(8)] == [200] * 8


def test_a_hundred_requests_from_an_address(client):
    here = elsewhere()
    found = [client.get("/me", here).status_code for _ in range(101)]
    assert found == [401] * 100 + [429]
    for path in ("/healthz", "/readyz", "/metrics", "/.well-known/jwks.json", "/openapi.json"):
        assert client.get(path, here).status_code == 200


def test_another_service_that_counts_in_the_same_redis_uses_up_nothing(client, redis_server):
    here = elsewhere()

    async def use_up():
        async with Redis(unix_socket_path=redis_server.path) as redis:
            counts = RedisCounts(redis, timeout=5)
            return [(await counts.take(API, here["x-forwarded-for"], str(n))).allowed for n in range(101)]

    assert asyncio.run(use_up()) == [True] * 100 + [False]
    assert client.get("/me", here).status_code == 401


def test_all_that_is_wrong_is_said_at_once_without_what_was_sent(client):
    found = client.post("/login", {"username": "a b", "password": "", "delivery": "post"})
    assert found.status_code == 400
    assert {one["field"] for one in found.json()["details"]} == {"username", "password", "delivery"}
    secret = client.post("/login", {"username": 1, "password": {"hidden": "s3cret"}})
    assert secret.status_code == 400
    assert "s3cret" not in secret.text


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b'"\\ud800"', b'{"username":"a\\u0000","password":"x"}']
)
def test_bodies_that_are_none(client, content):
    found = client.http.post("/login", content=content, headers=elsewhere() | {"content-type": "application/json"})
    assert found.status_code == 400
    assert "error" in found.json()


def test_a_password_that_is_no_text(client):
    content = b'{"username":"alice","password":"\\ud800"}'
    found = client.http.post("/login", content=content, headers=elsewhere() | {"content-type": "application/json"})
    assert found.status_code == 400


def test_a_number_is_no_answer_to_yes_or_no(client):
    token = client.login().json()["access_token"]
    assert client.logout(token, all=1).status_code == 400
    assert client.me(token).status_code == 200


def test_a_large_body_is_refused_before_it_is_read(client):
    found = client.post("/login", {"username": "a", "password": "x" * 20_000})
    assert (found.status_code, found.json()) == (413, {"error": "Request body too large"})


def test_each_answer_has_security_headers(client):
    for found in (client.get("/healthz"), client.get("/me"), client.get("/nowhere"), client.login("x", "y")):
        assert found.headers["x-content-type-options"] == "nosniff"
        assert "max-age=31536000" in found.headers["strict-transport-security"]
        assert found.headers["cache-control"] == "no-store"
    assert client.get("/.well-known/jwks.json").headers["cache-control"] == "public, max-age=300"


def test_without_a_token_there_is_nothing_to_see(client):
    for path in ("/me", "/nowhere", "/login/", "/docs"):
        assert (client.get(path).status_code, client.get(path).json()) == (
            401,
            {"error": "Missing authorization header"},
        )
    token = client.login().json()["access_token"]
    assert client.get("/nowhere", bearer(token)).json() == {"error": "Not Found"}


def test_the_key_set_is_the_published_one(served, client):
    found = client.get("/.well-known/jwks.json").json()
    assert found == json.loads((served.signing.path / "jwks.json").read_text())
    assert "d" not in found["keys"][0]


def test_metrics_count_and_name_nobody(client):
    client.login("alice", "wrong")
    client.get("/alice-was-here")
    found = client.get("/metrics")
    assert found.headers["content-type"].startswith("text/plain")
    assert 'auth_logins_total{result="refused"}' in found.text
    assert 'auth_request_seconds_count{route="/login",status="401"}' in found.text
    assert 'auth_credentials_failing_seconds{credential="database"} 0.0' in found.text
    assert "alice" not in found.text


def test_a_fault_is_answered_without_a_word_about_it(served, client, monkeypatch, caplog):
    monkeypatch.setattr("auth_service.http.api.KeySetResponse", lambda **_found: 1 / 0)
    found = Client(served.url).get("/.well-known/jwks.json")
    assert (found.status_code, found.json()) == (500, {"error": "Internal server error"})
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "division" not in caplog.text
