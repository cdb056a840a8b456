"""Two operators at work on the same objects, as during a rolling update: neither undoes what the other did."""

import asyncio
from dataclasses import replace

import pytest

from serviceidentity.app.writer import SecretWriter
from serviceidentity.domain.material import SecretContent
from serviceidentity.domain.model import Kind
from serviceidentity.domain.ownership import CONTENT_ID_ANNOTATION, Metadata
from serviceidentity.errors import ConflictError
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import HMAC, TLS, edit, scenario, tell
from tests.unit.domain.builders import HOUR

SPEC = {"certificate": {}, "hmac": {}}
ROUNDS = 6  # each of them tells both what the other wrote


async def together(*worlds):
    """Let all of them work at once until none has anything to do; return how many writes the last round took."""
    written = 0
    for _ in range(ROUNDS):
        before = worlds[0].api.writes.total()
        await asyncio.gather(*(world.settle() for world in worlds))
        for world in worlds:
            world.echo()
        written = worlds[0].api.writes.total() - before
    return written


@scenario
async def test_each_secret_is_issued_once(world):
    other = World(world.api)
    world.apply(SPEC)
    other.echo()
    assert await together(world, other) == 0
    assert world.api.writes["create"] == 2
    assert world.api.writes["replace"] == 0


@pytest.mark.parametrize("at", [TLS, HMAC], ids=["certificate", "hmac"])
@scenario
async def test_a_rotation_by_one_is_not_undone_by_the_other(world, at):
    world.apply(SPEC)
    await world.settle()
    other = World(world.api)
    await together(world, other)
    before = world.api.stored[at]
    world.now = other.now = world.now + (20 * HOUR if at == TLS else 31 * 24 * HOUR)
    assert await together(world, other) == 0
    after = world.api.stored[at]
    assert after.annotations[CONTENT_ID_ANNOTATION] != before.annotations[CONTENT_ID_ANNOTATION]
    if at == TLS:
        assert after.annotations["serviceidentity.dev/revision"] == "2"


@scenario
async def test_an_edit_is_undone_once_by_either(world):
    world.apply(SPEC)
    await world.settle()
    other = World(world.api)
    await together(world, other)
    right = world.api.stored[TLS].data
    edit(world, TLS, {"tls.key": "anVuaw=="})
    world.echo()
    other.echo()
    assert await together(world, other) == 0
    assert world.api.stored[TLS].data == right, "not shown: it would print the keys"


@scenario
async def test_a_backup_put_back_is_used_as_long_as_it_is_good(world):
    key = world.apply({"certificate": {}})
    await world.settle()
    backup = world.api.stored[TLS]
    world.apply({"certificate": {}}, annotations={"serviceidentity.dev/rotate": "1"}, generation=1)
    await world.settle()
    world.api.writes.clear()
    tell(
        world,
        edit(world, TLS, dict(backup.data), annotations={**backup.annotations, "serviceidentity.dev/rotated": "1"}),
    )
    await world.settle()
    assert set(world.api.writes) == {"status"}
    assert world.api.stored[TLS].data == backup.data
    assert world.ready(key) == ("True", "Ready")
    world.now += 40 * HOUR
    await world.settle()
    assert world.api.stored[TLS].data != backup.data, "and replaced when it is due"


@scenario
async def test_a_decision_is_not_carried_out_on_what_came_after_it(world):
    world.apply({"certificate": {}})
    await world.settle()
    view = world.api.stored[TLS]
    writer = SecretWriter(world.api, world.engine.inventory, world.engine.wake)
    (entry,) = world.engine.inventory.identities.values()
    content, metadata = SecretContent(view.type, {}, {}), Metadata({}, {}, ())
    for seen in (None, replace(view, resource_version=1)):
        with pytest.raises(ConflictError):
            await writer.store(Kind.SERVICE_IDENTITY, entry.meta, TLS, content, metadata, seen)
    assert world.api.stored[TLS] == view
