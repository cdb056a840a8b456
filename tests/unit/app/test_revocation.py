"""Revoking an identity: a new certificate with a new key, the old ones on the list, whatever happens in between."""

from base64 import b64encode
from dataclasses import replace
from datetime import timedelta

import pytest

from serviceidentity.domain.authority import crl_records
from serviceidentity.domain.model import trust_domain_key
from serviceidentity.domain.pki import certificates, crl, keys
from serviceidentity.errors import RejectedError, RetryableError
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import TLS, edit, passes_when_left_alone, restarted, scenario, tell
from tests.unit.app.test_publishing import ATTIC, SHOP, publish
from tests.unit.app.test_taint import change, states, taint
from tests.unit.domain.builders import DAY, HOUR, T0

DEFAULT = trust_domain_key("default")
LIST = ("system", "default-intermediate-1-crl")
ROOTS_LIST = ("system", "default-root-1-crl")
REVOKE, REASON = "serviceidentity.dev/revoke", "serviceidentity.dev/revoke-reason"
NEVER = {"certificate": {"privateKey": {"rotationPolicy": "Never"}}}
LEAF = {"certificate": {}}


def serial(world, at=TLS):
    return certificates.facts(certificates.load_chain(world.api.stored[at].value("tls.crt"))[0]).serial_number


def public_key(world, at=TLS):
    return certificates.load_chain(world.api.stored[at].value("tls.crt"))[0].public_key()


def listed(world, at=LIST):
    if at not in world.api.stored:
        return {}
    found = crl.read(world.api.stored[at].value("ca.crl"), None)
    return {entry.serial_number: entry for entry in found.entries}


def number(world, at=LIST):
    return crl.read(world.api.stored[at].value("ca.crl"), None).number


def condition(world, name="CRLReady"):
    return next(c for c in world.status(DEFAULT)["conditions"] if c["type"] == name)


async def revoke(world, value="1", spec=LEAF, settle=True, **annotations):
    key = world.apply(spec, annotations={REVOKE: value, **annotations})
    if settle:
        await world.settle()
    return key


@scenario
async def test_nothing_is_written_for_lists_while_nothing_is_revoked(world):
    world.apply(LEAF)
    await world.settle()
    assert world.api.writes == {"create": 1, "status": 1}
    assert [c["type"] for c in world.status(DEFAULT)["conditions"]] == ["Ready"]


@pytest.mark.parametrize("spec", [LEAF, NEVER], ids=["Always", "Never"])
@scenario
async def test_a_revoked_identity_gets_a_new_key_and_its_old_certificate_is_on_the_list(world, spec):
    world.apply(spec)
    await world.settle()
    before, key = serial(world), public_key(world)
    identity = await revoke(world, spec=spec, **{REASON: "keyCompromise"})
    assert serial(world) != before
    assert not keys.same_public_key(public_key(world), key)
    assert {s: (e.reason, e.revoked_at) for s, e in listed(world).items()} == {before: ("keyCompromise", T0)}
    assert listed(world, ROOTS_LIST) == {}
    assert world.ready(identity) == ("True", "Ready")
    assert ("Revoked", "1 more on the revocation lists") in world.api.events
    shown = {a["secretName"]: a["crl"] for a in world.status(DEFAULT)["authorities"]}
    assert shown["default-intermediate-1"] == {
        "number": 1, "revoked": 1, "thisUpdate": "2026-01-01T11:55:00Z", "nextUpdate": "2026-01-04T12:00:00Z",
    }  # fmt: skip
    assert condition(world)["status"] == "True"


@scenario
async def test_a_request_is_served_once_also_after_restarts(world):
    world.apply(LEAF)
    await world.settle()
    await revoke(world)
    after = serial(world)
    world.api.writes.clear()
    for _ in range(5):
        world.echo()
        await world.settle()
        world = await restarted(world)
    assert world.api.writes == {}
    assert serial(world) == after
    assert await passes_when_left_alone(world) == 0
    await revoke(world, "2")
    assert len(listed(world)) == 2
    assert number(world) == 2


