"""VaultConnections: who may use them and as whom, what their status says, and that at rest it says the same."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from typing import Any

import pytest

from serviceidentity.app.vault.guard import GuardedClient
from serviceidentity.app.vault.ports import Login
from serviceidentity.domain.material import Held
from serviceidentity.domain.model import identity_key, vault_connection_key, vault_lease_key
from serviceidentity.domain.vault.spec import AllowedNamespaces, JwtAuth
from serviceidentity.errors import ForbiddenError, RetryableError, SettingsError
from tests.unit.app import virtual_time
from tests.unit.app.fake_api import FakeApi, World
from tests.unit.app.fake_vault import GONE, NEW, SEALED, SERVING, STANDBY, UNTRUSTED, FakeServer, FakeServers
from tests.unit.domain.builders import connection, identity, identity_body

DEFAULT = vault_connection_key("default")
KV = {"vault": {"secrets": [{"name": "a", "kv": {"path": "a"}}]}}
OPERATOR = {"kubernetes": {"serviceAccount": "Operator", "role": "operator"}}


def virtual(test: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> Any:
        return virtual_time.run(test(*args, **kwargs))

    return run


class Vaults(World):
    """A world with Vault in it. Identities are not reconciled here: what they would be given is what is asked about."""

    def __init__(self, api: FakeApi | None = None, **options: Any) -> None:
        self.servers = FakeServers()
        super().__init__(api, vault=self.servers, **options)
        self.inventory, self.connections = self.engine.inventory, self.engine.connections
        self.woken: set[Any] = set()
        for name, labels in (("shop", {"team": "a"}), ("team-b", {}), ("other", {"team": "c"})):
            self.namespace(name, labels)

    @property
    def server(self) -> FakeServer:
        return self.servers.server

    def namespace(self, name: str, labels: dict[str, str]) -> set[Any]:
        self.api.version += 1
        meta = {"name": name, "labels": labels, "resourceVersion": str(self.api.version)}
        return self.inventory.put_namespace({"metadata": meta})

    def identity(self, spec: dict[str, Any] | None = None, **meta: Any) -> set[Any]:
        return self.inventory.put_identity(identity_body(spec or KV, **meta))

    async def client(self, spec: dict[str, Any] | None = None, **meta: Any) -> GuardedClient | Held:
        return await self.connections.client(identity(spec or KV, **meta))

    async def reason(self, **meta: Any) -> str:
        found = await self.client(**meta)
        return found.reason if isinstance(found, Held) else "allowed"

    async def looked_at(self, advance: timedelta = timedelta(0)) -> None:
        await asyncio.sleep(advance.total_seconds())
        await self.settle(advance)

    async def run(self, seconds: int) -> None:
        """Let the operator work for a while, second by second; identities are only counted."""
        for _ in range(seconds):
            await asyncio.sleep(1)
            await self.settle(timedelta(seconds=1))


@virtual
async def test_only_whom_the_connection_names_may_use_it():
    world = Vaults()
    world.vault_connection(allowedNamespaces={"names": ["shop", "team-*"]})
    assert await world.reason() == "allowed"
    assert await world.reason(namespace="team-b") == "allowed"
    assert await world.reason(namespace="other") == "NamespaceNotAllowed"
    assert await world.reason(namespace="not-seen") == "NamespaceNotSeen"
    assert world.server.logins[0] == Login("default", "order-service", "shop", "order-service")


@virtual
async def test_a_namespace_is_allowed_by_its_labels_and_not_any_more_without_them():
    world = Vaults()
    world.vault_connection(allowedNamespaces={"selector": {"matchLabels": {"team": "a"}}})
    world.identity()
    assert await world.reason() == "allowed"
    assert await world.reason(namespace="team-b") == "NamespaceNotAllowed"
    assert identity_key("shop", "order-service") in world.namespace("shop", {})
    assert await world.reason() == "NamespaceNotAllowed"


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("shop", ["shop"], ["shop-a", "a-shop", "sho"]),
        ("*", ["shop", "a"], []),
        ("team-*", ["team-", "team-a", "team-a-b"], ["team", "a-team-b"]),
        ("*-team", ["a-team"], ["team-a", "team"]),
        ("a*a", ["aa", "aba"], ["a", "ab"]),
        ("a*b*c*", ["abc", "axbxcx"], ["acb", "ab"]),
        ("a*ab*b", ["aabb", "axabxb"], ["aab", "abb"]),
    ],
)
def test_an_asterisk_stands_for_any_characters(pattern, yes, no):
    allowed = AllowedNamespaces((pattern,))
    assert [name for name in yes + no if allowed.admits(name, {})] == yes


def test_nobody_is_admitted_unsaid():
    assert not AllowedNamespaces().admits("shop", {"team": "a"})


@virtual
async def test_each_identity_logs_in_as_itself_and_may_name_a_role():
    world = Vaults()
    world.vault_connection(auth={"kubernetes": {"role": "apps"}})
    await world.client()
    await world.client(KV | {"serviceAccountName": "orders"})
    await world.client({"vault": KV["vault"] | {"role": "special"}})
    assert world.server.logins == [
        Login("default", "apps", "shop", "order-service"),
        Login("default", "apps", "shop", "orders"),
        Login("default", "special", "shop", "order-service"),
    ]


@pytest.mark.parametrize(
    ("auth", "role"),
    [
        (OPERATOR, "operator"),
        ({"token": {"file": "/token"}}, None),
        ({"appRole": {"roleID": "a", "secretIDSecretRef": {"name": "a"}}}, None),
        ({"jwt": {"file": "/jwt", "role": "ci"}}, "ci"),
        ({"certificate": {"secretName": "a", "role": "tls"}}, "tls"),
    ],
)
@virtual
async def test_where_the_operator_logs_in_nobody_chooses_among_its_roles(auth, role):
    world = Vaults()
    world.vault_connection(auth=auth)
    refused = await world.client({"vault": KV["vault"] | {"role": "admin"}})
    assert isinstance(refused, Held)
    assert refused.reason == "VaultRoleNotAllowed"
    assert isinstance(await world.client(), GuardedClient)
    if role is not None:
        assert isinstance(await world.client({"vault": KV["vault"] | {"role": role}}), GuardedClient)
    assert set(world.server.logins) == {Login("default", role)}


@virtual
async def test_a_connection_that_comes_changes_and_goes_wakes_its_identities():
    world = Vaults()
    world.identity()
    world.identity(KV | {"vault": KV["vault"] | {"connectionRef": {"name": "b"}}}, name="b", uid="uid-b")
    used = identity_key("shop", "order-service")
    assert await world.reason() == "VaultConnectionNotFound"

    world.vault_connection()
    body = world.api.objects[DEFAULT]
    assert world.inventory.connections.users("default") == {used}
    assert await world.reason() == "allowed"

    changed = {"metadata": body["metadata"] | {"resourceVersion": "9999", "generation": 2}}
    closed_to_us = {"spec": body["spec"] | {"allowedNamespaces": {"names": ["b"]}}}
    assert world.inventory.put_vault_connection(body | changed | closed_to_us) == {DEFAULT, used}
    assert await world.reason() == "NamespaceNotAllowed"

    noted = {"metadata": changed["metadata"] | {"resourceVersion": "10000", "annotations": {"a": "b"}}}
    assert world.inventory.put_vault_connection(body | noted | closed_to_us) == {DEFAULT}
    told = noted | {"metadata": noted["metadata"] | {"resourceVersion": "10001"}, "status": {"version": "1"}}
    assert world.inventory.put_vault_connection(body | told | closed_to_us) == {DEFAULT}

    assert world.inventory.drop_vault_connection("default", "another uid") == set()
    assert world.inventory.drop_vault_connection("default") == {DEFAULT, used}
    assert await world.reason() == "VaultConnectionNotFound"

    world.inventory.drop_identity("shop", "order-service")
    assert world.inventory.connections.users("default") == set()


@virtual
async def test_a_broken_watch_is_made_good_by_complete_lists():
    world = Vaults()
    world.vault_connection()
    bodies = [world.api.objects[DEFAULT]]
    again = Vaults()
    again.identity()
    used = identity_key("shop", "order-service")
    assert again.inventory.resync([], [], [], [], lambda _: 0, connections=bodies) == {DEFAULT, used}
    assert again.inventory.resync([], [], [], [], lambda _: 0, connections=bodies) == set()
    newer = {"connections": 10_000}
    woken = again.inventory.resync([], [], [], [], lambda name: newer.get(name, 0))
    assert woken == {DEFAULT, used}


@virtual
async def test_another_server_replaces_the_one_before_which_ends_when_its_requests_have():
    world = Vaults()
    world.vault_connection()
    await world.client()
    first = world.server
    world.vault_connection(limits={"requestsInFlight": 2}, allowedNamespaces={"names": ["shop"]})
    await world.client()
    assert world.server is first, "that is no reason to connect anew"
    first.takes = 5
    client = await world.client()
    reads = [asyncio.create_task(client.read_kv("secret", f"{n}", None)) for n in range(2)]
    await asyncio.sleep(1)
    world.vault_connection(address="https://other.example:8200")
    await world.client()
    assert world.server is not first
    await asyncio.sleep(2)
    assert first.closed is None
    assert [(await read).values for read in reads] == [{"path": "0"}, {"path": "1"}]
    await asyncio.sleep(1)
    assert first.closed is True, "logins that nothing hangs on are revoked"


@virtual
async def test_a_server_is_opened_once_for_all_who_ask_at_the_same_time():
    world = Vaults()
    world.vault_connection()
    await asyncio.gather(*(world.client(name=f"s{n}") for n in range(20)))
    assert world.servers.tried == 1


@virtual
async def test_what_cant_be_opened_is_tried_by_the_connection_and_not_by_each_identity():
    world = Vaults()
    world.servers.refuses = SettingsError("Secret system/ca does not exist")
    key = world.vault_connection()
    for number in range(20):
        assert await world.reason(name=f"s{number}") == "SettingsUnusable"
    assert world.servers.tried == 1
    await world.looked_at()
    assert world.ready(key) == ("False", "SettingsUnusable")
    assert "Secret system/ca does not exist" in world.status(key)["conditions"][0]["message"]
    world.servers.refuses = None
    await world.looked_at(timedelta(seconds=31))
    assert world.ready(key) == ("True", "Ready")


@virtual
async def test_an_invalid_connection_is_no_connection():
    world = Vaults()
    key = world.vault_connection(auth={})
    await world.looked_at()
    assert world.ready(key) == ("False", "InvalidSpec")
    assert await world.reason() == "VaultConnectionInvalid"
    world.vault_connection()
    await world.looked_at()
    assert world.ready(key) == ("True", "Ready")
    assert await world.reason() == "allowed"


@virtual
async def test_what_was_had_can_be_given_back_though_nobody_is_allowed_any_more():
    world = Vaults()
    world.vault_connection(allowedNamespaces={"names": ["nobody"]})
    login = Login("default", "a", "shop", "order-service")
    client = await world.connections.client_of(login, vault_lease_key("lease-1"))
    assert isinstance(client, GuardedClient)
    assert client.login == login
    gone = await world.connections.client_of(replace(login, connection="b"), vault_lease_key("lease-1"))
    assert isinstance(gone, Held)


# --- status


@virtual
async def test_the_status_says_how_it_is_and_at_rest_the_same():
    world = Vaults()
    key = world.vault_connection(auth=OPERATOR)
    await world.looked_at()
    status = world.status(key)
    assert world.ready(key) == ("True", "Ready")
    assert {name: status[name] for name in ("version", "sealed", "tokenTTL", "observedGeneration")} == {
        "version": "2.7.2",
        "sealed": False,
        "tokenTTL": "1h",
        "observedGeneration": 1,
    }
    writes = world.api.writes.total()
    for left in (3599, 3000, 1500, 1201, 3600, 1300):
        world.server.login = timedelta(seconds=left)
        await world.looked_at(timedelta(seconds=30))
    assert world.api.writes.total() == writes
    assert world.api.events == [("Ready", status["conditions"][0]["message"])]

    again = Vaults(world.api)
    await again.looked_at()
    assert world.api.writes.total() == writes
    assert len(world.api.events) == 1


@virtual
async def test_a_login_that_runs_out_is_told_a_few_times_and_not_each_second():
    world = Vaults()
    key = world.vault_connection(auth=OPERATOR)
    told = []
    for left in range(86400, 0, -300):
        await world.looked_at()
        world.server.login = timedelta(seconds=left)
        await world.looked_at(timedelta(seconds=30))
        if world.status(key)["tokenTTL"] not in told:
            told.append(world.status(key)["tokenTTL"])
    assert len(told) < 9


@pytest.mark.parametrize(
    ("health", "reason", "sealed"),
    [
        (GONE, "Unreachable", None),
        (SEALED, "Sealed", True),
        (NEW, "NotInitialized", False),
        (UNTRUSTED, "TLSUntrusted", None),
    ],
)
@virtual
async def test_a_server_that_goes_away_is_told_within_seconds_and_so_is_its_return(health, reason, sealed):
    world = Vaults()
    key = world.vault_connection()
    await world.looked_at()
    world.server.health_now = health
    client = await world.client()
    with pytest.raises(RetryableError):
        await client.read("a")
    await world.looked_at()
    assert world.ready(key) == ("False", reason)
    assert world.status(key).get("sealed") is sealed
    assert world.status(key)["version"] == "2.7.2"
    since, writes = world.status(key)["conditions"][0]["lastTransitionTime"], world.api.writes.total()
    await world.run(60)
    assert world.status(key)["conditions"][0]["lastTransitionTime"] == since
    assert world.api.writes.total() == writes
    world.server.health_now = SERVING
    await world.run(4)
    assert world.ready(key) == ("True", "Ready")
    assert [found for found, _ in world.api.events] == ["Ready", reason, "Ready"]


@pytest.mark.parametrize("auth", [OPERATOR, {"kubernetes": {}}])
@virtual
async def test_a_server_that_was_just_unsealed_is_told_when_it_may_be_asked_and_not_as_a_failed_login(auth):
    world = Vaults()
    key = world.vault_connection(auth=auth)
    await world.looked_at()
    world.server.health_now = SEALED
    await world.run(31)
    world.server.health_now = STANDBY
    await world.run(3)
    assert world.ready(key) == ("False", "Sealed")
    world.server.health_now = SERVING
    await world.run(4)
    assert [found for found, _ in world.api.events] == ["Ready", "Sealed", "Ready"]


@virtual
async def test_a_server_that_goes_away_during_the_login_is_told_as_away():
    world = Vaults()
    key = world.vault_connection(auth=OPERATOR)
    await world.looked_at()
    world.server.takes = 1
    world.now += timedelta(seconds=30)
    look = asyncio.create_task(world.settle())
    await asyncio.sleep(0.5)
    world.server.health_now = SEALED
    await look
    await world.looked_at()
    assert [found for found, _ in world.api.events] == ["Ready", "Sealed"]
    assert world.ready(key) == ("False", "Sealed")


@virtual
async def test_a_sealed_server_is_noticed_though_nobody_asks_for_anything():
    world = Vaults()
    key = world.vault_connection()
    await world.looked_at()
    world.server.health_now = SEALED
    await world.run(31)
    assert world.ready(key) == ("False", "Sealed")
    assert len(world.server.probes) <= 4


@virtual
async def test_where_identities_log_in_as_themselves_the_server_is_all_there_is_to_tell():
    world = Vaults()
    key = world.vault_connection()
    await world.looked_at()
    assert world.ready(key) == ("True", "Ready")
    assert "tokenTTL" not in world.status(key)
    assert not world.server.requests


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ForbiddenError("Vault refuses to log in"), "LoginFailed"),
        (RetryableError("Vault failed"), "LoginFailed"),
        (SettingsError("Secret system/a does not exist"), "SettingsUnusable"),
    ],
)
@virtual
async def test_a_login_that_fails_is_told_and_its_identities_are_woken_when_it_works(error, reason):
    world = Vaults()
    key = world.vault_connection(auth={"token": {"secretRef": {"name": "a"}}})
    await world.client()
    world.server.login = error
    await world.looked_at()
    assert world.ready(key) == ("False", reason)
    assert str(error) in world.status(key)["conditions"][0]["message"]
    world.identity()
    world.server.login = None
    woken: list[Any] = []
    world.engine.wake = woken.extend  # type: ignore[method-assign]
    world.connections._opened["default"].breaker._wake = woken.extend
    await world.looked_at(timedelta(seconds=30))
    await asyncio.sleep(1)
    assert world.ready(key) == ("True", "Ready")
    assert identity_key("shop", "order-service") in woken
    assert "tokenTTL" not in world.status(key), "it never ends"


@virtual
async def test_a_connection_that_is_deleted_is_closed():
    world = Vaults()
    key = world.vault_connection()
    await world.looked_at()
    del world.api.objects[key]
    world.engine.wake(world.inventory.drop_vault_connection("default"))
    await world.looked_at()
    await asyncio.sleep(1)
    assert world.server.closed is True
    assert await world.reason() == "VaultConnectionNotFound"


@virtual
async def test_stopping_revokes_the_logins():
    world = Vaults()
    world.vault_connection()
    await world.client()
    await world.connections.close()
    assert world.server.closed is True


# --- the connection of the environment


def environment(*allowed: str) -> Any:
    return replace(connection(), auth=JwtAuth("kubernetes", "a", "/token"), allowed=AllowedNamespaces(allowed))


@virtual
async def test_the_connection_of_the_environment_is_open_to_nobody_by_default():
    world = Vaults(default_connection=environment())
    refused = await world.client()
    assert isinstance(refused, Held)
    assert (refused.reason, "SIO_VAULT_ALLOWED_NAMESPACES" in refused.message) == ("NamespaceNotAllowed", True)
    await world.looked_at()
    assert world.servers.tried == 0


@virtual
async def test_the_connection_of_the_environment_is_looked_after_without_an_object(caplog):
    world = Vaults(default_connection=environment("shop"))
    with caplog.at_level("INFO"):
        await world.looked_at()
        assert await world.reason() == "allowed"
        assert await world.reason(namespace="other") == "NamespaceNotAllowed"
        world.server.health_now = SEALED
        await world.run(31)
        world.server.health_now = SERVING
        await world.run(5)
    lines = [record.getMessage() for record in caplog.records if "VaultConnection default" in record.getMessage()]
    assert len(lines) == 3, lines
    assert "Sealed" in lines[1]
    assert not world.api.writes


@virtual
async def test_an_object_takes_the_place_of_the_environment_and_gives_it_back():
    world = Vaults(default_connection=environment("shop"))
    await world.looked_at()
    first = world.server
    key = world.vault_connection(allowedNamespaces={"names": ["other"]})
    await world.looked_at()
    assert world.server is not first
    assert await world.reason() == "NamespaceNotAllowed"
    world.vault_connection(auth={})
    assert await world.reason() == "VaultConnectionInvalid", "not the environment's in its place"
    del world.api.objects[key]
    world.engine.wake(world.inventory.drop_vault_connection("default"))
    await world.looked_at()
    assert await world.reason() == "allowed"


@virtual
async def test_without_a_way_to_vault_the_status_says_so():
    world = World()
    key = world.vault_connection()
    await world.settle()
    assert world.ready(key) == ("False", "VaultNotConfigured")
