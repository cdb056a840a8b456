"""What Vault and a database promise about leased credentials, and what the operator rests on each promise.

No code of the operator runs here: when one of these fails with a newer server, the design is to be looked at.
"""

import http.client
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.contract.vault_answers import Answer, ask, eventually
from tests.controlplane import OpenBao, Postgres
from tests.controlplane.databases import TABLE, add_role, add_static_role, enable_database, leases

pytestmark = pytest.mark.contract

POLICY = """
path "auth/token/create-orphan" { capabilities = ["update"] }
path "database/creds/*" { capabilities = ["read"] }
path "database/static-creds/*" { capabilities = ["read"] }
path "pki/issue/leased" { capabilities = ["update"] }
"""
WITHOUT_LEASE_TOKENS = 'path "database/creds/*" { capabilities = ["read"] }'


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[OpenBao]:
    """OpenBao with the roles `app` (an hour, at most two), `short` (3 s, at most 6 s) and the static `batch`."""
    server = OpenBao(tmp_path_factory.mktemp("bao"))
    server.start()
    try:
        enable_database(server, postgres)
        add_role(server, "app", "1h", "2h")
        add_role(server, "short", "3s", "6s")
        server.request("PUT", "sys/policies/acl/operator", {"policy": POLICY})
        server.request("PUT", "sys/policies/acl/reader", {"policy": WITHOUT_LEASE_TOKENS})
        yield server
    finally:
        server.stop()


@dataclass
class Leased:
    """Credentials read with a lease token of their own."""

    bao: OpenBao
    token: str
    answer: Answer

    @property
    def id(self) -> str:
        return str(self.answer.body["lease_id"])

    @property
    def user(self) -> str:
        return str(self.answer.data["username"])

    @property
    def password(self) -> str:
        return str(self.answer.data["password"])

    def ask(self, method: str, path: str, **body: Any) -> Answer:
        return ask(self.bao, self.token, method, path, **body)

    def renew(self, **body: Any) -> Answer:
        return self.ask("PUT", "sys/leases/renew", lease_id=self.id, **body)

    def renew_token(self, **body: Any) -> Answer:
        return self.ask("POST", "auth/token/renew-self", **body)

    def look_up(self) -> Answer:
        return self.ask("PUT", "sys/leases/lookup", lease_id=self.id)

    def revoke(self) -> Answer:
        return self.ask("POST", "auth/token/revoke-self")


def login(bao: OpenBao, policy: str = "operator", **options: Any) -> str:
    """Return a shared login: a token that is not root's, as any auth method would give it."""
    made = bao.request("POST", "auth/token/create", {"policies": [policy], "ttl": "5m", **options})
    return str(made["auth"]["client_token"])


def orphan(bao: OpenBao, parent: str, ttl: str = "60s", **options: Any) -> Answer:
    return ask(bao, parent, "POST", "auth/token/create-orphan", ttl=ttl, **options)


def lease(bao: OpenBao, role: str = "app", ttl: str = "60s") -> Leased:
    token = orphan(bao, login(bao), ttl).auth["client_token"]
    found = Leased(bao, token, ask(bao, token, "GET", f"database/creds/{role}"))
    assert found.answer.status == 200, found.answer
    return found


@pytest.fixture(scope="module", autouse=True)
def static_role(bao: OpenBao, postgres: Postgres) -> Iterator[dict[str, Any]]:
    """The first credentials of a static role; made first of all, for its rotation takes a while."""
    add_static_role(bao, postgres, "nightly", "5s")
    yield ask(bao, login(bao), "GET", "database/static-creds/nightly").data
    bao.request("DELETE", "database/static-roles/nightly")
    with postgres.connect() as connection:
        connection.execute("DROP ROLE nightly")


# The lease token


def test_a_lease_token_needs_one_right_and_takes_over_its_makers_policies(bao: OpenBao) -> None:
    """Rests on it: docs tell people to grant `update` on create-orphan, not sudo, and nothing more is asked for."""
    made = orphan(bao, login(bao)).auth
    assert made["orphan"] and made["renewable"] and made["accessor"]
    assert made["policies"] == ["default", "operator"]
    assert made["lease_duration"] == 60
    refused = orphan(bao, login(bao), policies=["default", "reader"])
    assert (refused.status, refused.error) == (400, "child policies must be subset of parent")
    assert orphan(bao, login(bao), period="60s").status == 400


