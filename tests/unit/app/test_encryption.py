"""Encrypted values at work: keys appear, rotate, get lost; Secrets follow their values and nothing else."""

from base64 import b64decode, b64encode
from dataclasses import replace

import pytest

from serviceidentity.app.encryption import LOOK_EVERY, EncryptionSettings, MasterKeySecret
from serviceidentity.domain import ownership
from serviceidentity.domain.encryption import ring as rings
from serviceidentity.domain.encryption import values
from serviceidentity.domain.encryption.ring import KeyRing
from serviceidentity.domain.encryption.values import Scope
from serviceidentity.domain.material import KeyMaterial, SecretContent
from serviceidentity.domain.model import ENCRYPTION_KEYS
from serviceidentity.domain.ownership import Metadata
from serviceidentity.errors import RetryableError
from tests.unit.app.fake_api import FakeApi, FakeConfigMaps, World
from tests.unit.app.scenarios import edit, passes_when_left_alone, scenario, tell
from tests.unit.domain.builders import DAY, T0

AT = ("system", rings.SECRET_NAME)
PUBLIC = ("system", rings.PUBLIC_NAME)
SECRET = ("shop", "order-service-encrypted")
MASTER = bytes(range(32))
PLAIN = b"sk_live_1"


def world_of(old: World, **settings) -> World:
    """A new operator on the same API: with encryption, as the real one has it."""
    world = World(old.api, old.maps, encryption=EncryptionSettings(**settings))
    world.now = old.now
    return world


async def started(old: World, **settings) -> World:
    world = world_of(old, **settings)
    await world.engine.open_keys()
    await world.settle()
    return world


def ring_of(world: World) -> KeyRing:
    return rings.from_json(world.api.stored[AT].value(rings.KEYS))


def sealed(
    world: World, value: bytes = PLAIN, key: str = "STRIPE_KEY", name: str = "order-service", number: int = 0
) -> str:
    pair = ring_of(world).pairs[number]
    return values.encrypt(KeyMaterial(value), pair.private_key.public_key(), pair.id, Scope("shop", name, key))


def apply(world: World, generation: int = 1, **texts: str):
    return world.apply({"encrypted": {"values": texts}}, generation=generation)


def stored(world: World) -> dict[str, bytes]:
    return {key: b64decode(value) for key, value in world.api.stored[SECRET].data.items()}


def condition(world: World, key) -> tuple[str, str, str]:
    found = next(one for one in world.status(key)["conditions"] if one["type"] == "EncryptedReady")
    return found["status"], found["reason"], found["message"]


async def request_rotation(world: World, token: str = "1") -> None:
    view = world.maps.stored[PUBLIC]
    world.maps.version += 1
    asked = replace(view, annotations={ownership.ROTATE_ANNOTATION: token}, resource_version=world.maps.version)
    world.maps.stored[PUBLIC] = asked
    world.engine.wake(world.engine.inventory.put_config_map(asked))
    await world.settle()


@scenario
async def test_values_are_decrypted_into_a_secret(bare: World):
    world = await started(bare)
    key = apply(world, STRIPE_KEY=sealed(world), OTHER=sealed(world, b"", "OTHER"))
    await world.settle()
    assert stored(world) == {"STRIPE_KEY": PLAIN, "OTHER": b""}
    assert world.api.stored[SECRET].type == "Opaque"
    assert world.ready(key) == ("True", "Ready")
    assert condition(world, key) == ("True", "Issued", "2 decrypted values")
    assert world.status(key)["encrypted"] == {
        "secretName": "order-service-encrypted",
        "values": [{"name": name, "keyID": ring_of(world).newest.id} for name in ("OTHER", "STRIPE_KEY")],
    }
    shown = f"{world.status(key)} {world.api.events} {world.api.stored[SECRET].annotations}"
    assert PLAIN.decode() not in shown


@scenario
async def test_first_start_makes_one_key_and_a_restart_writes_nothing(bare: World):
    world = await started(bare)
    assert dict(world.api.writes) == {"create": 1} and dict(world.maps.writes) == {"create": 1}
    apply(world, STRIPE_KEY=sealed(world))
    await world.settle()
    world.api.writes.clear()
    world.maps.writes.clear()
    again = await started(world)
    assert await passes_when_left_alone(again) <= 1  # the start's own look at the keys
    assert not world.api.writes and not world.maps.writes