@scenario
async def test_what_was_served_and_what_was_before_stays_on_record_when_only_the_form_changes(world):
    world.apply(LEAF)
    await world.settle()
    await revoke(world)
    await world.settle(16 * HOUR)
    before, record = serial(world), world.api.stored[TLS].annotations["serviceidentity.dev/earlier-certificates"]
    world.apply({"certificate": {"outputFormats": ["DER"]}}, generation=2, annotations={REVOKE: "1"})
    await world.settle()
    world = await restarted(world)
    assert "key.der" in world.api.stored[TLS].data
    assert serial(world) == before
    assert world.api.stored[TLS].annotations["serviceidentity.dev/earlier-certificates"] == record
    assert len(listed(world)) == 1


@scenario
async def test_certificates_before_the_current_one_that_have_not_ended_are_revoked_as_well(world):
    """Who stole the Secret yesterday has yesterday's certificate."""
    world.apply(LEAF)
    await world.settle()
    old = [serial(world)]
    for _ in range(2):
        await world.settle(16 * HOUR)
        old.append(serial(world))
    await revoke(world)
    assert set(listed(world)) == set(old[1:]), "the first one has ended"
    record = world.api.stored[TLS].annotations["serviceidentity.dev/earlier-certificates"]
    assert record.count("certificate") == 2, "and is not remembered any more"


@scenario
async def test_the_same_at_the_moment_of_a_renewal(world):
    """A new certificate that is due anyway does not make the request forgotten, nor keep the key."""
    world.apply(NEVER)
    await world.settle()
    old, key = serial(world), public_key(world)
    world.now += 17 * HOUR
    spec = {"certificate": {**NEVER["certificate"], "dnsNames": ["order-service.shop.svc"]}}
    world.apply(spec, generation=2, annotations={REVOKE: "1"})
    await world.settle()
    assert set(listed(world)) == {old}
    assert not keys.same_public_key(public_key(world), key)


@scenario
async def test_the_same_when_the_secret_gets_another_name(world):
    world.apply(LEAF)
    await world.settle()
    old = serial(world)
    world.apply({"certificate": {"secretName": "moved"}}, generation=2)
    await world.settle()
    moved = serial(world, ("shop", "moved"))
    world.apply({"certificate": {"secretName": "again"}}, generation=3, annotations={REVOKE: "1"})
    await world.settle()
    assert set(listed(world)) == {old, moved}
    assert serial(world, ("shop", "again")) not in listed(world)


@scenario
async def test_a_suspended_identity_is_revoked_and_gets_its_new_certificate_later(world):
    world.apply(LEAF)
    await world.settle()
    before = serial(world)
    key = world.apply({**LEAF, "suspend": True}, generation=2, annotations={REVOKE: "1"})
    await world.settle()
    assert set(listed(world)) == {before}
    assert serial(world) == before
    assert world.ready(key) == ("False", "Revoked")
    assert await passes_when_left_alone(world) == 0
    world.apply(LEAF, generation=3, annotations={REVOKE: "1"})
    await world.settle()
    assert serial(world) != before
    assert world.ready(key) == ("True", "Ready")
    assert set(listed(world)) == {before}


@scenario
async def test_an_identity_is_revoked_even_if_nobody_can_sign_a_new_certificate(world):
    world.apply(LEAF)
    await world.settle()
    before = serial(world)
    world.api.failures = [RejectedError("quota")]
    await revoke(world)
    assert set(listed(world)) == {before}
    assert serial(world) == before
    await revoke(world, "2")
    assert serial(world) != before, "another request is tried at once"


class Down(World):
    """A world whose operator dies before its n-th write."""

    def dies_before(self, writes):
        real, left = self.api._write, [writes]

        def write(verb):
            if left[0] == 0:
                raise RetryableError("killed")
            left[0] -= 1
            return real(verb)

        self.api._write = write
        return lambda: setattr(self.api, "_write", real)


@pytest.mark.parametrize("writes", range(7))
@pytest.mark.parametrize("first", ["identity", "domain"])
@scenario
async def test_killed_before_any_write_the_end_is_the_same(world, writes, first):
    world.__class__ = Down
    world.apply(NEVER)
    await world.settle()
    before, key = serial(world), public_key(world)
    alive = world.dies_before(writes)
    identity = await revoke(world, spec=NEVER, settle=False)
    if first == "domain":
        world.engine.queue._ready.clear()
        world.engine.queue._queued.clear()
        world.engine.wake([DEFAULT])
        world.engine.wake([identity])
    await world.settle()
    alive()
    world = await restarted(world)
    assert set(listed(world)) == {before}
    assert not keys.same_public_key(public_key(world), key)
    assert world.ready(identity) == ("True", "Ready")
    settled = serial(world)
    world.api.writes.clear()
    world = await restarted(world)
    assert world.api.writes == {}
    assert serial(world) == settled