def test_a_lease_token_must_be_given_a_ttl(bao: OpenBao) -> None:
    """Rests on it: one that was forgotten would live a month, so the ttl is never left out."""
    assert ask(bao, login(bao), "POST", "auth/token/create-orphan").duration == 768 * 3600
    assert orphan(bao, login(bao), "9000h").duration == 768 * 3600


def test_what_cannot_make_a_lease_token_is_told_apart(bao: OpenBao) -> None:
    """Rests on it: 403 and the 400 of batch tokens lead to a login of its own, or the shared login."""
    assert orphan(bao, login(bao, "reader")).status == 403
    refused = orphan(bao, login(bao, type="batch", renewable=False))
    assert (refused.status, refused.error) == (400, "batch tokens cannot create more tokens")


def test_credentials_outlive_the_login_that_made_their_token(bao: OpenBao, postgres: Postgres) -> None:
    """Rests on it: a restart, or a login that ends, takes no credentials away from anybody."""
    shared = login(bao)
    token = orphan(bao, shared).auth["client_token"]
    found = Leased(bao, token, ask(bao, token, "GET", "database/creds/app"))
    assert ask(bao, shared, "POST", "auth/token/revoke-self").status == 200
    assert ask(bao, shared, "GET", "auth/token/lookup-self").status == 403
    assert found.look_up().status == 200
    assert postgres.lets_in(found.user, found.password)
    found.revoke()


def test_the_lease_is_longer_than_its_token_and_ends_with_it(bao: OpenBao, postgres: Postgres) -> None:
    """Rests on it: the token is renewed to the lease's end at least; what is forgotten ends by itself."""
    found = lease(bao, ttl="2s")
    assert found.answer.duration == 3600
    assert found.user in postgres.users()
    assert eventually(lambda: found.user not in postgres.users())
    assert eventually(lambda: found.id not in leases(bao, "database/creds"))
    assert found.renew().status == 403


def test_revoking_the_token_drops_the_user(bao: OpenBao, postgres: Postgres) -> None:
    """Rests on it: a record can be revoked with nothing but its own token; once more does no harm."""
    found = lease(bao)
    with postgres.connect(found.user, found.password) as connection:
        assert found.revoke().status == 200
        assert eventually(lambda: found.user not in postgres.users())
        assert eventually(lambda: found.id not in leases(bao, "database/creds"))
        assert not postgres.lets_in(found.user, found.password)
        # An open connection stays, and is good for nothing: what `overlap` is there for.
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"SELECT * FROM {TABLE}")
    assert found.revoke().status == 403


def test_a_lease_token_may_not_revoke_by_lease_id(bao: OpenBao) -> None:
    """Rests on it: the token is what is revoked; the default policy has no other way."""
    found = lease(bao)
    assert found.ask("PUT", "sys/leases/revoke", lease_id=found.id).status == 403
    found.revoke()


def test_a_token_is_renewed_to_what_is_asked_for(bao: OpenBao) -> None:
    """Rests on it: the token follows its lease. A smaller increment shortens, so it must never be less."""
    found = lease(bao)
    assert found.renew_token(increment=600).duration == 600
    assert found.renew_token().duration == 600
    assert found.renew_token(increment=30).duration == 30
    too_long = found.renew_token(increment=10_000_000)
    assert too_long.duration == pytest.approx(768 * 3600, abs=5)
    assert "exceeded the effective max_ttl" in too_long.body["warnings"][0]
    found.revoke()


# Renewal


def test_renewal_needs_the_default_policy_and_grants_what_is_asked_for(bao: OpenBao) -> None:
    """Rests on it: the increment is what was granted at first; without one it is the role's default."""
    found = lease(bao)
    assert found.renew(increment=5000).duration == 5000
    assert found.renew(increment=30).duration == 30
    assert found.renew().duration == 3600
    assert found.renew().body["lease_id"] == found.id
    assert found.look_up().data["ttl"] > 3500
    found.revoke()


