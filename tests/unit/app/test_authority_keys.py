"""Private keys of authorities, from plain to encrypted and back, with key-encryption keys that come and go."""

import asyncio
import json
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import wraps
from typing import Any

import pytest

from serviceidentity.app.inventory import Location
from serviceidentity.app.keyguard import KeyEncryptionKeys
from serviceidentity.domain.authority.sealing import REWRAP_ANNOTATION
from serviceidentity.domain.material import KeyMaterial, SecretView
from serviceidentity.domain.model import Key, trust_domain_key
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.envelope import WrappedKey
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.local_keys import LocalKey
from serviceidentity.errors import MissingError, PortError, RejectedError, RetryableError
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import TLS, edit, passes_when_left_alone, tell

DOMAIN = trust_domain_key("default")
ROOT: Location = ("system", "default-root-1")
INTERMEDIATE: Location = ("system", "default-intermediate-1")
SECOND = timedelta(seconds=1)


class Safe:
    """Key-encryption keys in memory, counted, and away when a test says so."""

    check_every = timedelta(minutes=1)

    def __init__(self, *names: str, scheme: str = "safe") -> None:
        self.scheme = scheme
        self.names = list(names or ("one",))
        self.error: PortError | None = None
        self.wrap_error: PortError | None = None
        self.asked: Counter[str] = Counter()
        self.pause = 0.0

    def _key(self, kek: str) -> LocalKey:
        name = kek.removeprefix(f"{self.scheme}:")
        if name not in self.names:
            raise MissingError(f"key {kek} is not here")
        return LocalKey(name, KeyMaterial(name.encode().ljust(32, b"!")))

    def _ask(self, what: str) -> None:
        self.asked[what] += 1
        if self.error is not None:
            raise self.error

    def knows(self, kek: str) -> bool:
        return kek.startswith(f"{self.scheme}:")

    async def current(self) -> str:
        self._ask("current")
        return f"{self.scheme}:{self.names[0]}"

    async def wrap(self, data_key: KeyMaterial, context: bytes) -> WrappedKey:
        self._ask("wrap")
        if self.wrap_error is not None:
            raise self.wrap_error
        await asyncio.sleep(0)
        kek = f"{self.scheme}:{self.names[0]}"
        return WrappedKey(kek, self._key(kek).wrap(data_key, context))

    async def unwrap(self, wrapped: WrappedKey, context: bytes) -> KeyMaterial:
        self._ask("unwrap")
        await asyncio.sleep(self.pause)
        try:
            return self._key(wrapped.kek).unwrap(wrapped.text, context)
        except PkiError:
            raise RejectedError("it does not fit") from None

    async def rewrap(self, wrapped: WrappedKey, context: bytes) -> WrappedKey:
        self._ask("rewrap")
        return await self.wrap(await self.unwrap(wrapped, context), context)


def with_safe(safe: Safe | None) -> KeyEncryptionKeys:
    return KeyEncryptionKeys(safe, (safe,)) if safe else KeyEncryptionKeys()


def scenario(test: Callable[[World, Safe], Awaitable[None]]) -> Callable[[], None]:
    """Run a test with a world whose authorities are encrypted, an identity in it, and the safe."""

    @wraps(test)
    def run() -> None:
        async def inside() -> None:
            safe = Safe()
            world = World(keys=with_safe(safe))
            world.trust_domain()
            world.apply({"certificate": {}})
            await world.settle()
            world.api.writes.clear()
            safe.asked.clear()
            await test(world, safe)

        asyncio.run(inside())

    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would take its parameters for fixtures
    return run


async def restarted(world: World, given: KeyEncryptionKeys) -> World:
    again = World(world.api, world.maps, given)
    again.now = world.now
    await again.engine.open_keys()
    await again.settle()
    return again


def stored(world: World, at: Location) -> bytes:
    return b64decode(world.api.stored[at].data["tls.key"])


def kek(world: World, at: Location) -> str:
    return str(json.loads(stored(world, at))["kek"])


def condition(world: World, type_: str) -> dict[str, Any]:
    return next((one for one in world.status(DOMAIN)["conditions"] if one["type"] == type_), {})