@scenario
async def test_a_stolen_certificate_of_a_deleted_identity_is_listed_by_the_spec(world):
    change(world, revokedCertificates=[{"serialNumber": "0A:1B", "reason": "keyCompromise"}])
    await world.settle()
    assert set(listed(world)) == {"0a1b"}
    change(world, revokedCertificates=[])
    await world.settle()
    assert set(listed(world)) == {"0a1b"}, "a revocation is final"
    first = number(world)
    await world.settle(40 * DAY)
    assert set(listed(world)) == {"0a1b"}
    assert number(world) > first


@scenario
async def test_an_identity_whose_certificate_the_spec_lists_gets_another_at_once(world):
    world.apply(NEVER)
    await world.settle()
    before, key = serial(world), public_key(world)
    change(world, revokedCertificates=[{"serialNumber": before, "issuerFingerprint": fingerprint(world)}])
    await world.settle()
    assert set(listed(world)) == {before}
    assert not keys.same_public_key(public_key(world), key)
    settled = serial(world)
    await world.settle(HOUR)
    assert serial(world) == settled


@scenario
async def test_a_revoked_certificate_put_back_from_a_backup_is_replaced(world):
    world.apply(LEAF)
    await world.settle()
    backup = world.api.stored[TLS]
    await revoke(world)
    world.apply(LEAF, generation=2)
    await world.settle()
    world.api.version += 1
    world.api.stored[TLS] = replace(backup, resource_version=world.api.version)
    again = await restarted(world)
    assert serial(again) not in listed(again)
    assert set(listed(again)) == set(listed(world))


@scenario
async def test_nobody_revokes_the_certificates_of_another_namespace(world):
    """Certificates are public: who has one could put it into a Secret of his own and have that revoked."""
    world.apply(LEAF)
    world.apply(LEAF, namespace="evil", name="other", uid="u-2")
    await world.settle()
    victim = world.api.stored[TLS]
    for data in ({"tls.crt": victim.data["tls.crt"]}, victim.data):
        edit(world, ("evil", "other-tls"), dict(data))
        again = World(world.api)
        again.apply(
            LEAF, namespace="evil", name="other", uid="u-2", annotations={REVOKE: data["tls.crt"][:9] + str(len(data))}
        )
        await again.settle()
        assert serial(again) not in listed(again)
    der = b64encode(
        certificates.load_chain(victim.value("tls.crt"))[0].public_bytes(certificates.serialization.Encoding.DER)
    )
    forged = f'[{{"certificate":"{der.decode()}","revokedAt":"2026-01-01T00:00:00Z"}}]'
    found = world.api.stored["evil", "other-tls"]
    edit(
        world,
        ("evil", "other-tls"),
        annotations={**found.annotations, "serviceidentity.dev/earlier-certificates": forged},
    )
    again = await restarted(world)
    assert serial(again) not in listed(again)


@scenario
async def test_a_time_that_somebody_wrote_into_the_record_harms_nobody(world):
    world.apply(LEAF)
    await world.settle()
    await revoke(world)
    found = world.api.stored[TLS]
    record = found.annotations["serviceidentity.dev/earlier-certificates"].replace(
        "2026-01-01T12:00:00Z", "0001-01-01T00:00:00Z"
    )
    edit(world, TLS, annotations={**found.annotations, "serviceidentity.dev/earlier-certificates": record})
    del world.api.stored[LIST]
    again = await restarted(world)
    (entry,) = listed(again).values()
    assert entry.revoked_at == T0 - timedelta(minutes=5), "not before the certificate's own beginning"


@pytest.mark.parametrize("damage", ["", "nonsense", "[1]", '[{"certificate":"AAAA","revokedAt":"2026-01-01T00:00:00Z"}]', '{"a":1}',
                                    '[{"certificate":"%%%","revokedAt":7}]'])  # fmt: skip
@scenario
async def test_a_record_that_cant_be_read_harms_nobody(world, damage):
    world.apply(LEAF)
    await world.settle()
    found = world.api.stored[TLS]
    edit(world, TLS, annotations={**found.annotations, "serviceidentity.dev/earlier-certificates": damage})
    again = World(world.api)
    before = serial(again)
    await revoke(again)
    assert set(listed(again)) == {before}


