"""Trust bundles in namespaces: who gets one, what happens to it, and what a new root waits for."""

import asyncio
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import timedelta

import pytest

from serviceidentity.domain.bundle import BUNDLE_LABEL, Place
from serviceidentity.domain.material import SecretContent
from serviceidentity.domain.model import StoreKind, trust_domain_key
from serviceidentity.domain.ownership import Metadata
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.errors import ConflictError, MissingError, RejectedError, RetryableError
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import edit, passes_when_left_alone, restarted, scenario
from tests.unit.domain.test_bundle import pem, root
from tests.unit.pki.builders import key_for

DEFAULT = trust_domain_key("default")
NAME = "default-trust-bundle"
ALL = {"namespaceSelector": {}}
SHOP, ATTIC = ("shop", NAME), ("attic", NAME)


def namespace(world, name, *, gone=False, **labels):
    world.api.version += 1
    meta = {"name": name, "resourceVersion": str(world.api.version), "labels": labels}
    if gone:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.engine.wake(world.engine.inventory.put_namespace({"metadata": meta}))


def change(world, annotations=None, **spec):
    body = world.api.objects[DEFAULT]
    body["spec"] |= spec
    meta = body["metadata"]
    world.api.version += 1
    meta |= {"generation": meta["generation"] + 1, "resourceVersion": str(world.api.version)}
    meta["annotations"] = meta.get("annotations", {}) | (annotations or {})
    world.engine.wake(world.engine.inventory.put_trust_domain(body))


async def publish(world, *names, extra=(), **target):
    for name in names:
        namespace(world, name)
    change(world, bundle={"target": ALL | target, "extraRoots": list(extra)}, propagation="1h", maxLeafDuration="24h")
    await world.settle()


def condition(world):
    return next((c for c in world.status(DEFAULT)["conditions"] if c["type"] == "BundleReady"), None)


def roots_in(world, at):
    return len(certificates.load_chain(world.maps.stored[at].value("ca.crt")))


def states(world):
    return {a["secretName"].removeprefix("default-"): a["state"] for a in world.status(DEFAULT)["authorities"]}


async def strange(world, at, **data):
    content = SecretContent.of("", {key: value.encode() for key, value in data.items()}, {})
    await world.maps.create(*at, content, Metadata({}, {}, ()))
    world.maps.writes.clear()


def change_map(world, at, **fields):
    """Edit a copy behind the operator's back and let the watch tell."""
    world.maps.version += 1
    view = replace(world.maps.stored[at], resource_version=world.maps.version, **fields)
    world.maps.stored[at] = view
    world.engine.wake(world.engine.inventory.put_config_map(view))


@scenario
async def test_every_selected_namespace_has_the_bundle_and_the_status_says_so(world):
    await publish(world, "shop", "attic")
    assert set(world.maps.stored) == {SHOP, ATTIC}
    assert world.status(DEFAULT)["bundle"] | {"digest": ""} == {
        "kind": "ConfigMap", "name": NAME, "namespaces": 2, "published": 2, "roots": 1, "sequence": 1, "digest": "",
    }  # fmt: skip
    assert condition(world)["status"] == "True"
    assert world.maps.stored[SHOP].owners == (), "deletionPolicy Retain"


@scenario
async def test_without_a_selector_nothing_is_published(world):
    namespace(world, "shop")
    change(world, bundle={})
    await world.settle()
    assert world.maps.stored == {}
    assert condition(world)["reason"] == "NoNamespaces"


@scenario
async def test_labels_decide_and_what_is_deselected_goes(world):
    namespace(world, "shop", trust="yes")
    await publish(world, "attic", namespaceSelector={"matchLabels": {"trust": "yes"}})
    assert set(world.maps.stored) == {SHOP}
    namespace(world, "attic", trust="yes")
    await world.settle()
    assert set(world.maps.stored) == {SHOP, ATTIC}
    namespace(world, "shop")
    await world.settle()
    assert set(world.maps.stored) == {ATTIC}
    assert world.status(DEFAULT)["bundle"]["namespaces"] == 1


