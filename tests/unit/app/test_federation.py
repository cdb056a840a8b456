"""Other trust domains' bundles in the life of an operator: fetched, kept, published, served."""

import asyncio
import json
from datetime import timedelta
from typing import Any

from serviceidentity.app.jwt.federation import Federation
from serviceidentity.domain.jwt import documents, jose
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.material import SecretContent
from serviceidentity.domain.model import trust_domain_key
from serviceidentity.domain.ownership import Metadata
from serviceidentity.errors import PortError, RetryableError
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import scenario
from tests.unit.domain.builders import trust_domain_body

KEYS = [jose.public_jwk(jose.make_key(Algorithm.ES256)[1]) for _ in range(2)]
AT = ("system", "serviceidentity-federation-default")
TD = trust_domain_key("default")
PEER = {"trustDomain": "partner.example", "bundleEndpoint": {"url": "https://partner.example/bundle"}}
MINUTE = timedelta(minutes=1)


def bundle(sequence: int = 1, key: int = 0) -> bytes:
    return documents.bundle((), [KEYS[key]], sequence, 60)


class Elsewhere:
    """The other domain's endpoint."""

    def __init__(self, answer: bytes | PortError) -> None:
        self.answer, self.asked = answer, 0

    async def __call__(self, url: str, authorities: str | None, limit: int) -> bytes:
        self.asked += 1
        if isinstance(self.answer, PortError):
            raise self.answer
        return self.answer


def use(world: World, elsewhere: Elsewhere) -> None:
    engine = world.engine
    engine.federation = Federation(engine.inventory, world.maps, elsewhere, lambda: world.now, engine.wake)
    engine._domains._federation = engine.federation


def ask(world: World, *peers: Any, version: int = 1000) -> None:
    body = trust_domain_body(federatesWith=list(peers))
    body["metadata"] |= {"generation": version, "resourceVersion": str(version)}
    body["status"] = world.api.objects[TD].get("status", {})
    world.api.objects[TD] = body
    world.api.version = max(world.api.version, version)
    world.engine.wake(world.engine.inventory.put_trust_domain(body))


async def rest(world: World, advance: timedelta = timedelta(0)) -> None:
    """Work until nothing is due and nothing is being fetched."""
    world.now += advance
    engine = world.engine
    engine.queue.wake_due()
    engine.start()
    while len(engine.queue) or any(state.fetching for state in engine.federation._states.values()):
        await asyncio.sleep(0.001)
    await engine.stop()


async def federated(world: World, answer: bytes | PortError, peer: Any = PEER) -> Elsewhere:
    elsewhere = Elsewhere(answer)
    use(world, elsewhere)
    ask(world, peer)
    await rest(world)
    return elsewhere


def condition(world: World) -> dict[str, Any]:
    found = world.status(TD)["conditions"]
    return next((one for one in found if one["type"] == "FederationReady"), {})


def published(world: World) -> list[str]:
    view = world.maps.stored.get(AT)
    return [key["kid"] for key in json.loads(view.value("partner.example.jwks.json"))["keys"]] if view else []


@scenario
async def test_a_bundle_is_fetched_published_and_served_and_at_rest_nothing_is_written(world: World):
    elsewhere = await federated(world, bundle())
    assert published(world) == [KEYS[0]["kid"]]
    assert condition(world)["reason"] == "Federated"
    served = world.engine.serving(lambda: True)
    for name in ("jwks.json", "bundle.json"):
        found = served.answer(f"/default/federation/partner.example/{name}")
        assert found.status == 200 and KEYS[0]["kid"].encode() in found.body
    world.api.writes.clear()
    world.maps.writes.clear()
    for _ in range(3):
        await rest(world, MINUTE)
    assert elsewhere.asked >= 4
    assert not world.api.writes and not world.maps.writes


@scenario
async def test_a_new_bundle_replaces_the_last_one_when_that_says_so(world: World):
    elsewhere = await federated(world, bundle())
    elsewhere.answer = bundle(2, key=1)
    await rest(world, timedelta(seconds=30))
    assert published(world) == [KEYS[0]["kid"]]  # not asked yet
    await rest(world, timedelta(seconds=31))
    assert published(world) == [KEYS[1]["kid"]]