def authority_secrets(world: World) -> dict[Location, SecretView]:
    return {at: view for at, view in world.api.stored.items() if at[0] == "system"}


def annotate(world: World, **annotations: str) -> None:
    body = world.api.objects[DOMAIN]
    world.api.version += 1
    metadata = body["metadata"] | {"annotations": annotations, "resourceVersion": str(world.api.version)}
    world.api.objects[DOMAIN] = body | {"metadata": metadata}
    world.engine.wake(world.engine.inventory.put_trust_domain(world.api.objects[DOMAIN]))


def another(world: World) -> Key:
    """One more identity, that wants a signature."""
    return world.apply({"certificate": {}}, name="another", uid="uid-2")


@scenario
async def test_a_new_authority_is_never_stored_in_plain(world: World, safe: Safe):
    assert {kek(world, at) for at in (ROOT, INTERMEDIATE)} == {"safe:one"}
    assert condition(world, "KeysEncrypted")["status"] == "True"
    assert {one["keyEncryptionKey"] for one in world.status(DOMAIN)["authorities"]} == {"safe:one"}


@scenario
async def test_a_restart_opens_each_key_once_and_writes_nothing(world: World, safe: Safe):
    again = await restarted(world, with_safe(safe))
    assert safe.asked == {"unwrap": 2, "current": 1}
    again.echo()
    await again.settle()
    another(again)
    await again.settle(timedelta(seconds=30))
    assert safe.asked == {"unwrap": 2, "current": 1}
    assert authority_secrets(again) == authority_secrets(world)
    assert world.api.writes == {"create": 1, "status": 1}


@pytest.mark.parametrize("algorithm", [{"algorithm": "ECDSA"}, {"algorithm": "Ed25519"}])
def test_plain_keys_are_encrypted_in_place_one_write_each(algorithm: dict[str, str]):
    async def run() -> None:
        world = World()
        world.trust_domain(root={"privateKey": algorithm})
        world.apply({"certificate": {}})
        await world.settle()
        before = dict(world.api.stored)
        world.api.writes.clear()
        again = await restarted(world, with_safe(Safe()))
        assert again.api.writes == {"replace": 2, "status": 1}
        assert again.api.stored[TLS] == before[TLS]
        for at in (ROOT, INTERMEDIATE):
            plain = keys.load(before[at].value("tls.key"))
            assert before[at].value("tls.key") not in stored(again, at)
            assert again.api.stored[at].data["tls.crt"] == before[at].data["tls.crt"]
            issuer = certificates.load_chain(again.api.stored[at].value("tls.crt"))[0]
            assert certificates.key_matches(issuer, plain)
        again.api.writes.clear()
        third = await restarted(again, with_safe(Safe()))
        assert not third.api.writes
        waiting = another(third)
        await third.settle()
        assert third.ready(waiting)[0] == "True"

    asyncio.run(run())


@scenario
async def test_without_the_key_nothing_is_made_and_what_is_there_stays(world: World, safe: Safe):
    kept = dict(world.api.stored)
    listed = world.status(DOMAIN)["authorities"]
    for given, told in [(None, "safe:one, which this operator was not given"), (Safe("two"), "safe:one is not here")]:
        bereft = await restarted(world, with_safe(given))
        assert bereft.ready(DOMAIN) == ("False", "AuthorityUnreadable")
        assert told in condition(bereft, "Ready")["message"]
        waiting = another(bereft)
        for _ in range(5):
            await bereft.settle(timedelta(minutes=10))
        assert bereft.ready(waiting) == ("False", "TrustDomainNotReady")
        assert told in bereft.status(waiting)["conditions"][0]["message"]
        assert dict(bereft.api.stored) == kept
        assert bereft.status(DOMAIN)["authorities"] == listed
        assert await passes_when_left_alone(bereft) == 0
    back = await restarted(world, with_safe(safe))
    assert back.ready(DOMAIN)[0] == "True"
    assert back.ready(waiting)[0] == "True"
    assert kept.items() <= back.api.stored.items()