@scenario
async def test_a_namespace_on_its_way_out_gets_nothing_and_nobody_waits_for_it(world):
    namespace(world, "attic", gone=True)
    await publish(world, "shop")
    assert set(world.maps.stored) == {SHOP}
    namespace(world, "shop", gone=True)
    await world.settle()
    assert set(world.maps.stored) == {SHOP}, "what is in it goes with it"
    assert world.status(DEFAULT)["bundle"]["namespaces"] == 0


@scenario
async def test_a_namespace_that_vanishes_between_look_and_write_is_no_trouble(world):
    world.maps.failures = [MissingError("gone")]
    await publish(world, "shop")
    assert condition(world)["status"] == "True"
    assert world.status(DEFAULT)["bundle"]["namespaces"] == 0


@pytest.mark.parametrize("formats", [["PEM"], ["JKS", "PKCS12", "SPIFFE"]])
@scenario
async def test_restarts_write_nothing(world, formats):
    await publish(world, "shop", "attic", formats=formats)
    for one in (world.api, world.maps):
        one.writes.clear()
    for _ in range(3):
        world = await restarted(world)
        world.now += timedelta(minutes=30)
    assert (world.api.writes, world.maps.writes) == ({}, {})
    assert await passes_when_left_alone(world) == 0


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is down"])
@scenario
async def test_drift_is_repaired_with_what_was_there_and_nothing_else_is_written(world, running):
    await publish(world, "shop", "attic", formats=["JKS", "PKCS12", "SPIFFE"])
    before = dict(world.maps.stored)
    world.maps.writes.clear()
    change_map(world, SHOP, data={**before[SHOP].data, "truststore.p12": "MAA=", "ca.crt": "eA=="})
    if running:
        await world.settle()
    else:
        world = await restarted(world)
    now = world.maps.stored
    keep = {"ca.crt", "truststore.jks", "bundle.spiffe.json"}
    assert {key: now[SHOP].data[key] for key in keep} == {key: before[SHOP].data[key] for key in keep}
    assert now[ATTIC] == before[ATTIC]
    assert world.maps.writes == {"replace": 1}
    if running:
        assert now[SHOP].data == before[SHOP].data


@scenario
async def test_a_deleted_copy_is_back_and_a_copy_whose_labels_went_is_still_ours(world):
    await publish(world, "shop")
    before = world.maps.stored.pop(SHOP)
    world.engine.wake(world.engine.inventory.drop_config_map(*SHOP, before.uid))
    await world.settle()
    again = world.maps.stored[SHOP]
    assert again.data == before.data
    # Without our label the watch shows it as deleted.
    world.maps.stored[SHOP] = replace(again, labels={}, annotations={}, resource_version=world.maps.version + 1)
    world.maps.version += 1
    world.engine.wake(world.engine.inventory.drop_config_map(*SHOP, again.uid))
    await world.settle()
    assert world.maps.stored[SHOP].labels == again.labels
    assert world.maps.stored[SHOP].uid == again.uid


@scenario
async def test_an_immutable_copy_is_made_anew_when_it_has_to_change(world):
    await publish(world, "shop")
    change_map(world, SHOP, immutable=True)
    await world.settle()
    world.maps.writes.clear()
    change(world, annotations={"serviceidentity.dev/rotate-root": "1"})
    await world.settle()
    assert world.maps.writes == {"delete": 1, "create": 1}
    assert roots_in(world, SHOP) == 2


@scenario
async def test_a_strangers_config_map_is_left_alone_reported_once_and_looked_at_again_at_leisure(world):
    await strange(world, SHOP, mine="1")
    await publish(world, "shop", "attic")
    assert world.maps.stored[SHOP].data == {"mine": b64encode(b"1").decode()}
    assert set(world.maps.stored) == {SHOP, ATTIC}
    assert condition(world)["reason"] == "Conflict"
    assert "shop" in condition(world)["message"]
    assert world.ready(DEFAULT) == ("True", "Ready")
    assert [reason for reason, _ in world.api.events if reason == "Conflict"] == ["Conflict"]
    world.maps.writes.clear()
    world.api.writes.clear()
    assert await passes_when_left_alone(world) == 0
    attempts: list[object] = []
    create = world.maps.create

    async def noted(*given):
        attempts.append(given)
        return await create(*given)

    world.maps.create = noted
    world = await restarted(world)
    await world.settle(timedelta(minutes=2))
    assert (world.maps.writes, world.api.writes, attempts) == ({}, {}, [])
    del world.maps.stored[SHOP]
    await world.settle(timedelta(minutes=20))
    assert condition(world)["reason"] == "Published"