def test_near_the_longest_life_renewal_is_cut_short_and_then_the_lease_is_lost(
    bao: OpenBao, postgres: Postgres
) -> None:
    """Rests on it: "can't be renewed to half of what was granted" is read from lease_duration, not from an error."""
    found = lease(bao, "short")
    start, granted = time.monotonic(), [found.answer.duration]
    while (answer := found.renew()).status == 200:
        assert answer.body["renewable"] is True
        granted.append(answer.duration)
        if answer.duration < 3:
            assert "exceeded the effective max_ttl" in answer.body["warnings"][0]
        assert time.monotonic() - start < 15
        time.sleep(0.5)
    # For what is left of the last second, the lease is there and the engine will not have it.
    assert answer.status == 400
    assert answer.error == "lease not found" or "past the max TTL" in answer.error
    assert eventually(lambda: found.renew().error == "lease not found")
    assert set(granted) <= {3, 2, 1} and granted == sorted(granted, reverse=True) and granted[-1] < 3
    assert eventually(lambda: found.user not in postgres.users())
    found.revoke()


def test_a_lease_that_is_lost_is_told_with_400(bao: OpenBao) -> None:
    """Rests on it: revoked behind our back, it is read anew. A token that ended is told with 403 instead."""
    found = lease(bao)
    bao.request("PUT", "sys/leases/revoke", {"lease_id": found.id, "sync": True})
    renewed, looked_up = found.renew(), found.look_up()
    assert (renewed.status, renewed.error) == (400, "lease not found")
    assert (looked_up.status, looked_up.error) == (400, "invalid lease")
    found.revoke()
    assert (found.renew().status, found.look_up().status) == (403, 403)


def test_a_lease_that_is_not_renewable_says_so_and_is_refused(bao: OpenBao) -> None:
    """Rests on it: `renewable` of the first answer decides; renewing all the same is a 400 of another text."""
    bao.request("POST", "sys/mounts/pki", {"type": "pki"})
    bao.request("POST", "pki/root/generate/internal", {"common_name": "root", "ttl": "10h", "key_type": "ec"})
    role = {"allow_any_name": True, "generate_lease": True, "ttl": "1h", "key_type": "ec"}
    bao.request("POST", "pki/roles/leased", role)
    token = orphan(bao, login(bao)).auth["client_token"]
    found = Leased(bao, token, ask(bao, token, "POST", "pki/issue/leased", common_name="a.example"))
    assert found.answer.body["renewable"] is False
    assert found.answer.duration == pytest.approx(3600, abs=5)
    refused = found.renew()
    assert (refused.status, refused.error) == (400, "lease is not renewable")
    found.revoke()


# Trouble


def test_a_role_that_is_not_there_is_a_400(bao: OpenBao) -> None:
    """Rests on it: the database engine has no 404; the message tells a missing role."""
    for kind in ("creds", "static-creds"):
        refused = ask(bao, login(bao), "GET", f"database/{kind}/none")
        assert (refused.status, refused.error) == (400, "unknown role: none")


def test_while_the_database_is_away_reads_are_500_and_renewals_400(bao: OpenBao, postgres: Postgres) -> None:
    """Rests on it: a 400 of renewal does not mean that the lease is lost; `sys/leases/lookup` knows."""
    found, shared = lease(bao), login(bao)
    postgres.stop()
    try:
        assert ask(bao, shared, "GET", "database/creds/app").status == 500
        renewed = found.renew()
        assert renewed.status == 400 and renewed.error.startswith("failed to renew entry")
        assert found.look_up().status == 200
        assert ask(bao, shared, "GET", "database/static-creds/nightly").status == 200
    finally:
        postgres.start()
    assert found.renew().status == 200
    found.revoke()


def test_revocation_while_the_database_is_away_is_answered_at_once_and_done_later(
    bao: OpenBao, postgres: Postgres
) -> None:
    """Rests on it: once revoke-self is answered the server has it in hand, and the record may go.

    By itself the server tries again after 10 to 30 s; when it was sealed, or started, at once.
    """
    found = lease(bao)
    postgres.stop()
    try:
        assert found.revoke().status == 200
        assert found.revoke().status == 403
        assert found.id in leases(bao, "database/creds")
    finally:
        postgres.start()
    assert found.user in postgres.users()
    bao.seal()
    bao.unseal()
    assert eventually(lambda: found.user not in postgres.users(), 60)
    assert eventually(lambda: found.id not in leases(bao, "database/creds"))


