"""Signing keys and database users change while requests come in, and none of those fails."""

import threading
from contextlib import contextmanager

import httpx
import pytest

from sdk.python.tests.jwt.tokens import Pair
from sdk.python.tests.volumes import Volume
from services.auth.tests.conftest import signing_files
from services.auth.tests.contract.servers import PASSWORD, Client, bearer, elsewhere, eventually, service
from services.auth.tests.contract.test_sessions import claims


class Traffic:
    """Logs in, refreshes and asks who it is, over and over, in a few threads."""

    def __init__(self, url, threads=3):
        self.answers = []
        self.wrong = []
        self.rounds = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url,)) for _ in range(threads)]

    def _run(self, url):
        with httpx.Client(base_url=url, timeout=30) as http:
            while not self._stop.is_set():
                try:
                    self._round(http)
                except Exception as error:  # noqa: BLE001
                    self.wrong.append(repr(error))
                self.rounds += 1

    def _round(self, http):
        first = self._ask(http, "/login", {"username": "alice", "password": PASSWORD})
        second = self._ask(http, "/refresh", {"refresh_token": first["refresh_token"]})
        for one in (first, second):
            found = http.get("/me", headers=elsewhere() | bearer(one["access_token"]))
            if found.status_code != 200:
                self.wrong.append((found.status_code, found.text))

    def _ask(self, http, path, body):
        found = http.post(path, json=body, headers=elsewhere())
        if found.status_code != 200:
            self.wrong.append((path, found.status_code, found.text))
        return found.json()

    def more(self, rounds):
        reached = self.rounds + rounds
        eventually(lambda: self.rounds >= reached or self.wrong)


@contextmanager
def traffic(url):
    found = Traffic(url)
    for one in found._threads:
        one.start()
    try:
        yield found
    finally:
        found._stop.set()
        for one in found._threads:
            one.join()
    assert found.wrong == []


def test_signing_keys_rotate_under_traffic(served, client):
    with traffic(served.url) as running:
        for _ in range(5):
            old, new = served.pair, Pair("ES256")
            served.signing.swap(signing_files(old, (new, "Prepared")))
            eventually(lambda: len(client.get("/.well-known/jwks.json").json()["keys"]) == 2)
            before = client.login().json()["access_token"]
            assert kid_of(before) == old.kid  # never the one that verifiers may not know yet
            served.signing.swap(signing_files(new, (old, "Retiring")))
            eventually(lambda: kid_of(client.login().json()["access_token"]) == new.kid)  # noqa: B023
            assert client.me(before).status_code == 200
            served.pair = new
            running.more(6)


def test_keys_that_dont_belong_together_are_not_used(served, client):
    stranger = Pair("ES256")
    files = signing_files(stranger)
    good = signing_files(served.pair)
    served.signing.swap({"keys.json": files["keys.json"], "jwks.json": good["jwks.json"]})
    pattern = 'auth_credentials_failing_seconds{credential="signing"} 0.0'
    eventually(lambda: pattern not in client.get("/metrics").text)
    assert claims_header(client.login().json()["access_token"])["kid"] == served.pair.kid
    served.signing.swap(good)
    eventually(lambda: pattern in client.get("/metrics").text)


def test_database_users_are_replaced_under_traffic(bed, served):
    with traffic(served.url) as running:
        for _ in range(5):
            old, served.user = served.user, bed.new_user()
            served.login.swap(served.user)
            eventually(lambda: bed.sessions_of(old) == 0 and bed.sessions_of(served.user) > 0)  # noqa: B023
            bed.drop_user(old)
            running.more(6)


def test_a_user_that_is_dropped_too_early_is_replaced_in_the_same_request(bed, served, client):
    assert client.login().status_code == 200
    old, served.user = served.user, bed.new_user()
    bed.drop_user(old)
    served.login.swap(served.user)
    assert client.login().status_code == 200


@pytest.fixture
def alone(bed, tmp_path, redis_server, signing):
    files = bed.new_user()
    login = Volume(tmp_path / "database", files)
    with service(bed, signing, login, redis_server) as url:
        yield bed, login, files, Client(url)


def test_while_postgresql_refuses_the_answer_is_503_and_afterwards_all_is_well(alone):
    bed, login, files, client = alone
    assert client.get("/readyz").status_code == 200
    bed.drop_user(files)
    found = client.login()
    assert (found.status_code, found.json()) == (503, {"error": "Service unavailable"})
    assert found.headers["retry-after"] == "1"
    eventually(lambda: client.get("/readyz").status_code == 503)
    assert client.get("/healthz").status_code == 200
    assert client.get("/.well-known/jwks.json").status_code == 200
    login.swap(bed.new_user())
    eventually(lambda: client.get("/readyz").status_code == 200)
    assert client.login().status_code == 200


def claims_header(token):
    return claims("." + token.split(".")[0] + ".")


def kid_of(token):
    return claims_header(token)["kid"]
