"""What can't be done about Vault now does not keep the workers busy: each look has its time, and never one in the past."""

from datetime import timedelta

from serviceidentity.domain.material import Held
from tests.unit.app.fake_leases import database
from tests.unit.app.test_leases import lease_test
from tests.unit.app.test_vault_secrets import kv, of_vault, story

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