@scenario
async def test_keys_that_are_there_before_the_ring_was_read_are_waited_for(bare: World):
    world = await started(bare)
    key = apply(world, STRIPE_KEY=sealed(world))
    again = world_of(world)  # without reading ahead: the identity may come first
    await again.settle()
    assert again.ready(key) == ("True", "Ready")
    assert stored(again) == {"STRIPE_KEY": PLAIN}


@scenario
async def test_bad_value_holds_all_of_them_and_the_last_good_secret_stays(bare: World):
    world = await started(bare)
    key = apply(world, STRIPE_KEY=sealed(world), OTHER=sealed(world, b"o", "OTHER"))
    await world.settle()
    before = world.api.stored[SECRET]
    good = sealed(world)
    flipped = good[:-2] + ("AA" if not good.endswith("AA") else "BB")
    for generation, text in enumerate((flipped, sealed(world, key="OTHER"), sealed(world, name="web")), start=2):
        apply(world, generation, STRIPE_KEY=text, OTHER=sealed(world, b"new", "OTHER"))
        await world.settle()
        assert condition(world, key)[:2] == ("False", "DecryptionFailed")
        assert condition(world, key)[2].startswith("STRIPE_KEY: ")
        assert world.ready(key) == ("False", "DecryptionFailed")
        assert world.api.stored[SECRET] == before
        assert await passes_when_left_alone(world) <= 1  # the start's own look at the keys
    assert world.api.events[-1][0] == "DecryptionFailed"
    apply(world, 9, STRIPE_KEY=sealed(world, b"mended"))
    await world.settle()
    assert stored(world) == {"STRIPE_KEY": b"mended"}


@scenario
async def test_drift_is_undone_also_while_a_value_is_bad_and_after_a_restart(bare: World):
    world = await started(bare)
    key = apply(world, STRIPE_KEY=sealed(world))
    await world.settle()
    forged = {"STRIPE_KEY": b64encode(b"forged").decode()}
    tell(world, edit(world, SECRET, forged))
    await world.settle()
    assert stored(world) == {"STRIPE_KEY": PLAIN}
    edit(world, SECRET, forged)
    world = await started(world)
    assert stored(world) == {"STRIPE_KEY": PLAIN}
    apply(world, 2, STRIPE_KEY="ENC:v1:0011223344556677:" + "A" * 80)
    await world.settle()
    assert condition(world, key)[1] == "KeyUnknown"
    tell(world, edit(world, SECRET, forged))
    await world.settle()
    assert stored(world) == {"STRIPE_KEY": PLAIN}


@scenario
async def test_rotation_on_request_appends_once_and_old_values_still_decrypt(bare: World):
    world = await started(bare)
    old = ring_of(world)
    key = apply(world, STRIPE_KEY=sealed(world))
    await world.settle()
    await request_rotation(world)
    assert ring_of(world).ids[1:] == old.ids
    public = rings.from_pem(world.maps.stored[PUBLIC].value(rings.PUBLIC_KEY))
    assert rings.key_id(public) == ring_of(world).newest.id
    await request_rotation(world)
    world.api.writes.clear()
    world = await started(world)
    assert len(ring_of(world).ids) == 2
    assert not world.api.writes
    assert world.ready(key) == ("True", "Ready")
    apply(world, 2, STRIPE_KEY=sealed(world, b"new"), OLD=sealed(world, b"old", "OLD", number=1))
    await world.settle()
    assert stored(world) == {"STRIPE_KEY": b"new", "OLD": b"old"}


@scenario
async def test_rotation_by_age(bare: World):
    world = await started(bare, every=DAY)
    await world.settle(DAY)
    await world.settle(DAY)
    assert len(ring_of(world).ids) == 3


@scenario
async def test_ring_deleted_while_the_operator_runs_is_put_back(bare: World):
    world = await started(bare)
    before = ring_of(world)
    view = world.api.stored.pop(AT)
    world.engine.wake(world.engine.inventory.drop_secret(*AT, view.uid))
    await world.settle()
    assert ring_of(world) == before


