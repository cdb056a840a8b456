"""Revocation lists of authorities whose keys can't be read: no list is lost, none holds up another, all go on."""

import asyncio
from datetime import timedelta

import pytest

from serviceidentity.domain.material import KeyMaterial, SecretContent
from serviceidentity.domain.model import trust_domain_key
from serviceidentity.domain.ownership import Metadata
from serviceidentity.domain.pki.envelope import WrappedKey
from serviceidentity.errors import MissingError, RetryableError
from tests.unit.app.fake_api import World
from tests.unit.app.test_authority_keys import Safe, restarted, with_safe
from tests.unit.app.test_revocation import LIST, ROOTS_LIST, condition, listed, number, revoke
from tests.unit.app.test_taint import change, states, taint
from tests.unit.domain.builders import HOUR

DEFAULT = trust_domain_key("default")
LONGEST_RETRY = timedelta(seconds=15)


def world_with(safe=None):
    world = World()
    world.trust_domain(crl={})
    return World(world.api, world.maps, with_safe(safe))


async def follow(world, time):
    """Let time pass, with a look whenever one is due."""
    end = world.now + time
    while world.now < end:
        due = world.engine.queue.next_deadline()
        world.now = end if due is None else min(end, max(due, world.now + timedelta(seconds=1)))
        await world.settle()


@pytest.mark.parametrize("error", [RetryableError("sealed"), MissingError("no such key")], ids=["sealed", "no key"])
def test_a_list_that_falls_due_without_its_key_is_kept_at_rest_and_follows_as_soon_as_the_key_is_back(error):
    async def run():
        safe = Safe()
        world = world_with(safe)
        world.apply({"certificate": {}})
        await world.settle()
        await revoke(world)
        world.now += 60 * HOUR
        safe.error = error
        world = await restarted(world, with_safe(safe))
        lists = [world.api.stored[at] for at in (LIST, ROOTS_LIST)]
        assert (condition(world)["status"], condition(world)["reason"]) == ("False", "AuthorityUnreadable")
        assert "backoff" not in world.status(DEFAULT)
        world.api.writes.clear()
        await follow(world, HOUR)
        assert world.api.writes == {}, "nothing to do, nothing to say"
        assert [world.api.stored[at] for at in (LIST, ROOTS_LIST)] == lists
        safe.error = None
        await follow(world, LONGEST_RETRY)
        assert (number(world), number(world, ROOTS_LIST)) == (3, 2)
        assert len(listed(world)) == 1
        assert condition(world)["status"] == "True"

    asyncio.run(run())


class Forgetful(Safe):
    """A safe that lost the key of one authority for good."""

    lost = ""

    async def unwrap(self, wrapped: WrappedKey, context: bytes) -> KeyMaterial:
        if self.lost and self.lost.encode() in context:
            raise MissingError("it is lost")
        return await super().unwrap(wrapped, context)


def test_a_key_that_is_lost_holds_up_no_list_of_another_authority():
    """What is revoked has to be told, even if the root's key is gone."""

    async def run():
        safe = Forgetful()
        world = world_with(safe)
        world.apply({"certificate": {}})
        await world.settle()
        safe.lost = "default-root-1"
        world = await restarted(world, with_safe(safe))
        await world.settle(60 * HOUR)
        await revoke(world)
        assert condition(world)["reason"] == "AuthorityUnreadable"
        assert (number(world), number(world, ROOTS_LIST)) == (3, 1)
        assert len(listed(world)) == 1

    asyncio.run(run())


def test_a_list_that_cant_be_stored_holds_up_no_other():
    async def run():
        world = world_with()
        world.apply({"certificate": {}})
        content = SecretContent.of("Opaque", {"a": b"b"}, {})
        await world.api.create(*ROOTS_LIST, content, Metadata({}, {}, ()))
        await world.settle()
        assert condition(world)["reason"] == "Conflict"
        assert number(world) == 1

    asyncio.run(run())


def test_a_tainted_intermediate_whose_key_is_lost_goes_when_its_root_lists_it():
    """The way out for who lost a key-encryption key: its own list can never follow, and nobody waits for it."""

    async def run():
        safe = Forgetful()
        world = world_with(safe)
        change(world, crl={})
        world.apply({"certificate": {}})
        await world.settle()
        safe.lost = "default-intermediate-1"
        world = await restarted(world, with_safe(safe))
        await world.settle(60 * HOUR)
        taint(world, "default-intermediate-1")
        await world.settle()
        assert states(world) == {"root-1": "Active", "intermediate-1": "Tainted", "intermediate-2": "Active"}
        await follow(world, 2 * HOUR)
        assert states(world) == {"root-1": "Active", "intermediate-2": "Active"}
        assert len(listed(world, ROOTS_LIST)) == 1
        assert condition(world)["status"] == "True"

    asyncio.run(run())