@scenario
async def test_the_name_of_an_authoritys_secret_is_not_for_the_taking(world):
    change(world, deletionPolicy="Delete")
    await world.settle()
    before = {name: view.data for name, view in world.api.stored.items()}
    await publish(world, "system", "shop", kind="Secret", name="default-root-1")
    assert {name: world.api.stored[name].data for name in before} == before
    assert condition(world)["reason"] == "Conflict"
    assert ("shop", "default-root-1") in world.api.stored
    assert world.ready(DEFAULT) == ("True", "Ready")


@scenario
async def test_a_secret_in_the_operators_namespace_is_a_copy_and_no_authority(world):
    await publish(world, "system", kind="Secret")
    assert world.ready(DEFAULT) == ("True", "Ready")
    again = await restarted(world)
    assert again.ready(DEFAULT) == ("True", "Ready")
    view = edit(world, ("system", NAME), {"ca.crt": "eA=="})
    again.engine.wake(again.engine.inventory.put_secret(view))
    await again.settle()
    assert b64decode(again.api.stored["system", NAME].data["ca.crt"]).startswith(b"-----BEGIN")


@scenario
async def test_another_name_or_kind_takes_the_place_of_the_old_and_no_bundle_takes_all_away(world):
    await publish(world, "shop", "attic")
    world.maps.failures = [RejectedError("quota")]
    await publish(world, name="other")
    assert {at for at in world.maps.stored if at[0] == "attic"} in ({ATTIC}, {("attic", "other")})
    assert len(world.maps.stored) == 2, "where the new one could not be written the old one stays"
    await world.settle(timedelta(minutes=2))
    assert set(world.maps.stored) == {("shop", "other"), ("attic", "other")}
    await publish(world, kind="Secret")
    assert world.maps.stored == {}
    assert SHOP in world.api.stored
    change(world, bundle=None)
    await world.settle()
    assert SHOP not in world.api.stored
    assert "bundle" not in world.status(DEFAULT)
    assert condition(world) is None


@scenario
async def test_a_removal_that_fails_is_tried_again(world):
    await publish(world, "shop")
    world.maps.failures = [RetryableError("away")]
    change(world, bundle=None)
    await world.settle()
    assert set(world.maps.stored) == {SHOP}
    await world.settle(timedelta(seconds=10))
    assert world.maps.stored == {}


@scenario
async def test_a_new_root_waits_for_every_namespace_but_for_none_in_conflict(world):
    await strange(world, SHOP, mine="1")
    await publish(world, "shop", "attic", "cellar")
    world.maps.failures = [RejectedError("quota")]
    change(world, annotations={"serviceidentity.dev/rotate-root": "1"})
    await world.settle()
    assert states(world)["root-2"] == "Prepared"
    (late,) = (at for at in (ATTIC, ("cellar", NAME)) if roots_in(world, at) == 1)
    assert f"namespace {late[0]}" in world.status(DEFAULT)["conditions"][0]["message"]
    await world.settle(timedelta(minutes=1))
    assert roots_in(world, late) == 2
    published = [a for a in world.status(DEFAULT)["authorities"] if a.get("publishedTime")]
    assert len(published) == 1
    assert states(world)["root-2"] == "Prepared"
    await world.settle(timedelta(minutes=59))
    assert states(world)["root-2"] == "Prepared"
    await world.settle(timedelta(minutes=1))
    assert states(world)["root-2"] == "Active"


@scenario
async def test_an_operator_killed_between_publishing_and_noting_it_goes_on(world):
    await publish(world, "shop")
    change(world, annotations={"serviceidentity.dev/rotate-root": "1"})
    await world.settle()
    at = ("system", "default-root-2")
    view = world.api.stored[at]
    annotations = {k: v for k, v in view.annotations.items() if k != "serviceidentity.dev/published-at"}
    assert annotations != view.annotations
    edit(world, at, annotations=annotations)
    again = await restarted(world)
    assert "serviceidentity.dev/published-at" in again.api.stored[at].annotations