@scenario
async def test_a_bundle_is_still_put_back_while_keys_are_out_of_reach(world: World, safe: Safe):
    bereft = await restarted(world, with_safe(None))
    edited = edit(bereft, TLS, {"ca.crt": "anVuaw=="})
    tell(bereft, edited)
    await bereft.settle()
    assert bereft.api.stored[TLS].data["ca.crt"] == world.engine.inventory.remembered[TLS].data["ca.crt"]


@scenario
async def test_out_of_reach_at_the_start_it_is_found_again_within_seconds(world: World, safe: Safe):
    safe.error = RetryableError("the safe does not answer")
    again = await restarted(world, with_safe(safe))
    assert condition(again, "Ready")["message"].endswith("the safe does not answer")
    before = safe.asked["unwrap"]
    for _ in range(60):
        await again.settle(SECOND)
    assert 2 * 4 <= safe.asked["unwrap"] - before <= 2 * 8, "again and again, but not each second"
    assert again.api.writes == {"status": 1}, "told once"
    safe.error = None
    for _ in range(15):
        await again.settle(SECOND)
    assert again.ready(DOMAIN)[0] == "True"
    waiting = another(again)
    await again.settle()
    assert again.ready(waiting)[0] == "True"


@scenario
async def test_out_of_reach_later_it_is_not_missed(world: World, safe: Safe):
    safe.error = RetryableError("the safe does not answer")
    waiting = another(world)
    await world.settle(timedelta(hours=2))
    assert world.ready(waiting)[0] == "True"
    assert world.ready(DOMAIN)[0] == "True"
    assert condition(world, "KeysEncrypted")["status"] == "True"
    assert "does not answer" in condition(world, "KeysEncrypted")["message"]
    safe.error = None
    await world.settle(timedelta(minutes=1))
    assert "does not answer" not in condition(world, "KeysEncrypted")["message"]


@scenario
async def test_a_newer_key_wraps_anew_and_nothing_else_changes(world: World, safe: Safe):
    before, leaf = dict(world.api.stored), world.api.stored[TLS]
    safe.names.insert(0, "two")
    await world.settle(timedelta(seconds=59))
    assert not world.api.writes
    await world.settle(SECOND)
    assert world.api.writes == {"replace": 2, "status": 1}
    for at in (ROOT, INTERMEDIATE):
        old, new = json.loads(b64decode(before[at].data["tls.key"])), json.loads(stored(world, at))
        assert new["kek"] == "safe:two"
        assert (new["iv"], new["ciphertext"]) == (old["iv"], old["ciphertext"])
    assert world.api.stored[TLS] is leaf
    safe.names.remove("one")
    again = await restarted(world, with_safe(safe))
    assert again.ready(DOMAIN)[0] == "True"


@scenario
async def test_a_key_that_is_newer_than_anyone_looked_is_taken_up_once(world: World, safe: Safe):
    safe.names.insert(0, "two")
    annotate(world, **{"serviceidentity.dev/rotate": "1"})
    await world.settle()
    assert {kek(world, at) for at in authority_secrets(world)} == {"safe:two"}
    assert world.api.writes["replace"] == 2
    world.echo()
    for _ in range(3):
        world.engine.wake([DOMAIN])
        await world.settle(SECOND)
    assert world.api.writes["replace"] == 2


@scenario
async def test_one_who_has_not_heard_of_a_newer_key_does_not_undo_it(world: World, safe: Safe):
    safe.names.insert(0, "two")
    await restarted(world, with_safe(safe))
    assert kek(world, ROOT) == "safe:two"
    writes = world.api.writes["replace"]
    world.echo()
    await world.settle()
    assert world.api.writes["replace"] == writes
    assert world.ready(DOMAIN)[0] == "True"


@scenario
async def test_a_key_taken_away_too_early_costs_nothing_while_the_operator_runs(world: World, safe: Safe):
    before = world.api.stored[ROOT]
    safe.names[:] = ["two"]
    await world.settle(timedelta(minutes=1))
    assert world.ready(DOMAIN)[0] == "True"
    assert kek(world, ROOT) == kek(world, INTERMEDIATE) == "safe:two"
    assert world.api.stored[ROOT].data["tls.crt"] == before.data["tls.crt"]
    again = await restarted(world, with_safe(safe))
    waiting = another(again)
    await again.settle()
    assert again.ready(waiting)[0] == "True"