@scenario
async def test_lost_ring_is_not_made_anew_and_nothing_is_overwritten(bare: World):
    world = await started(bare)
    key = apply(world, STRIPE_KEY=sealed(world))
    await world.settle()
    backup, secret = world.api.stored.pop(AT), world.api.stored[SECRET]
    world.maps.stored.pop(PUBLIC)  # as when the operator's namespace was deleted
    world = await started(world)
    assert AT not in world.api.stored
    assert condition(world, key)[:2] == ("False", "EncryptionKeysMissing")
    assert rings.SECRET_NAME in condition(world, key)[2]
    assert world.api.stored[SECRET] == secret
    world.api.writes.clear()
    world = await started(world)
    assert not world.api.writes and not world.maps.writes["replace"]
    world.api.stored[AT] = replace(backup, resource_version=10_000)
    tell(world, world.api.stored[AT])
    await world.settle()
    assert world.ready(key) == ("True", "Ready")
    assert PUBLIC in world.maps.stored


@scenario
async def test_lost_ring_without_values_is_told_of_by_the_configmap(bare: World):
    world = await started(bare)
    del world.api.stored[AT]
    world = await started(world)
    assert AT not in world.api.stored
    await request_rotation(world)  # whoever asks gets a new one
    made = ring_of(world)
    assert len(made.ids) == 1
    assert rings.published_ids(world.maps.stored[PUBLIC]) == made.ids


@scenario
async def test_backup_that_replaces_the_ring_joins_it(bare: World):
    world = await started(bare)
    old = ring_of(world)
    await request_rotation(world)
    new = ring_of(world)
    tell(world, edit(world, AT, dict(rings.content_of(old, None).data)))
    await world.settle()
    assert ring_of(world) == new


@scenario
async def test_unreadable_ring_is_left_alone_and_what_was_read_still_decrypts(bare: World):
    world = await started(bare)
    text = sealed(world)
    damaged = edit(world, AT, {rings.KEYS: b64encode(b"{").decode()})
    tell(world, damaged)
    key = apply(world, STRIPE_KEY=text)
    await world.settle()
    assert world.ready(key) == ("True", "Ready")
    assert world.api.stored[AT] == damaged
    world = await started(world)
    assert world.api.stored[AT] == damaged
    assert condition(world, key)[1] == "EncryptionKeysMissing"
    assert stored(world) == {"STRIPE_KEY": PLAIN}


@scenario
async def test_published_key_is_put_right(bare: World):
    world = await started(bare)
    good = world.maps.stored[PUBLIC]
    forged = replace(good, data={**good.data, rings.PUBLIC_KEY: b64encode(b"x").decode()}, resource_version=9_000)
    world.maps.stored[PUBLIC], world.maps.version = forged, 9_000
    world.engine.wake(world.engine.inventory.put_config_map(forged))
    await world.settle()
    assert world.maps.stored[PUBLIC].data == good.data
    view = world.maps.stored.pop(PUBLIC)
    world.engine.wake(world.engine.inventory.drop_config_map(*PUBLIC, view.uid))
    await world.settle()
    assert world.maps.stored[PUBLIC].data == good.data


@scenario
async def test_configmap_of_somebody_else_is_not_overwritten(bare: World):
    content, metadata = SecretContent.of("", {"a": b"b"}, {}), Metadata({}, {}, ())
    foreign = await bare.maps.create(*PUBLIC, content, metadata)
    world = await started(bare)
    assert world.maps.stored[PUBLIC] == foreign
    key = apply(world, STRIPE_KEY=sealed(world))
    await world.settle()
    assert world.ready(key) == ("True", "Ready")
    del world.maps.stored[PUBLIC]  # no watch tells of it: it does not carry our label
    await world.settle(LOOK_EVERY)
    assert rings.published_ids(world.maps.stored[PUBLIC]) == ring_of(world).ids