@scenario
async def test_lists_are_asked_for_by_the_spec_and_refreshed_before_their_end(world):
    change(world, crl={"duration": "10h", "renewBefore": "2h"})
    await world.settle()
    assert condition(world)["message"] == "every authority has a revocation list; 0 are revoked"
    world.api.writes.clear()
    for _ in range(3):
        world = await restarted(world)
    assert world.api.writes == {}
    await world.settle(7 * HOUR)
    assert number(world) == 1
    await world.settle(HOUR)
    assert (number(world), number(world, ROOTS_LIST)) == (2, 2)
    assert await passes_when_left_alone(world) == 0


@scenario
async def test_identities_are_not_written_when_lists_are(world):
    world.apply(LEAF)
    change(world, crl={"duration": "1h"})
    await world.settle()
    world.api.writes.clear()
    await world.settle(HOUR)
    assert world.api.writes == {"replace": 2, "status": 1}


@pytest.mark.parametrize("do", ["edit", "delete", "after a restart"])
@scenario
async def test_a_list_that_was_edited_or_deleted_is_put_back(world, do):
    world.apply(LEAF)
    await world.settle()
    await revoke(world)
    if do == "after a restart":
        world = await restarted(world)
    good = world.api.stored[LIST].data
    if do != "delete":
        tell(world, edit(world, LIST, {"ca.crl": "bm9uc2Vuc2U="}))
    else:
        view = world.api.stored.pop(LIST)
        world.engine.wake(world.engine.inventory.drop_secret(*LIST, view.uid))
    await world.settle()
    assert world.api.stored[LIST].data == good


@scenario
async def test_a_list_deleted_while_nobody_watched_is_made_anew_from_what_identities_remember(world):
    world.apply(LEAF)
    await world.settle()
    before = serial(world)
    await revoke(world)
    del world.api.stored[LIST]
    again = await restarted(world)
    assert set(listed(again)) == {before}
    assert number(again) == 2
    assert condition(again)["status"] == "True"


@scenario
async def test_what_is_lost_with_a_list_is_said(world):
    change(world, revokedCertificates=[{"serialNumber": "0a"}])
    await world.settle()
    change(world, revokedCertificates=[])
    await world.settle()
    del world.api.stored[LIST]
    again = await restarted(world)
    assert (condition(again)["status"], condition(again)["reason"]) == ("False", "RevocationsLost")
    assert again.ready(DEFAULT) == ("True", "Ready"), "certificates are issued all the same"
    again.api.writes.clear()
    again = await restarted(again)
    assert again.api.writes == {}


@scenario
async def test_a_secret_of_somebody_else_under_the_name_is_left_alone(world):
    foreign = replace(
        world.api.stored["system", "default-root-1"], name=LIST[1], uid="u-x", labels={}, annotations={}, owners=()
    )
    world.api.stored[LIST] = foreign
    world.apply(LEAF)
    await world.settle()
    before = serial(world)
    key = await revoke(world)
    assert world.api.stored[LIST] is foreign
    assert (condition(world)["status"], condition(world)["reason"]) == ("False", "Conflict")
    assert world.ready(key) == ("True", "Ready"), "the new certificate does not wait for that"
    assert serial(world) != before
    assert await passes_when_left_alone(world) == 0
    del world.api.stored[LIST]
    await world.settle(15 * timedelta(minutes=1))
    assert set(listed(world)) == {before}, "nothing is forgotten meanwhile"


@scenario
async def test_an_authority_in_the_list_of_certificates_is_said_to_belong_elsewhere(world):
    (item,) = (a for a in world.status(DEFAULT)["authorities"] if a["role"] == "Intermediate")
    change(world, revokedCertificates=[{"serialNumber": item["serialNumber"]}])
    await world.settle()
    assert condition(world)["reason"] == "AuthorityNotTainted"
    assert listed(world, ROOTS_LIST) == {}


@scenario
async def test_a_tainted_intermediate_is_on_its_roots_list_before_it_is_removed(world):
    change(world)
    world.apply(LEAF)
    await world.settle()
    (item,) = (a for a in world.status(DEFAULT)["authorities"] if a["role"] == "Intermediate")
    taint(world, "default-intermediate-1")
    await world.settle()
    assert listed(world, ROOTS_LIST) == {}
    await world.settle(timedelta(minutes=59))
    world.now += timedelta(minutes=1)
    world.api.failures = [RejectedError("quota")]
    world.engine.queue.wake_due()
    await world.settle()
    assert "intermediate-1" in states(world), "first the list, then it may go"
    world.api.writes.clear()
    world.engine.wake([DEFAULT])
    await world.settle()
    assert world.api.writes == {}, "not before its time to try again"
    await world.settle(15 * timedelta(minutes=1))
    assert "intermediate-1" not in states(world)
    assert set(listed(world, ROOTS_LIST)) == {item["serialNumber"]}