@contextmanager
def slow(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """Let nobody make a user for the block."""
    with postgres.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE pg_authid IN SHARE MODE")
        yield connection


def creations_under_way(connection: psycopg.Connection[Any]) -> int:
    return len(connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall())


def test_a_read_that_nobody_waits_for_any_more_leaves_nothing(bao: OpenBao, postgres: Postgres) -> None:
    """Rests on it: after a timeout or a crash amid a read there is nothing to find but the token."""
    token, before = orphan(bao, login(bao)).auth["client_token"], postgres.users()
    with slow(postgres) as connection:
        asking = http.client.HTTPConnection(urlsplit(bao.address).netloc)
        asking.request("GET", "/v1/database/creds/app", headers={"X-Vault-Token": token})
        assert eventually(lambda: creations_under_way(connection) == 1)
        asking.close()
        assert eventually(lambda: creations_under_way(connection) == 0)
    assert ask(bao, token, "POST", "auth/token/revoke-self").status == 200
    assert eventually(lambda: postgres.users() <= before)
    assert eventually(lambda: not leases(bao, "database/creds"))


def test_a_read_under_way_outlives_the_revocation_of_its_token(bao: OpenBao, postgres: Postgres) -> None:
    """Rests on it: a lease token is never revoked while something is read with it. The lease that comes is nobody's."""
    token = orphan(bao, login(bao)).auth["client_token"]
    with ThreadPoolExecutor(1) as pool:
        with slow(postgres) as connection:
            reading = pool.submit(ask, bao, token, "GET", "database/creds/app")
            assert eventually(lambda: creations_under_way(connection) == 1)
            assert ask(bao, token, "POST", "auth/token/revoke-self").status == 200
        stray = Leased(bao, token, reading.result(30))
    assert stray.renew().status == 403
    assert stray.user in postgres.users()
    assert stray.id in leases(bao, "database/creds")
    bao.request("PUT", "sys/leases/revoke", {"lease_id": stray.id, "sync": True})
    assert stray.user not in postgres.users()


def test_sealed_is_503_whatever_is_asked(bao: OpenBao) -> None:
    """Rests on it: nothing is taken for lost, and no record is dropped, because a server is sealed."""
    found = lease(bao)
    bao.seal()
    try:
        answers = [found.renew(), found.look_up(), found.renew_token(), found.revoke(), orphan(bao, found.token)]
        answers += [found.ask("GET", path) for path in ("database/creds/app", "sys/health", "auth/token/lookup-self")]
        assert {answer.status for answer in answers} == {503}
    finally:
        bao.unseal()
    assert found.renew().status == 200
    found.revoke()


def test_static_credentials_have_no_lease_and_change_after_their_period(
    bao: OpenBao, postgres: Postgres, static_role: dict[str, Any]
) -> None:
    """Rests on it: a refresh at the end of `ttl` may come too early; it is asked again until the password is new.

    The server looks every five seconds: `ttl` stays at 0 meanwhile, and the old password is still the good one.
    """
    assert static_role["username"] == "nightly"
    assert (static_role["rotation_period"], static_role["ttl"] <= 5) == (5, True)
    shared = login(bao)
    read = ask(bao, shared, "GET", "database/static-creds/nightly")
    assert (read.body["lease_id"], read.body["renewable"], read.duration) == ("", False, 0)

    def now() -> dict[str, Any]:
        return ask(bao, shared, "GET", "database/static-creds/nightly").data

    assert eventually(lambda: now()["password"] != static_role["password"], 30)
    assert now()["last_vault_rotation"] > static_role["last_vault_rotation"]
    assert not postgres.lets_in("nightly", static_role["password"])


def test_nothing_is_left_behind(bao: OpenBao, postgres: Postgres) -> None:
    """What the others count on: who revokes their token leaves no lease and no user."""
    assert eventually(lambda: not leases(bao, "database"))
    before = postgres.users()
    found = lease(bao)
    for prefix in ("database/creds/app", "database/creds", "database"):
        assert leases(bao, prefix) == {found.id}
    assert postgres.users() - before == {found.user}
    found.revoke()
    assert eventually(lambda: not leases(bao, "database"))
    assert postgres.users() == before
    assert leases(bao, "nowhere") == set()