@scenario
async def test_ring_that_is_put_back_without_our_label_is_found(bare: World):
    world = await started(bare)
    backup = world.api.stored.pop(AT)
    world = await started(world)
    assert AT not in world.api.stored
    world.api.stored[AT] = replace(backup, labels={}, annotations={})
    await world.settle(LOOK_EVERY)
    assert ring_of(world) == rings.from_json(backup.value(rings.KEYS))
    assert world.api.stored[AT].labels == backup.labels


@pytest.mark.parametrize("order", ["key first", "value first"])
@scenario
async def test_symmetric_values_need_a_master_key_and_wait_for_it(bare: World, order: str):
    api = bare.api
    masters = MasterKeySecret(api, "system", "master", "keys")
    master = SecretContent.of("Opaque", {"keys": b"# newest\n" + MASTER.hex().encode()}, {})
    if order == "key first":
        await api.create("system", "master", master, Metadata({}, {}, ()))
    world = await started(bare, masters=masters)
    key = apply(world, A=values.encrypt_symmetric(KeyMaterial(PLAIN), KeyMaterial(MASTER)))
    await world.settle()
    if order == "value first":
        assert condition(world, key)[:2] == ("False", "MasterKeyMissing")
        assert "Secret master does not exist" in condition(world, key)[2]
        await api.create("system", "master", master, Metadata({}, {}, ()))
        await world.settle(LOOK_EVERY)
    assert stored(world) == {"A": PLAIN}
    assert world.status(key)["encrypted"]["values"] == [{"name": "A", "form": "Symmetric"}]
    api.stored.pop(("system", "master"))
    await world.settle(LOOK_EVERY)
    apply(world, 2, A=values.encrypt_symmetric(KeyMaterial(b"new"), KeyMaterial(MASTER)))
    await world.settle()
    assert stored(world) == {"A": b"new"}


@scenario
async def test_nobody_is_told_of_missing_master_keys_while_the_server_does_not_answer(bare: World):
    failing = Failing()
    again = world_of(bare, masters=failing)
    again.api.events.clear()
    await again.engine.open_keys()
    key = apply(again, A=values.encrypt_symmetric(KeyMaterial(PLAIN), KeyMaterial(MASTER)))
    await again.settle()
    assert condition(again, key)[1] == "EncryptionKeysNotRead"
    assert not again.api.events
    failing.answers = True
    again.engine.queue.wake(ENCRYPTION_KEYS)
    await again.settle()
    assert stored(again) == {"A": PLAIN}


class Failing:
    """Master keys of a server that does not answer at first."""

    answers = False

    async def read(self) -> tuple[KeyMaterial, ...]:
        if not self.answers:
            raise RetryableError("the API server does not answer")
        return (KeyMaterial(MASTER),)


@scenario
async def test_master_keys_may_be_for_some_namespaces(bare: World):
    masters = MasterKeySecret(bare.api, "system", "master", "keys")
    await bare.api.create(
        "system", "master", SecretContent.of("Opaque", {"keys": MASTER.hex().encode()}, {}), Metadata({}, {}, ())
    )
    world = await started(bare, masters=masters, namespaces=frozenset({"billing"}))
    key = apply(world, A=values.encrypt_symmetric(KeyMaterial(PLAIN), KeyMaterial(MASTER)))
    await world.settle()
    assert condition(world, key)[1] == "MasterKeyNotAllowed"
    assert SECRET not in world.api.stored


@scenario
async def test_values_that_are_not_asked_for_any_more_go(bare: World):
    world = await started(bare)
    apply(world, STRIPE_KEY=sealed(world))
    await world.settle()
    key = world.apply({"hmac": {}}, generation=2)
    await world.settle()
    assert SECRET not in world.api.stored
    assert "encrypted" not in world.status(key)


@scenario
async def test_secret_of_somebody_else_is_not_overwritten(bare: World):
    world = await started(bare)
    foreign = await world.api.create(*SECRET, SecretContent.of("Opaque", {"a": b"b"}, {}), Metadata({}, {}, ()))
    key = apply(world, STRIPE_KEY=sealed(world))
    await world.settle()
    assert condition(world, key)[1] == "Conflict"
    assert world.api.stored[SECRET] == foreign


def test_without_settings_nothing_is_made():
    world = World(FakeApi(), FakeConfigMaps())
    assert not world.engine.encryption.enabled
    assert world.now == T0