@scenario
async def test_a_stranger_who_takes_the_place_of_a_pending_copy_is_not_waited_for(world):
    await publish(world, "shop")
    world.maps.failures = [RejectedError("quota")]
    change(world, annotations={"serviceidentity.dev/rotate-root": "1"})
    await world.settle()
    assert "namespace shop" in world.status(DEFAULT)["conditions"][0]["message"]
    old = world.maps.stored.pop(SHOP)
    await strange(world, SHOP, mine="1")
    world.engine.wake(world.engine.inventory.drop_config_map(*SHOP, old.uid))
    await world.settle(timedelta(minutes=1))
    assert condition(world)["reason"] == "Conflict"
    assert "waits" not in world.status(DEFAULT)["conditions"][0]["message"]
    await world.settle(timedelta(hours=1))
    assert states(world)["root-2"] == "Active"


@scenario
async def test_the_sequence_grows_with_each_change_of_roots_and_is_the_same_everywhere(world):
    await publish(world, "shop", "attic", formats=["SPIFFE"])
    change(world, annotations={"serviceidentity.dev/rotate-root": "1"})
    await world.settle()
    assert world.status(DEFAULT)["bundle"]["sequence"] == 2
    namespace(world, "late")
    world = await restarted(world)
    found = {view.data["bundle.spiffe.json"] for view in world.maps.stored.values()}
    assert len(found) == 1
    assert b'"spiffe_sequence": 2' in b64decode(found.pop())
    await publish(world, formats=[])
    assert world.status(DEFAULT)["bundle"]["sequence"] == 2, "another form, the same roots"


@scenario
async def test_extra_roots_come_from_where_the_spec_says_and_follow_their_source(world):
    await strange(world, ("system", "cas"), **{"ca.crt": pem(root("company")).decode()})
    source = {"configMapRef": {"name": "cas"}}
    await publish(world, "shop", extra=[source, {"pem": pem(root("partner"), root("company")).decode()}])
    assert roots_in(world, SHOP) == 3, "what comes twice is there once"
    changed = SecretContent.of("", {"ca.crt": pem(root("company"), root("new")).decode().encode()}, {}).data
    world.maps.stored["system", "cas"] = replace(world.maps.stored["system", "cas"], data=changed)
    await world.settle(timedelta(seconds=15))
    assert roots_in(world, SHOP) == 4
    assert [one["source"] for one in world.status(DEFAULT)["bundle"]["extraRoots"]].count("extraRoots[1]") == 1


@pytest.mark.parametrize("damage", ["deleted", "edited", "key gone"])
@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is down"])
@scenario
async def test_from_a_source_that_breaks_what_was_published_stays_and_own_roots_go_on(world, damage, running):
    at = ("system", "cas")
    await strange(world, at, **{"ca.crt": pem(root("company")).decode()})
    await publish(world, "shop", extra=[{"configMapRef": {"name": "cas"}}])
    before = world.maps.stored[SHOP].data
    match damage:
        case "deleted":
            del world.maps.stored[at]
        case "edited":
            world.maps.stored[at] = replace(world.maps.stored[at], data={"ca.crt": "eA=="})
        case _:
            world.maps.stored[at] = replace(world.maps.stored[at], data={"other": "eA=="})
    if not running:
        world = await restarted(world)
    world.maps.writes.clear()
    await world.settle(timedelta(seconds=15))
    assert condition(world)["reason"] == "SourceInvalid"
    assert "ConfigMap cas" in condition(world)["message"]
    assert world.maps.stored[SHOP].data == before
    assert world.maps.writes == {}
    change(world, annotations={"serviceidentity.dev/rotate-root": "1"})
    await world.settle()
    assert roots_in(world, SHOP) == 3, "a new root of our own is not held up"
    again = await restarted(world)
    assert roots_in(again, SHOP) == 3
    assert again.maps.writes == {"replace": 1}


