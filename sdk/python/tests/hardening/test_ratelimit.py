"""Limits as a client of the service sees them, and who counts as one client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serviceidentity_sdk.hardening import (
    API,
    LOGIN,
    AwayError,
    Limit,
    MemoryCounts,
    RateLimit,
    by_address,
    by_principal,
)
from serviceidentity_sdk.principal import Kind, Principal, attach


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def app_of(clock, *limits, **options):
    async def answer(request):
        if request.query_params.get("raise"):
            raise RuntimeError("a fault of the service")
        return JSONResponse({}, int(request.query_params.get("status", "200")))

    counts = MemoryCounts(clock)
    return Starlette(
        routes=[Route("/login", answer, methods=["GET", "POST"]), Route("/health", answer), Route("/", answer)],
        middleware=[Middleware(RateLimit, counts=counts, limit=limit, **options) for limit in limits],
    )


def client_of(app):
    return TestClient(app, raise_server_exceptions=False)


def test_a_hundred_requests_in_a_quarter_of_an_hour(clock):
    client = client_of(app_of(clock, API))
    first = client.get("/")
    assert first.headers["ratelimit-policy"] == '"api";q=100;w=900'
    assert first.headers["ratelimit"] == '"api";r=99;t=900'
    clock.now += 300
    for _ in range(99):
        last = client.get("/")
        assert last.status_code == 200
    assert last.headers["ratelimit"] == '"api";r=0;t=600'
    clock.now += 0.5
    refused = client.get("/")
    assert (refused.status_code, refused.json()) == (429, {"error": "Too many requests", "retryAfter": 600})
    assert refused.headers["retry-after"] == "600"
    assert refused.headers["ratelimit"] == '"api";r=0;t=600'
    clock.now += 599.5
    assert client.get("/").status_code == 200  # that of the first has come back
    assert client.get("/").status_code == 429


def login(client, status=200):
    return client.post(f"/login?status={status}")


def test_five_failed_logins_an_hour_and_successes_do_not_count(clock):
    client = client_of(app_of(clock, LOGIN, paths=["/login"], methods=["POST"]))
    for _ in range(20):
        assert login(client).headers["ratelimit"].startswith('"login";r=5;')
    for left in (4, 3, 2, 1, 0):
        assert login(client, 401).headers["ratelimit"].startswith(f'"login";r={left};')
        clock.now += 60
    assert login(client).status_code == 429  # the right password comes too late, or attempts could be read off it
    assert client.get("/login").status_code == 200
    assert client.get("/").status_code == 200
    clock.now += 3600 - 5 * 60
    assert login(client).status_code == 200


@pytest.mark.parametrize(
    ("status", "counts"), [(200, False), (302, False), (400, True), (403, True), (500, False), (503, False)]
)
def test_which_answers_are_failed_logins(clock, status, counts):
    client = client_of(app_of(clock, Limit("l", 1, 60, failures_only=True)))
    login(client, status)
    assert login(client).status_code == (429 if counts else 200)


def test_a_login_that_ended_without_an_answer_stays_counted(clock):
    client = client_of(app_of(clock, Limit("l", 1, 60, failures_only=True)))
    assert client.post("/login?raise=1").status_code == 500
    assert login(client).status_code == 429


def test_two_limits_show_side_by_side_and_some_paths_have_none(clock):
    client = client_of(app_of(clock, API, Limit("burst", 10, 1), exempt=["/health"]))
    assert set(client.get("/").headers.get_list("ratelimit-policy")) == {'"api";q=100;w=900', '"burst";q=10;w=1'}
    assert "ratelimit" not in client.get("/health").headers


def test_without_redis_the_answer_says_when_to_come_again(clock):
    class NoRedis:
        async def take(self, limit, client, ticket):
            raise AwayError

        give_back = take

    app = Starlette(middleware=[Middleware(RateLimit, counts=NoRedis(), limit=LOGIN)])
    refused = client_of(app).post("/login")
    assert (refused.status_code, refused.json()) == (503, {"error": "Service unavailable"})
    assert refused.headers["retry-after"] == "5"


def scope(peer="10.0.0.1", *forwarded):
    headers = [(b"x-forwarded-for", one.encode()) for one in forwarded]
    return {"type": "http", "headers": headers, "client": None if peer is None else (peer, 1)}


@pytest.mark.parametrize(
    ("hops", "given", "expected"),
    [
        (0, scope("192.0.2.1", "203.0.113.9"), "192.0.2.1"),
        (1, scope("10.0.0.1", "203.0.113.9"), "203.0.113.9"),
        (1, scope("10.0.0.1", "1.1.1.1, 2.2.2.2, 203.0.113.9"), "203.0.113.9"),
        (2, scope("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2"), "203.0.113.9"),
        (2, scope("10.0.0.1", "1.1.1.1", "203.0.113.9", "10.0.0.2"), "203.0.113.9"),
        # fewer hops than there should be: the nearest that is known
        (2, scope("10.0.0.1", "203.0.113.9"), "203.0.113.9"),
        (1, scope("192.0.2.1"), "192.0.2.1"),
        # what is no address
        (1, scope("10.0.0.1", "unknown"), "10.0.0.1"),
        (1, scope("10.0.0.1", ""), "10.0.0.1"),
        (1, scope("10.0.0.1", "203.0.113.9:4711"), "203.0.113.9"),
        (1, scope("10.0.0.1", "[2001:db8:1:2:3::4]:4711"), "2001:db8:1:2::/64"),
        (0, scope("2001:db8:1:2::1"), "2001:db8:1:2::/64"),
        (0, scope("2001:db8:1:2:ffff::9"), "2001:db8:1:2::/64"),
        (0, scope("fe80::1%eth0"), "fe80::/64"),
        (0, scope("::ffff:192.0.2.1"), "192.0.2.1"),
        (0, scope(None), "unknown"),
        (0, scope("testclient"), "unknown"),
    ],
)
def test_who_the_client_is(hops, given, expected):
    assert by_address(hops)(given) == expected


@given(
    st.integers(0, 3), st.lists(st.sampled_from(["1.2.3.4", "x", "", "2001:db8::1", "9.9.9.9, 8.8.8.8"]), max_size=4)
)
def test_what_a_client_makes_up_changes_nothing(hops, made_up):
    """Behind `hops` proxies, each of which appends the address it was called from."""
    appended = ["203.0.113.9", "10.0.0.3", "10.0.0.2"][:hops]
    peer = "10.0.0.1" if hops else "203.0.113.9"
    assert by_address(hops)(scope(peer, *made_up, *appended)) == "203.0.113.9"


def test_a_negative_number_of_proxies_is_an_error():
    with pytest.raises(ValueError, match="negative"):
        by_address(-1)


def test_callers_that_are_known_are_told_apart_by_their_name():
    known = scope("192.0.2.1")
    attach(known, Principal(Kind.TOKEN, "ada"))
    assert by_principal()(known) == "token:ada"
    assert by_principal()(scope("192.0.2.1")) == "192.0.2.1"
