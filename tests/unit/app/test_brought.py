"""The Secret that people bring an authority along in: only read, looked at every few seconds, never in the way."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from serviceidentity.domain.material import SecretContent
from serviceidentity.domain.pki import certificates
from serviceidentity.errors import RejectedError
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import TLS, restarted
from tests.unit.app.test_authority_keys import Safe, with_safe
from tests.unit.domain.builders import DAY, HOUR, view_of
from tests.unit.pki.companies import Company, company

LOOK = timedelta(seconds=10)
SPEC = {"intermediate": {"secretRef": {"name": "company"}}, "maxLeafDuration": "24h", "propagation": "1h"}


def put(world, brought, **changes):
    """People write the Secret; nobody tells the operator."""
    data = brought.secret() if isinstance(brought, Company) else brought
    view = view_of(SecretContent.of("kubernetes.io/tls", data, {}), "company", "system", **changes)
    world.api.version += 1
    world.api.stored["system", "company"] = replace(view, resource_version=world.api.version)


def take_away(world):
    del world.api.stored["system", "company"]


def lower(name="Company root", **changes):
    return company("Company issuing", company(name), **changes)


def source(world, domain):
    return next(c for c in world.status(domain)["conditions"] if c["type"] == "SourceReady")


def story(test):
    """Run a test with a world in which an intermediate was brought along and an identity has its certificate."""

    def run():
        async def inside():
            world = World()
            put(world, lower())
            domain = world.trust_domain(**SPEC)
            identity = world.apply({"certificate": {}})
            await world.settle()
            assert world.ready(domain) == ("True", "Ready")
            assert world.ready(identity) == ("True", "Ready")
            world.api.writes.clear()
            await test(world, domain)

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run


def issuer_of(world):
    return certificates.load_chain(world.api.stored[TLS].value("tls.crt"))[1]


@story
async def test_at_rest_and_after_a_restart_nothing_is_written(world, domain):
    user_secret = world.api.stored["system", "company"]
    for _ in range(4):
        await world.settle(LOOK)
    again = await restarted(world)
    await again.settle(LOOK)
    assert again.api.writes == {}
    assert world.api.stored["system", "company"] is user_secret


@story
async def test_a_renewed_secret_is_found_at_the_next_look_and_goes_through_prepared(world, domain):
    new = lower("Company root 2")
    put(world, new)
    await world.settle(LOOK)
    states = {a["secretName"]: (a["state"], a.get("importedFrom")) for a in world.status(domain)["authorities"]}
    assert states["default-root-2"] == states["default-intermediate-2"] == ("Prepared", "company")
    assert issuer_of(world) != new.certificate
    await world.settle(HOUR)
    await world.settle(16 * HOUR)
    assert issuer_of(world) == new.certificate


@story
async def test_a_broken_or_missing_secret_is_said_once_and_loses_nothing(world, domain):
    events, reasons = world.api.events, []
    events.clear()
    for damage in (take_away, lambda w: put(w, {"tls.crt": b"?", "tls.key": b"?"})):
        damage(world)
        await world.settle(LOOK)
        assert source(world, domain)["status"] == "False"
        reasons.append(source(world, domain)["reason"])
        assert world.ready(domain) == ("True", "Ready")
        world.api.writes.clear()
        for _ in range(3):
            await world.settle(LOOK)
        assert world.api.writes == {}, "said once"
    assert reasons == ["SecretMissing", "InvalidCertificate"]
    assert [reason for reason, _ in events] == reasons
    again = await restarted(world)
    assert again.api.writes == {}
    before = world.api.stored[TLS]
    await again.settle(DAY - HOUR)
    assert again.api.stored[TLS].data != before.data, "certificates are renewed meanwhile"


@story
async def test_a_secret_that_may_not_be_read_is_no_reason_to_stop(world, domain):
    async def refuse(namespace, name):
        raise RejectedError("no")

    world.api.read = refuse
    await world.settle(LOOK)
    assert source(world, domain)["reason"] == "SecretUnreadable"
    assert world.ready(domain) == ("True", "Ready")


@story
async def test_our_copy_is_put_back_when_it_is_edited_and_the_secret_of_people_never(world, domain):
    ours = world.api.stored["system", "default-intermediate-1"]
    damaged = replace(ours, data={"tls.crt": "", "tls.key": ""}, resource_version=world.api.version + 1)
    world.api.version += 1
    world.api.stored["system", "default-intermediate-1"] = damaged
    world.engine.wake(world.engine.inventory.put_secret(damaged))
    await world.settle()
    assert world.api.stored["system", "default-intermediate-1"].data == ours.data


def test_without_the_secret_nothing_is_made_and_the_reason_is_said():
    async def inside():
        world = World()
        domain = world.trust_domain(**SPEC)
        identity = world.apply({"certificate": {}})
        await world.settle()
        assert world.ready(domain) == ("False", "SecretMissing")
        assert world.ready(identity)[0] == "False"
        assert world.api.stored == {}
        put(world, lower())
        await world.settle(LOOK)
        assert world.ready(domain) == ("True", "Ready")
        assert world.ready(identity) == ("True", "Ready")

    asyncio.run(inside())


def test_the_key_that_was_brought_along_is_nowhere_but_in_its_copy():
    async def inside():
        world = World()
        mine = lower()
        put(world, mine)
        world.trust_domain(**SPEC)
        world.apply({"certificate": {}})
        await world.settle()
        keys = {at for at, view in world.api.stored.items() if view.data.get("tls.key") == _key_of(world)}
        assert keys == {("system", "company"), ("system", "default-intermediate-1")}
        shown = repr((world.api.objects, world.api.events, [v.annotations for v in world.api.stored.values()]))
        assert not any(line in shown for line in mine.secret()["tls.key"].decode().splitlines() if len(line) > 20)

    asyncio.run(inside())


def _key_of(world):
    return world.api.stored["system", "company"].data["tls.key"]


def test_where_keys_are_encrypted_the_copy_is_and_a_root_without_a_key_is_none_to_encrypt():
    async def inside():
        safe = Safe()
        world = World(keys=with_safe(safe))
        mine = lower()
        put(world, mine)
        domain = world.trust_domain(**SPEC)
        identity = world.apply({"certificate": {}})
        await world.settle()
        assert world.ready(identity) == ("True", "Ready")
        copy = world.api.stored["system", "default-intermediate-1"]
        assert b"PRIVATE KEY" not in copy.value("tls.key")
        assert "tls.key" not in world.api.stored["system", "default-root-1"].data
        encrypted = next(c for c in world.status(domain)["conditions"] if c["type"] == "KeysEncrypted")
        assert (encrypted["status"], encrypted["message"]) == ("True", "encrypted with safe:one")
        world.api.writes.clear()
        for _ in range(3):
            await world.settle(LOOK)
        again = World(world.api, keys=with_safe(safe))
        again.now = world.now
        await again.engine.open_keys()
        await again.settle()
        await again.settle(LOOK)
        assert world.api.writes == {}
        assert again.ready(domain) == ("True", "Ready")

    asyncio.run(inside())


def test_revocation_lists_are_signed_by_those_whose_key_is_here():
    async def inside():
        world = World()
        put(world, lower())
        domain = world.trust_domain(**SPEC, crl={})
        world.apply({"certificate": {}})
        await world.settle()
        conditions = {c["type"]: c for c in world.status(domain)["conditions"]}
        assert conditions["CRLReady"]["status"] == "True", conditions["CRLReady"]["message"]
        assert conditions["Ready"]["status"] == "True"
        lists = [name for space, name in world.api.stored if space == "system" and "crl" in name]
        assert len(lists) == 1, "the root's key is elsewhere, and so is its list"
        world.api.writes.clear()
        for _ in range(3):
            await world.settle(LOOK)
        assert world.api.writes == {}

    asyncio.run(inside())
