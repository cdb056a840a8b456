"""Login, refresh and logout, as a client sees them."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import pytest
import redis

from auth_service.domain import refresh
from auth_service.domain.passwords import Cost
from services.auth.tests.contract.servers import PASSWORD, SAME_ORIGIN, bearer, elsewhere, eventually

REFUSED = (401, {"error": "Invalid refresh token"})


def answer(response):
    return response.status_code, response.json()


def claims(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


@pytest.fixture
def tokens(client):
    found = client.login()
    assert found.status_code == 200, found.text
    return found.json()


def test_a_login_gives_tokens_of_fifteen_minutes_and_seven_days(bed, client, tokens):
    assert (tokens["token_type"], tokens["expires_in"], tokens["refresh_expires_in"]) == ("Bearer", 900, 604800)
    found = claims(tokens["access_token"])
    assert (found["iss"], found["aud"], found["name"]) == ("auth-service", "microservices", "alice")
    assert (found["roles"], found["permissions"]) == (["customer"], ["orders:create", "orders:read"])
    assert found["exp"] - found["iat"] == 900
    assert found["jti"]
    assert found["sid"]
    me = client.me(tokens["access_token"]).json()
    assert me == {
        "id": found["sub"],
        "username": "alice",
        "roles": ["customer"],
        "permissions": ["orders:create", "orders:read"],
    }


def test_names_that_differ_in_case_are_one(client):
    assert client.login("ALICE").status_code == 200


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("nobody", PASSWORD), ("off", PASSWORD)])
def test_what_is_wrong_is_not_said(bed, client, name, password):
    with bed.connect() as connection:
        connection.execute("DELETE FROM users WHERE name = 'off'")
    bed.add("off")
    with bed.connect() as connection:
        connection.execute("UPDATE users SET disabled = true WHERE name = 'off'")
    assert answer(client.login(name, password)) == (401, {"error": "Invalid username or password"})


def test_a_hash_of_another_cost_is_made_anew(bed, client):
    bed.add("old", cost=Cost(memory=128, passes=1))
    assert client.login("old").status_code == 200
    with bed.connect() as connection:
        (stored,) = connection.execute("SELECT password_hash FROM users WHERE name = 'old'").fetchone()
    assert "$m=64,t=1,p=1$" in stored
    assert client.login("old").status_code == 200


def test_logins_at_the_same_time_make_a_hash_anew_and_all_succeed(bed, client):
    bed.add("often", cost=Cost(memory=128, passes=1))
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.login("often").status_code, range(8)))
    assert answers == [200] * 8


def test_no_token_is_stored(bed, tokens):
    with bed.connect() as connection:
        rows = connection.execute("SELECT hash FROM refresh_tokens").fetchall()
    assert (refresh.hashed(tokens["refresh_token"]),) in rows
    assert tokens["refresh_token"].encode() not in {row[0] for row in rows}


def test_refreshing_rotates(client, tokens):
    second = client.refresh(tokens["refresh_token"]).json()
    third = client.refresh(second["refresh_token"]).json()
    assert len({one["refresh_token"] for one in (tokens, second, third)}) == 3
    assert claims(third["access_token"])["sid"] == claims(tokens["access_token"])["sid"]
    assert client.me(third["access_token"]).status_code == 200


def test_a_second_use_ends_the_session_and_its_access_tokens(client, tokens):
    second = client.refresh(tokens["refresh_token"]).json()
    third = client.refresh(second["refresh_token"]).json()
    assert answer(client.refresh(tokens["refresh_token"])) == REFUSED
    assert answer(client.refresh(third["refresh_token"])) == REFUSED
    assert answer(client.me(third["access_token"])) == (401, {"error": "Token revoked"})
    assert client.login().status_code == 200


def test_a_lost_answer_is_made_up_for_and_the_lost_token_is_dead(client, tokens):
    lost = client.refresh(tokens["refresh_token"]).json()
    again = client.refresh(tokens["refresh_token"])
    assert again.status_code == 200
    assert answer(client.refresh(lost["refresh_token"])) == REFUSED  # two have the token: a thief is one of them
    assert answer(client.refresh(again.json()["refresh_token"])) == REFUSED


def test_after_the_grace_the_answer_is_not_made_up_for(bed, client, tokens):
    client.refresh(tokens["refresh_token"])
    with bed.connect() as connection:
        connection.execute(
            "UPDATE refresh_tokens SET used_at = used_at - %s WHERE hash = %s",
            (refresh.GRACE, refresh.hashed(tokens["refresh_token"])),
        )
    assert answer(client.refresh(tokens["refresh_token"])) == REFUSED


def test_expired_tokens_are_refused_and_end_nothing(bed, client, tokens):
    with bed.connect() as connection:
        connection.execute(
            "UPDATE refresh_tokens SET expires_at = now() WHERE hash = %s", (refresh.hashed(tokens["refresh_token"]),)
        )
    assert answer(client.refresh(tokens["refresh_token"])) == REFUSED
    assert client.me(tokens["access_token"]).status_code == 200


def test_many_uses_at_once_leave_one_token_alive(bed, served, client, tokens):
    def use(_number):
        with httpx.Client(base_url=served.url, timeout=30) as http:
            return http.post("/refresh", json={"refresh_token": tokens["refresh_token"]}, headers=elsewhere())

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(use, range(16)))
    assert {one.status_code for one in found} == {200}
    with bed.connect() as connection:
        (alive,) = connection.execute(
            "SELECT count(*) FROM refresh_tokens WHERE session_id = %s AND used_at IS NULL",
            (claims(tokens["access_token"])["sid"],),
        ).fetchone()
    assert alive == 1


def test_roles_are_those_of_now_and_a_disabled_account_is_out(bed, client):
    account = bed.add("bob", "customer")
    first = client.login("bob").json()
    with bed.connect() as connection:
        connection.execute("INSERT INTO user_roles VALUES (%s, 'admin')", (account,))
    second = client.refresh(first["refresh_token"]).json()
    assert claims(second["access_token"])["roles"] == ["admin", "customer"]
    with bed.connect() as connection:
        connection.execute("UPDATE users SET disabled = true WHERE id = %s", (account,))
    assert answer(client.refresh(second["refresh_token"])) == REFUSED
    assert answer(client.me(second["access_token"])) == (401, {"error": "Token revoked"})


def test_logging_out_ends_this_session_only(client, tokens):
    other = client.login().json()
    assert client.logout(tokens["access_token"]).status_code == 204
    assert answer(client.me(tokens["access_token"])) == (401, {"error": "Token revoked"})
    assert answer(client.refresh(tokens["refresh_token"])) == REFUSED
    assert client.me(other["access_token"]).status_code == 200


def test_logging_out_everywhere_ends_all_of_the_account(bed, client, tokens):
    bed.add("carol")
    others = client.login("carol").json()
    second = client.login().json()
    assert client.logout(tokens["access_token"], all=True).status_code == 204
    for one in (tokens, second):
        assert answer(client.me(one["access_token"])) == (401, {"error": "Token revoked"})
        assert answer(client.refresh(one["refresh_token"])) == REFUSED
    assert client.me(others["access_token"]).status_code == 200


def test_a_session_is_on_the_list_until_its_last_token_has_expired(client, tokens, redis_server):
    client.logout(tokens["access_token"])
    with redis.Redis(unix_socket_path=redis_server.path) as found:
        left = found.pttl(f"serviceidentity:revoked:sid:{claims(tokens['access_token'])['sid']}")
    assert 15 * 60_000 < left <= 16 * 60_000


def test_while_redis_is_away_nobody_gets_in_unchecked(client, tokens, redis_server):
    redis_server.stop()
    try:
        assert answer(client.me(tokens["access_token"])) == (503, {"error": "Token check unavailable"})
        assert answer(client.logout(tokens["access_token"])) == (503, {"error": "Token check unavailable"})
        assert answer(client.login()) == (503, {"error": "Service unavailable"})
        assert client.refresh(tokens["refresh_token"]).status_code == 200
        assert client.get("/readyz").status_code == 200
    finally:
        redis_server.start()
        eventually(lambda: client.login().status_code == 200)  # rate limits leave one that failed alone for a second


def test_sessions_that_are_over_are_forgotten(bed, client, tokens):
    with bed.connect() as connection:
        sid = claims(tokens["access_token"])["sid"]
        connection.execute("UPDATE sessions SET ends_at = now() - %s WHERE id = %s", (timedelta(days=1), sid))
        of_session = "SELECT 1 FROM refresh_tokens WHERE session_id = %s"
    with bed.connect() as connection:
        eventually(lambda: connection.execute(of_session, (sid,)).fetchall() == [])


# Cookies.


def cookies_of(response):
    return {line.split("=")[0]: line for line in response.headers.get_list("set-cookie")}


def test_tokens_in_cookies_are_out_of_reach_of_scripts(client):
    found = client.login(delivery="cookie", headers=SAME_ORIGIN)
    assert found.status_code == 200
    assert found.json()["access_token"] is None
    assert found.json()["refresh_token"] is None
    access, kept = cookies_of(found)["__Host-access"], cookies_of(found)["__Secure-refresh"]
    for line, path in ((access, "Path=/;"), (kept, "Path=/refresh;")):
        assert "HttpOnly" in line
        assert "Secure" in line
        assert "samesite=strict" in line.lower()
        assert path in line + ";"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (SAME_ORIGIN, 204),
        ({"origin": "https://shop.example.org"}, 204),
        ({}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "https://shop.example.org"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_a_cookie_counts_from_this_origin_only(client, tokens, headers, status):
    cookie = {"cookie": f"__Host-access={tokens['access_token']}"}
    assert client.get("/me", cookie).status_code == 200
    assert client.post("/logout", {}, cookie | headers).status_code == status
    kept = {"cookie": f"__Secure-refresh={client.login().json()['refresh_token']}"}
    refreshed = client.post("/refresh", None, kept | headers)
    assert refreshed.status_code == (200 if status == 204 else 403)
    if status == 403:
        assert refreshed.json() == {"error": "Cross-site request refused"}
    assert client.login(delivery="cookie", headers=headers).status_code == (200 if status == 204 else 403)


def test_an_authorization_header_wins_over_the_cookie(client, tokens):
    both = bearer("nonsense") | {"cookie": f"__Host-access={tokens['access_token']}"}
    assert answer(client.get("/me", both)) == (401, {"error": "Invalid token"})