@scenario
async def test_the_annotation_asks_for_new_data_keys_once(world: World, safe: Safe):
    before = dict(world.api.stored)
    annotate(world, **{REWRAP_ANNOTATION: "1"})
    await world.settle()
    for at in (ROOT, INTERMEDIATE):
        assert (
            json.loads(stored(world, at))["ciphertext"]
            != json.loads(b64decode(before[at].data["tls.key"]))["ciphertext"]
        )
    assert world.api.writes["replace"] == 2
    again = await restarted(world, with_safe(safe))
    await again.settle(timedelta(hours=1))
    assert world.api.writes["replace"] == 2
    annotate(again, **{REWRAP_ANNOTATION: "1", "serviceidentity.dev/rotate": "1"})
    await again.settle()
    assert world.api.writes["create"] == 1, "a new authority is not wrapped a second time"
    assert world.api.writes["replace"] == 2


@scenario
async def test_from_one_kind_of_key_to_another_and_back_to_plain(world: World, safe: Safe):
    plain = world.engine._trust.keys.key_of(world.engine.inventory.domains[DOMAIN].spec, world.api.stored[ROOT])  # type: ignore[arg-type]
    other = Safe("x", scheme="other")
    second = await restarted(world, KeyEncryptionKeys(other, (other, safe)))
    assert {kek(second, at) for at in (ROOT, INTERMEDIATE)} == {"other:x"}
    third = await restarted(second, KeyEncryptionKeys(None, (other,)))
    assert isinstance(plain, KeyMaterial)
    assert stored(third, ROOT) == plain.reveal()
    assert condition(third, "KeysEncrypted") == {}
    assert "keyEncryptionKey" not in third.status(DOMAIN)["authorities"][0]
    assert not (await restarted(third, with_safe(None))).api.writes - third.api.writes


@scenario
async def test_moved_to_another_secret_it_does_not_open(world: World, safe: Safe):
    mine, other = world.api.stored[ROOT].data, world.api.stored[INTERMEDIATE].data
    edit(world, ROOT, {"tls.key": other["tls.key"]})
    again = await restarted(world, with_safe(safe))
    assert again.ready(DOMAIN) == ("False", "AuthorityUnreadable")
    # The certificate goes along: still not in this Secret.
    edit(world, ROOT, {"tls.key": other["tls.key"], "tls.crt": other["tls.crt"]})
    again = await restarted(world, with_safe(safe))
    assert again.ready(DOMAIN) == ("False", "AuthorityUnreadable")
    assert set(authority_secrets(again)) == {ROOT, INTERMEDIATE}
    # Put back as it was, with the ID that it always had, it is not taken for an edit of what was wrong.
    tell(again, edit(again, ROOT, dict(mine)))
    await again.settle(timedelta(seconds=20))
    assert again.ready(DOMAIN)[0] == "True"
    assert again.api.stored[ROOT].data == mine


@scenario
async def test_under_another_role_it_does_not_open(world: World, safe: Safe):
    labels = {**world.api.stored[INTERMEDIATE].labels, "serviceidentity.dev/authority-role": "Root"}
    edit(world, INTERMEDIATE, labels=labels)
    again = await restarted(world, with_safe(safe))
    assert again.ready(DOMAIN) == ("False", "AuthorityUnreadable")


@scenario
async def test_for_another_spiffe_trust_domain_it_does_not_open(world: World, safe: Safe):
    """Not even when what the Secrets say of themselves is changed along."""
    for at in (ROOT, INTERMEDIATE):
        annotations = {**world.api.stored[at].annotations, "serviceidentity.dev/spiffe-trust-domain": "other.org"}
        edit(world, at, annotations=annotations)
    world.api.objects[DOMAIN]["spec"]["trustDomain"] = "other.org"
    again = await restarted(world, with_safe(safe))
    assert again.ready(DOMAIN) == ("False", "AuthorityUnreadable")