@scenario
async def test_a_source_secret_with_a_key_in_it_publishes_nothing_of_it(world):
    key_pem = keys.encode(key_for("root"), keys.KeyEncoding.PKCS8)
    mixed = pem(root("company")) + key_pem
    world.api.stored["system", "ca"] = replace(
        world.api.stored["system", "default-root-1"], name="ca", labels={}, annotations={}, owners=(),
        data={"ca.crt": b64encode(mixed).decode()},
    )  # fmt: skip
    await publish(
        world,
        "shop",
        extra=[{"secretRef": {"name": "ca"}}, {"secretRef": {"name": "default-root-1", "key": "tls.key"}}],
    )
    assert condition(world)["reason"] == "SourceInvalid"
    assert "Secret ca, key ca.crt: entry 2" in condition(world)["message"]
    held = b"".join(b64decode(value) for view in world.maps.stored.values() for value in view.data.values())
    assert b"PRIVATE" not in held
    assert b"PRIVATE" not in str(world.status(DEFAULT)).encode()


@scenario
async def test_an_extra_root_leaves_when_it_expires(world):
    await publish(world, "shop", extra=[{"pem": pem(root("short", 3), root("long")).decode()}])
    assert roots_in(world, SHOP) == 3
    await world.settle(timedelta(days=3))
    assert roots_in(world, SHOP) == 2
    assert "1 expired left out" in condition(world)["message"]


@scenario
async def test_a_root_that_is_revoked_leaves_every_copy_at_once(world):
    await publish(world, "shop", "attic")
    change(world, annotations={"serviceidentity.dev/rotate-root": "1"})
    await world.settle()
    (old,) = (a["fingerprint"] for a in world.status(DEFAULT)["authorities"] if a["secretName"] == "default-root-1")
    change(world, taintedAuthorities=[{"fingerprint": old, "removeFromBundle": "Immediately"}])
    await world.settle()
    assert [roots_in(world, at) for at in (SHOP, ATTIC)] == [1, 1]


@scenario
async def test_an_unreadable_authority_leaves_what_is_published_as_it_is(world):
    await publish(world, "shop")
    before = world.maps.stored[SHOP].data
    edit(world, ("system", "default-root-1"), {"tls.crt": "eA=="})
    broken = await restarted(world)
    assert broken.ready(DEFAULT)[1] == "AuthorityUnreadable"
    assert condition(broken)["status"] == "False"
    assert broken.maps.stored[SHOP].data == before
    assert broken.status(DEFAULT)["bundle"]["sequence"] == 1


@scenario
async def test_what_fails_in_passing_is_tried_again_soon_and_the_others_are_served(world):
    world.maps.failures = [RetryableError("away"), ConflictError("changed")]
    await publish(world, "shop", "attic", "cellar")
    assert len(world.maps.stored) == 1
    assert condition(world)["reason"] == "Unreachable"
    await world.settle(timedelta(seconds=1))
    assert len(world.maps.stored) == 3
    assert condition(world)["reason"] == "Published"


@scenario
async def test_a_copy_that_changed_before_the_watch_told_is_read_again(world):
    await publish(world, "shop")
    world.maps.version += 1
    edited = replace(world.maps.stored[SHOP], data={"ca.crt": "eA=="}, resource_version=world.maps.version)
    world.maps.stored[SHOP] = edited
    change(world, annotations={"serviceidentity.dev/rotate-root": "1"})
    await world.settle()
    assert world.maps.stored[SHOP] == edited, "what was decided about another version is not written"
    await world.settle(timedelta(seconds=1))
    assert roots_in(world, SHOP) == 2


@scenario
async def test_the_echo_of_an_own_write_wakes_nobody_and_another_edit_does(world):
    await publish(world, "shop")
    copies, view = world.engine.inventory.copies, world.maps.stored[SHOP]
    target = Place(StoreKind.CONFIG_MAP, *SHOP)
    copies.writing[target] = view.data
    assert copies.put(StoreKind.CONFIG_MAP, replace(view, resource_version=500)) == set()
    other = replace(view, resource_version=501, data={})
    assert copies.put(StoreKind.CONFIG_MAP, other) == {DEFAULT}
    assert copies.put(StoreKind.CONFIG_MAP, replace(view, resource_version=499)) == set(), "older than what is known"
    assert copies.at(target) == other


