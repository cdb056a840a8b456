"""What can't be done about Vault now does not keep the workers busy: each look has its time, and never one in the past."""

import asyncio
from datetime import timedelta
from typing import Any

from serviceidentity.app.vault.sources import VaultSources
from serviceidentity.domain.material import Held
from tests.unit.app.fake_leases import database
from tests.unit.app.test_leases import lease_test
from tests.unit.app.test_vault_secrets import kv, of_vault, story
from tests.unit.domain.builders import T0, identity

GONE = Held("VaultConnectionNotFound", "VaultConnection default does not exist")


def looks(world, key) -> timedelta:
    """How long from now the identity is looked at again."""
    return world.engine.queue._deadlines[key] - world.now


@lease_test
async def test_a_lease_whose_connection_is_gone_is_looked_at_now_and_then(world):
    key = world.apply(database())
    await world.settle()
    world.connections.gone = True
    await world.run_for(minutes=50)
    world.engine.wake([key])
    await world.settle()
    assert looks(world, key) >= timedelta(seconds=1)
    assert world.lease(key)["expireTime"]


@lease_test
async def test_a_suspended_lease_that_can_not_be_renewed_is_looked_at_now_and_then(world):
    world.vault.renewable = False
    key = world.apply(database())
    await world.settle()
    world.apply(database() | {"suspend": True}, generation=2)
    await world.run_for(minutes=50)
    world.engine.wake([key])
    await world.settle()
    assert looks(world, key) >= timedelta(seconds=1)


@story
async def test_a_secret_whose_connection_is_gone_is_looked_at_now_and_then(world, vault):
    key = world.apply(of_vault(kv()))
    await world.settle()
    vault.held = GONE
    for _ in range(8):
        await world.settle(timedelta(minutes=1))
    world.engine.wake([key])
    await world.settle()
    at = world.engine.queue._deadlines.get(key)
    assert at is None or at > world.now


def test_a_lease_does_not_wait_for_a_secret_that_can_not_be_read():
    looked = []

    class Parts:
        """Connections, reader and leases in one. Who reads never has an answer."""

        async def client(self, _identity):
            return self

        async def read(self, *_):
            await asyncio.Event().wait()

        async def look(self, _identity, secret, *_):
            looked.append(secret.name)

        def forget(self, *_, **__): ...

    async def both():
        given = [{"name": "slow", "kv": {"path": "a"}}, {"name": "db", "database": {"role": "orders"}}]
        parts: Any = Parts()
        pending = asyncio.create_task(
            VaultSources(parts, parts, parts, lambda: T0).gather(identity({"vault": {"secrets": given}}), {})
        )
        for _ in range(5):
            await asyncio.sleep(0)
        pending.cancel()
        await asyncio.wait([pending])

    asyncio.run(both())
    assert looked == ["db"]