@scenario
async def test_an_edited_envelope_is_put_back(world: World, safe: Safe):
    good = world.api.stored[ROOT].data
    tell(world, edit(world, ROOT, {"tls.key": b64encode(b"{}").decode()}))
    await world.settle()
    assert world.api.stored[ROOT].data == good
    assert not safe.asked, "what it should be is in memory"


@scenario
async def test_what_another_operator_wrapped_anew_is_used_without_a_pause(world: World, safe: Safe):
    await (await restarted(world, with_safe(Safe("two", "one")))).settle(timedelta(minutes=1))
    safe.names.insert(0, "two")
    safe.error = RetryableError("the safe does not answer")
    for at in (ROOT, INTERMEDIATE):
        world.engine.wake(world.engine.inventory.put_secret(world.api.stored[at]))
    waiting = another(world)
    await world.settle()
    assert kek(world, ROOT) == "safe:two"
    assert world.ready(DOMAIN)[0] == "True"
    assert world.ready(waiting)[0] == "True"


def test_what_cannot_be_encrypted_is_not_stored():
    async def run() -> None:
        safe = Safe()
        safe.error = RejectedError("the safe does not allow this")
        world = World(keys=with_safe(safe))
        world.trust_domain()
        waiting = world.apply({"certificate": {}})
        await world.settle()
        assert world.ready(DOMAIN) == ("False", "KeyEncryptionFailed")
        assert world.ready(waiting)[0] == "False"
        assert not world.api.stored
        assert await passes_when_left_alone(world) == 0
        safe.error = None
        await world.settle(SECOND)
        await world.settle()
        assert world.ready(waiting)[0] == "True"
        assert kek(world, ROOT) == "safe:one"

    asyncio.run(run())


def test_a_key_that_may_look_but_not_wrap_is_not_asked_each_second():
    async def run() -> None:
        safe, plain = Safe(), World()
        plain.trust_domain()
        await plain.settle()
        safe.wrap_error = RejectedError("the safe does not allow this")
        world = await restarted(plain, with_safe(safe))
        assert world.ready(DOMAIN)[0] == "True", "what is stored in plain works as before"
        assert condition(world, "KeysEncrypted")["status"] == "False"
        assert "does not allow" in condition(world, "KeysEncrypted")["message"]
        before, written = safe.asked["wrap"], world.api.writes.total()
        for _ in range(60):
            await world.settle(SECOND)
        assert 4 <= safe.asked["wrap"] - before <= 8
        assert world.api.writes.total() == written
        safe.wrap_error = None
        for _ in range(15):
            await world.settle(SECOND)
        assert condition(world, "KeysEncrypted")["status"] == "True"
        assert "does not allow" not in condition(world, "KeysEncrypted")["message"]

    asyncio.run(run())


@scenario
async def test_tainting_is_the_way_out_when_a_key_is_lost_for_good(world: World, safe: Safe):
    fingerprints = [one["fingerprint"] for one in world.status(DOMAIN)["authorities"]]
    body = world.api.objects[DOMAIN]
    body["spec"]["taintedAuthorities"] = [{"fingerprint": one} for one in fingerprints]
    body["spec"]["propagation"] = "0s"
    world.api.version += 1
    body["metadata"] = body["metadata"] | {"generation": 2, "resourceVersion": str(world.api.version)}
    again = await restarted(world, with_safe(Safe("new")))
    for _ in range(10):
        again.echo()
        await again.settle(timedelta(seconds=5))
    assert again.ready(DOMAIN)[0] == "True"
    assert kek(again, ("system", "default-root-2")) == "safe:new"
    assert again.api.stored[TLS].data["tls.crt"] != world.engine.inventory.remembered[TLS].data["tls.crt"]