@scenario
async def test_a_complete_list_brings_what_was_missed_and_drops_what_is_gone(world):
    await publish(world, "shop", "attic", kind="Secret")
    await publish(world, "shop", "attic")
    inventory = world.engine.inventory
    names = [{"metadata": {"name": n, "resourceVersion": "1"}} for n in ("shop", "attic")]
    listed = [replace(world.maps.stored[SHOP], data={}, resource_version=900)]
    inventory.expect_lists()
    domains, secrets = [world.api.objects[DEFAULT]], list(world.api.stored.values())
    woken = inventory.resync(names, [], domains, secrets, lambda _name: 1000, listed)
    assert DEFAULT in woken
    assert {target.namespace for target in inventory.copies.of("default")} == {"shop"}
    inventory.expect_lists()
    inventory.drop_config_map(*SHOP, listed[0].uid)
    inventory.resync(names, [], domains, secrets, lambda _name: 1000, listed)
    assert inventory.copies.of("default") == {}, "deleted while the lists were read"


@scenario
async def test_a_thousand_namespaces_are_served_some_at_a_time_and_looked_at_for_nothing(world):
    create, now, most = world.maps.create, 0, 0

    async def counted(*given):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.0005)
        try:
            return await create(*given)
        finally:
            now -= 1

    world.maps.create = counted
    await publish(world, *(f"n{number}" for number in range(1000)), formats=["JKS", "PKCS12"])
    assert len(world.maps.stored) == 1000
    assert 8 <= most <= 16
    world.maps.writes.clear()
    again = await restarted(world)
    again.now += timedelta(minutes=5)
    namespace(again, "late")
    await again.settle()
    assert again.maps.writes == {"create": 1}
    assert again.status(DEFAULT)["bundle"]["published"] == 1001


@scenario
async def test_a_namespaced_operator_publishes_only_where_it_serves(world):
    world.engine._domains._publisher._served = ("shop",)
    await publish(world, "shop", "attic")
    assert set(world.maps.stored) == {SHOP}


@scenario
async def test_what_a_replicator_copied_elsewhere_is_its_own(world):
    await publish(world, "shop", namespaceSelector={"matchLabels": {"trust": "yes"}})
    namespace(world, "shop", trust="yes")
    await world.settle()
    original = world.maps.stored[SHOP]
    assert BUNDLE_LABEL in original.labels
    copied = replace(original, namespace="attic", uid="another")
    world.maps.stored[ATTIC] = copied
    namespace(world, "attic")
    world.engine.wake(world.engine.inventory.put_config_map(copied))
    await world.settle()
    assert world.maps.stored[ATTIC] == copied


@scenario
async def test_two_operators_at_once_do_not_undo_each_others_work(world):
    await publish(world, "shop", "attic", formats=["JKS", "PKCS12", "SPIFFE"])
    other = await restarted(world)
    change(world, annotations={"serviceidentity.dev/rotate-root": "1"})
    other.engine.wake(other.engine.inventory.put_trust_domain(world.api.objects[DEFAULT]))
    damaged = {**world.maps.stored[SHOP].data, "truststore.p12": "MAA="}
    change_map(world, SHOP, data=damaged)
    writes = []
    for _ in range(6):
        for one in (other, world):
            for view in list(world.maps.stored.values()):
                one.engine.wake(one.engine.inventory.put_config_map(view))
            for view in list(world.api.stored.values()):
                one.engine.wake(one.engine.inventory.put_secret(view))
            await one.settle(timedelta(seconds=2))
            writes.append(world.maps.writes.total())
    assert writes[-6:] == writes[-1:] * 6, "at rest"
    assert condition(world)["reason"] == condition(other)["reason"] == "Published"


def test_two_trust_domains_that_want_the_same_name_do_not_fight():
    async def inside():
        world = World()
        world.trust_domain(bundle={"target": ALL | {"name": "roots"}})
        namespace(world, "shop")
        await world.settle()
        other = dict(world.api.objects[DEFAULT])
        other["metadata"] = {"name": "other", "uid": "uid-other", "generation": 1, "resourceVersion": "9"}
        other["spec"] = other["spec"] | {"trustDomain": "other.example"}
        other.pop("status")
        key = trust_domain_key("other")
        world.api.objects[key] = other
        world.engine.wake(world.engine.inventory.put_trust_domain(other))
        await world.settle()
        world.maps.writes.clear()
        for _ in range(5):
            await world.settle(timedelta(minutes=5))
        assert world.maps.writes == {}
        assert condition(world)["reason"] == "Published"
        reasons = [c["reason"] for c in world.status(key)["conditions"]]
        assert reasons == ["Ready", "Conflict"]

    asyncio.run(inside())