@scenario
async def test_an_older_bundle_and_a_wrong_one_are_not_taken_and_the_last_good_one_stays(world: World):
    elsewhere = await federated(world, bundle(5))
    troubles = (
        (bundle(4, key=1), "BundleInvalid"),
        (b"junk", "BundleInvalid"),
        (RetryableError("away"), "FetchFailed"),
    )
    for answer, reason in troubles:
        elsewhere.answer = answer
        await rest(world, MINUTE * 16)
        assert (condition(world)["status"], condition(world)["reason"]) == ("False", reason)
        assert "the last good one stays" in condition(world)["message"]
        assert published(world) == [KEYS[0]["kid"]]
    world.api.writes.clear()
    for _ in range(3):
        await rest(world, MINUTE * 16)
    assert not world.api.writes  # the trouble is told once
    elsewhere.answer = bundle(5)
    await rest(world, MINUTE * 16)
    assert condition(world)["status"] == "True"


@scenario
async def test_trouble_with_it_is_no_trouble_of_the_authorities(world: World):
    await federated(world, RetryableError("away"))
    assert world.ready(TD)[0] == "True"
    assert condition(world)["reason"] == "FetchFailed"
    assert AT not in world.maps.stored


@scenario
async def test_a_restart_goes_on_with_the_last_good_bundle(world: World):
    await federated(world, bundle(5))
    again = World(world.api, world.maps)
    again.now = world.now
    use(again, Elsewhere(bundle(4, key=1)))  # a replay: the sequence is known from the ConfigMap
    again.maps.writes.clear()
    await rest(again)
    assert published(again) == [KEYS[0]["kid"]]
    assert condition(again)["reason"] == "BundleInvalid"
    assert not again.maps.writes


@scenario
async def test_a_restart_in_trouble_tells_it_no_second_time(world: World):
    elsewhere = await federated(world, bundle(5))
    elsewhere.answer = RetryableError("away")
    await rest(world, MINUTE * 16)
    again = World(world.api, world.maps)
    again.now = world.now
    use(again, elsewhere)
    again.api.writes.clear()
    await rest(again)
    assert not again.api.writes


@scenario
async def test_an_edit_is_undone_and_what_nobody_asks_for_is_removed(world: World):
    await federated(world, bundle())
    found = world.maps.stored[AT]
    content = SecretContent.of("", {"partner.example.jwks.json": b"{}"}, {})
    edited = await world.maps.replace(found, content, Metadata(found.labels, found.annotations, found.owners))
    world.engine.wake(world.engine.inventory.put_config_map(edited))
    await rest(world)
    assert published(world) == [KEYS[0]["kid"]]
    ask(world, version=2000)
    await rest(world)
    assert AT not in world.maps.stored
    assert condition(world) == {}


@scenario
async def test_a_config_map_of_somebody_else_is_left_alone(world: World):
    await world.maps.create(*AT, SecretContent.of("", {"theirs": b"x"}, {}), Metadata({}, {}, ()))
    world.maps.writes.clear()
    await federated(world, bundle())
    await rest(world, MINUTE)
    assert condition(world)["reason"] == "Conflict"
    assert not world.maps.writes


@scenario
async def test_a_bundle_may_come_from_a_config_map(world: World):
    here = {"trustDomain": "partner.example", "configMapRef": {"name": "theirs"}}
    await federated(world, RetryableError("not asked"), here)
    assert condition(world)["message"].startswith("partner.example: ConfigMap theirs does not exist")
    content = SecretContent.of("", {"bundle.json": bundle()}, {})
    await world.maps.create("system", "theirs", content, Metadata({}, {}, ()))
    await rest(world, timedelta(seconds=16))
    assert published(world) == [KEYS[0]["kid"]]


@scenario
async def test_bundles_that_are_too_large_take_nothing_from_the_others(world: World):
    others = [{"trustDomain": f"other-{n}", "configMapRef": {"name": f"of-{n}"}} for n in range(3)]
    keys = [KEYS[0] | {"kid": f"{'b' * 2000}{n}", "use": "jwt-svid"} for n in range(100)]
    content = SecretContent.of("", {"bundle.json": json.dumps({"keys": keys}).encode()}, {})
    for n in range(3):
        await world.maps.create("system", f"of-{n}", content, Metadata({}, {}, ()))
    use(world, Elsewhere(bundle()))
    ask(world, PEER, *others)
    await rest(world)
    served = {key.removesuffix(".jwks.json") for key in world.maps.stored[AT].data if key.endswith(".jwks.json")}
    assert served == {"partner.example", "other-1", "other-2"}
    (condition,) = (c for c in world.status(TD)["conditions"] if c["type"] == "FederationReady")
    assert (condition["status"], condition["reason"]) == ("False", "TooLarge")
    assert condition["message"].startswith("other-0: ")