@scenario
async def test_the_lists_are_beside_the_roots_in_every_copy_of_the_bundle(world):
    await publish(world, "shop", "attic")
    world.apply(LEAF)
    await world.settle()
    assert "ca.crl" not in world.maps.stored[SHOP].data
    before = serial(world)
    await revoke(world)
    for at in (SHOP, ATTIC):
        text = world.maps.stored[at].value("ca.crl")
        assert text == world.api.stored[ROOTS_LIST].value("ca.crl") + world.api.stored[LIST].value("ca.crl")
        assert before in {entry.serial_number for pem in split(text) for entry in crl.read(pem, None).entries}
    world.api.writes.clear()
    world.maps.writes.clear()
    again = await restarted(world)
    assert (again.api.writes, again.maps.writes) == ({}, {})
    await again.settle(25 * HOUR)
    assert split(again.maps.stored[SHOP].value("ca.crl"))[1] == again.api.stored[LIST].value("ca.crl")
    assert number(again) == 2


@scenario
async def test_roots_are_published_although_a_list_cant_be_written(world):
    foreign = replace(
        world.api.stored["system", "default-root-1"], name=LIST[1], uid="u-x", labels={}, annotations={}, owners=()
    )
    world.api.stored[LIST] = foreign
    change(world, crl={})
    await publish(world, "shop")
    assert condition(world)["reason"] == "Conflict"
    assert "ca.crt" in world.maps.stored[SHOP].data
    assert ("Conflict", condition(world)["message"]) in world.api.events


def split(text):
    return [part + b"-----END X509 CRL-----\n" for part in text.split(b"-----END X509 CRL-----\n")[:-1]]


@scenario
async def test_the_record_of_earlier_certificates_is_bounded(world):
    for value in range(25):
        world.apply({"certificate": {"duration": "2000h"}}, annotations={"serviceidentity.dev/rotate": str(value)})
        await world.settle()
    text = world.api.stored[TLS].annotations["serviceidentity.dev/earlier-certificates"]
    assert text.count("certificate") == 16
    assert len(text) < 32_000


@scenario
async def test_the_secrets_of_lists_say_what_they_are_and_hold_no_key(world):
    change(world, crl={})
    await world.settle()
    view = world.api.stored[LIST]
    assert view.type == crl_records.SECRET_TYPE == "serviceidentity.dev/crl"
    assert set(view.data) == {"ca.crl", "expiries.json"}
    assert b"PRIVATE" not in view.value("ca.crl")


def fingerprint(world):
    return next(a["fingerprint"] for a in world.status(DEFAULT)["authorities"] if a["role"] == "Intermediate")


@pytest.mark.parametrize("end", ["gone", "being deleted", "invalid"])
@scenario
async def test_a_trust_domain_that_ends_and_those_it_has_revoked_are_at_rest(world, end):
    """They would wake each other for ever, and nobody else would get a turn."""
    world.apply(LEAF)
    await world.settle()
    await revoke(world)
    looks, reconcile = [], world.engine._reconcile

    async def counted(key):
        looks.append(key)
        return await reconcile(key) if len(looks) < 100 else None

    world.engine._reconcile = counted
    inventory, body = world.engine.inventory, world.api.objects[DEFAULT]
    world.api.version += 1
    meta = body["metadata"] | {"resourceVersion": str(world.api.version), "generation": 9}
    match end:
        case "gone":
            world.engine.wake(inventory.drop_trust_domain("default"))
        case "being deleted":
            meta |= {"deletionTimestamp": "2026-01-01T12:00:00Z"}
            world.engine.wake(inventory.put_trust_domain(body | {"metadata": meta}))
        case "invalid":
            spec = body["spec"] | {"propagation": "soon"}
            world.api.objects[DEFAULT] = body | {"metadata": meta, "spec": spec}
            world.engine.wake(inventory.put_trust_domain(world.api.objects[DEFAULT]))
    await world.settle()
    assert len(looks) < 10
