"""The client against a Vault in memory whose clock the test moves."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sdk.python.tests.vault.fake import FakeVault
from serviceidentity_sdk.vault import (
    AsyncVault,
    Vault,
    VaultAwayError,
    VaultForbiddenError,
    VaultMissingError,
    VaultRefusedError,
)
from serviceidentity_sdk.vault.connection import quoted

PATH = "database/creds/order-service"


class Clock:
    now = 10_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def server(clock):
    return FakeVault(clock)


@pytest.fixture
def vault(server, clock, tmp_path, monkeypatch):
    """A client whose thread does nothing: the test calls `tick`."""
    monkeypatch.setattr(Vault, "_run", lambda _self: None)
    (tmp_path / "token").write_text("proof-1\n")
    return Vault("http://vault", "order-service", token_file=tmp_path / "token", requests=server, clock=clock)


def pass_time(vault, clock, seconds):
    """Let time pass as the thread sees it: it comes when something is due."""
    until = clock.now + seconds
    while (due := vault.tick()) <= until:
        clock.now = max(due, clock.now)
    clock.now = until


def test_values_are_cached_for_five_minutes(vault, server, clock):
    assert vault.kv("a") == {"k": "v1"}
    server.values["secret/data/a"] = {"k": "v2"}
    clock.now += 299
    assert vault.kv("a")["k"] == "v1"
    clock.now += 2
    assert vault.kv("a")["k"] == "v2"
    assert server.count("secret/data/a") == 2


def test_many_threads_ask_once(vault, server):
    barrier = threading.Barrier(20)

    def read(_):
        barrier.wait()
        return vault.kv("a")["k"], vault.lease(PATH).current()["username"]

    with ThreadPoolExecutor(20) as threads:
        found = set(threads.map(read, range(20)))
    assert len(found) == 1
    assert (server.count("secret/data/a"), server.count(PATH), len(server.proofs)) == (1, 1, 1)


def test_while_vault_is_away_the_last_value_serves_for_an_hour(vault, server, clock):
    vault.kv("a")
    server.away = True
    clock.now += 301
    asked = server.count("secret/data/a")
    assert [vault.kv("a")["k"] for _ in range(5)] == ["v1"] * 5
    assert server.count("secret/data/a") == asked + 1  # and it is not asked each time
    clock.now += 3600
    with pytest.raises(VaultAwayError):
        vault.kv("a")
    server.away = False
    assert vault.kv("a")["k"] == "v1"


def test_what_is_gone_or_forbidden_serves_no_longer(vault, server, clock):
    vault.kv("a")
    del server.values["secret/data/a"]
    clock.now += 301
    with pytest.raises(VaultMissingError):
        vault.kv("a")
    server.away = True
    with pytest.raises(VaultAwayError):
        vault.kv("a")


def test_a_policy_that_lacks_a_right_leads_to_no_new_login(vault, server):
    for _ in range(3):
        with pytest.raises(VaultForbiddenError):
            vault.read("forbidden")
    assert len(server.proofs) == 1


def test_the_service_accounts_token_is_read_at_each_login(vault, server, clock, tmp_path):
    vault.kv("a")
    server.tokens.clear()  # revoked
    (tmp_path / "token").write_text("proof-2")
    clock.now += 301
    assert vault.kv("a")["k"] == "v1"
    assert server.proofs == [("order-service", "proof-1"), ("order-service", "proof-2")]
    (tmp_path / "token").unlink()
    server.tokens.clear()
    clock.now += 301
    with pytest.raises(VaultRefusedError, match="service account's token can't be read"):
        vault.kv("a")


def test_a_lease_is_renewed_at_three_quarters_of_what_was_granted(vault, server, clock):
    first = vault.lease(PATH).current()
    clock.now += 74.9
    vault.tick()
    assert server.count("sys/leases/renew") == 0
    clock.now += 0.1
    vault.tick()
    assert server.count("sys/leases/renew") == 1
    pass_time(vault, clock, 500)
    assert vault.lease(PATH).current() == first
    assert server.count(PATH) == 1


def test_renewal_that_is_cut_short_leads_to_new_credentials_while_the_old_ones_work(vault, server, clock):
    seen = []
    lease = vault.lease(PATH)
    lease.on_change(lambda data: seen.append((data["username"], set(server.living()))))
    first = lease.current()["username"]
    pass_time(vault, clock, 1000)
    second = lease.current()["username"]
    assert second != first and [name for name, _ in seen] == [second]
    assert len(seen[0][1]) == 2  # both worked when it was told


def test_credentials_always_work_for_weeks_of_cut_leases_and_logins(vault, server, clock):
    server.token_max = 7200.0
    for _ in range(2000):
        username = vault.lease(PATH).current()["username"]
        assert username.removeprefix("user-") in server.living()
        pass_time(vault, clock, 97)
    assert len(server.living()) <= 3
    vault.close()
    assert not server.living() and not any(end > clock.now for end, _ in server.tokens.values())


def test_a_login_near_its_end_takes_its_leases_along_while_they_work(vault, server, clock):
    server.token_ttl, server.token_max = 1000.0, 1500.0
    server.ttl = server.max_ttl = 100_000.0
    lease, seen = vault.lease(PATH), []
    lease.on_change(lambda data: seen.append((data["username"], len(server.living()))))
    first = lease.current()["username"]
    pass_time(vault, clock, 1499)
    assert [(name != first, living) for name, living in seen] == [(True, 2)]
    assert lease.current()["username"] == seen[0][0]
    vault.close()
    assert not server.tokens  # the former one too, which had a second to live


def test_what_is_not_renewable_is_replaced_in_time(vault, server, clock):
    server.renewable = False
    for _ in range(20):
        username = vault.lease(PATH).current()["username"]
        assert username.removeprefix("user-") in server.living()
        pass_time(vault, clock, 33)
    assert server.count("sys/leases/renew") == 0


def test_a_revoked_lease_is_replaced_when_it_would_be_renewed(vault, server, clock):
    first = vault.lease(PATH).current()
    server.leases.clear()
    pass_time(vault, clock, 76)
    assert vault.lease(PATH).current() != first


def test_vault_away_at_renewal_is_tried_again_and_not_past_the_end(vault, server, clock):
    lease = vault.lease(PATH)
    first = lease.current()
    pass_time(vault, clock, 70)
    server.away = True
    pass_time(vault, clock, 20)
    assert lease.current() == first
    assert 2 <= server.count("sys/leases/renew") <= 12
    pass_time(vault, clock, 20)
    for _ in range(3):
        with pytest.raises(VaultAwayError):  # rather than credentials that work no more
            lease.current()
    server.away = False
    pass_time(vault, clock, 2)
    assert lease.current() != first


def test_vault_back_in_time_costs_no_credentials(vault, server, clock):
    first = vault.lease(PATH).current()
    pass_time(vault, clock, 70)
    server.away = True
    pass_time(vault, clock, 12)
    server.away = False
    pass_time(vault, clock, 300)
    assert vault.lease(PATH).current() == first


def test_what_has_a_lease_is_not_read_as_a_value_and_back(vault):
    with pytest.raises(VaultRefusedError, match=r"lease\(\)"):
        vault.read(PATH)
    with pytest.raises(VaultRefusedError, match=r"read\(\)"):
        vault.lease("secret/data/a").current()


def test_a_closed_client_makes_no_new_lease(vault, server):
    lease = vault.lease(PATH)
    lease.current()
    vault.close()
    assert not server.living()
    with pytest.raises(VaultRefusedError, match="closed"):
        lease.current()


def test_a_subscriber_that_fails_does_not_stop_the_others(vault, server, clock):
    seen = []
    lease = vault.lease(PATH)
    lease.on_change(lambda _data: 1 / 0)
    lease.on_change(seen.append)
    lease.current()
    pass_time(vault, clock, 1000)
    assert seen


def test_secrets_show_nowhere(vault):
    data = vault.lease(PATH).current()
    assert data["password"] == "geheim"
    shown = f"{data!r} {data} {vault.lease(PATH).__dict__} {vault._logins.__dict__}"
    assert "geheim" not in shown and "token-1" not in shown


@pytest.mark.parametrize("path", ["", "/a", "a//b", "../sys", "a/./b", "a\n", "a/"])
def test_a_path_that_leads_elsewhere_is_refused(path):
    with pytest.raises(VaultRefusedError):
        quoted(path)
    assert quoted("a b?c#d%2e") == "a%20b%3Fc%23d%252e"


def test_asyncio_is_never_blocked(vault, server):
    async def run():
        release = threading.Event()
        server.on_send = lambda: release.wait(10)
        client = AsyncVault(vault)
        reading = asyncio.create_task(client.kv("a"))
        for _ in range(20):
            await asyncio.sleep(0)  # the loop goes on while Vault takes its time
        assert not reading.done()
        release.set()
        assert (await reading)["k"] == "v1"
        assert (await client.lease(PATH))["password"] == "geheim"
        await client.close()

    asyncio.run(run())
    assert not server.living()


def test_the_thread_renews_by_itself(server, tmp_path):
    """With the real clock; how often, the test does not say."""
    server.clock = time.monotonic
    server.ttl, server.max_ttl = 0.4, 2.0
    (tmp_path / "token").write_text("proof")
    changed = threading.Event()
    with Vault("http://vault", "r", token_file=tmp_path / "token", requests=server) as vault:
        lease = vault.lease(PATH)
        lease.on_change(lambda _data: changed.set())
        lease.current()
        assert changed.wait(20)
        assert server.count("sys/leases/renew") >= 1
    assert not server.living()


def test_a_secret_and_what_its_path_holds_are_cached_apart(vault):
    assert vault.kv("a") == {"k": "v1"}
    assert vault.read("secret/data/a")["metadata"] == {"version": 1}
    assert vault.kv("a") == {"k": "v1"}