@scenario
async def test_a_problem_of_another_kind_does_not_make_it_look_all_the_time(world: World, safe: Safe):
    safe.names.insert(0, "two")
    replace = world.api.replace

    async def refuse(*_: object) -> SecretView:
        raise RejectedError("the API server does not allow this")

    world.api.replace = refuse  # type: ignore[assignment]
    for _ in range(5):
        await world.settle(timedelta(minutes=1))
    assert world.ready(DOMAIN) == ("False", "Rejected")
    assert await passes_when_left_alone(world) == 0
    world.api.replace = replace  # type: ignore[method-assign]
    await world.settle(timedelta(hours=1))
    assert kek(world, ROOT) == "safe:two"


@pytest.mark.parametrize("away", [True, False])
def test_a_time_that_passes_while_a_pass_is_under_way_is_made_up_for(away: bool):
    @scenario
    async def inside(world: World, safe: Safe) -> None:
        safe.error = RetryableError("the safe does not answer") if away else None
        again = await restarted(world, with_safe(safe))
        for _ in range(3):
            again.now += timedelta(hours=2)
            look = again.engine._trust.keys.next_look("default")
            assert look is not None
            assert again.now < look < again.now + timedelta(seconds=15)

    inside()


@scenario
async def test_a_clock_that_is_put_back_holds_up_no_retry(world: World, safe: Safe):
    safe.error = RetryableError("the safe does not answer")
    world.now += timedelta(days=30)
    again = await restarted(world, with_safe(safe))
    assert again.ready(DOMAIN) == ("False", "AuthorityUnreadable")
    safe.error = None
    await again.settle(timedelta(days=-30))
    assert again.ready(DOMAIN)[0] == "True"
    safe.names.insert(0, "two")
    await again.settle(timedelta(minutes=1))
    assert kek(again, ROOT) == "safe:two"


@scenario
async def test_what_cannot_be_opened_is_not_taken_for_what_should_be_there(world: World, safe: Safe):
    """A tainted authority holds nothing up, so the others are looked after; its own Secret is nobody's measure."""
    good = world.api.stored[INTERMEDIATE].data
    fingerprint = next(one["fingerprint"] for one in world.status(DOMAIN)["authorities"] if one["role"] != "Root")
    body = world.api.objects[DOMAIN]
    body["spec"]["taintedAuthorities"] = [{"fingerprint": fingerprint}]
    body["metadata"] = body["metadata"] | {"generation": 2}
    edit(world, INTERMEDIATE, {"tls.key": b64encode(b"{}").decode()})
    again = await restarted(world, with_safe(safe))
    assert again.ready(DOMAIN)[0] == "True"
    tell(again, edit(again, INTERMEDIATE, dict(good)))
    await again.settle()
    assert again.api.stored[INTERMEDIATE].data == good


@scenario
async def test_with_the_status_lost_too_all_that_can_be_told_is_told(world: World, safe: Safe):
    listed = world.status(DOMAIN)["authorities"]
    world.api.objects[DOMAIN]["status"] = {}
    bereft = await restarted(world, with_safe(None))
    assert bereft.ready(DOMAIN) == ("False", "AuthorityUnreadable")
    assert bereft.status(DOMAIN)["authorities"] == listed


@scenario
async def test_identities_do_not_notice_that_keys_are_opened_first(world: World, safe: Safe):
    waiting = another(world)
    safe.pause = 0.02
    again = await restarted(world, with_safe(safe))
    assert again.ready(waiting)[0] == "True"
    assert again.api.writes == {"create": 1, "status": 1}


@scenario
async def test_a_domain_that_is_gone_takes_its_keys_along(world: World, safe: Safe):
    world.engine.wake(world.engine.inventory.drop_trust_domain("default"))
    await world.settle()
    assert not world.engine._trust.keys._domains


@scenario
async def test_what_could_not_be_encrypted_and_is_not_asked_for_any_more_is_not_told_for_ever(world: World, safe: Safe):
    safe.error = RetryableError("sealed")
    annotate(world, **{"serviceidentity.dev/rotate-root": "1"})
    await world.settle()
    assert "sealed" in condition(world, "KeysEncrypted")["message"]
    safe.error = None
    annotate(world)
    await world.settle(timedelta(minutes=1))
    assert condition(world, "KeysEncrypted")["message"] == "encrypted with safe:one"
