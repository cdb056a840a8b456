"""Leaves signed at Vault as the operator has them signed: few at a time, examined, and never in the way when it is away."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from unittest.mock import patch

import pytest

from serviceidentity.app import leaves
from serviceidentity.app.leaves import AT_ONCE
from serviceidentity.app.ports import PkiIssuer
from serviceidentity.domain.pki import certificates
from serviceidentity.errors import MissingError, RejectedError, RetryableError
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import TLS
from tests.unit.app.test_taint import change
from tests.unit.domain.builders import HOUR
from tests.unit.domain.test_remote_leaf import engine_signs
from tests.unit.pki.companies import Company, company, pem

LOOK = timedelta(seconds=10)
SPEC = {"leaves": {"vault": {"role": "services"}}, "maxLeafDuration": "24h", "propagation": "1h"}
LEAF = {"certificate": {"duration": "24h"}}


def engine(number: int) -> Company:
    return company(f"Vault issuing {number}", company(f"Vault root {number}"))


@dataclass
class FakePki:
    """The port Pki; `fails` is raised by whatever is asked, `refuses` by signing only."""

    world: World | None = None
    issuers: dict[str, Company] = field(default_factory=lambda: {"id-1": engine(1)})
    default: str = "id-1"
    fails: Exception | None = None
    hangs: bool = False
    refuses: Exception | None = None
    changes: dict = field(default_factory=dict)
    asked: int = 0
    at_once: int = 0
    most_at_once: int = 0
    signed: Counter = field(default_factory=Counter)
    revoked: list = field(default_factory=list)
    refuses_revocation: Exception | None = None

    async def issuer(self, mount, name):
        assert (mount, name) == ("pki", "default")
        if self.fails:
            raise self.fails
        return PkiIssuer(self.default, tuple(pem(one).decode() for one in self.issuers[self.default].path))

    async def revoke(self, mount, certificate):
        assert mount == "pki"
        if self.fails or self.refuses_revocation:
            raise self.fails or self.refuses_revocation
        self.revoked.append(certificates.load_chain(certificate.encode())[0])

    async def sign_leaf(self, mount, issuer_id, role, request):
        assert (mount, role) == ("pki", "services")
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(3600 if self.hangs else 0.001)
        finally:
            self.at_once -= 1
        if self.fails or self.refuses:
            raise self.fails or self.refuses
        if issuer_id not in self.issuers:
            raise RejectedError("its issuer is not there any more")
        self.signed[issuer_id] += 1
        return engine_signs(request, self.world.now, self.issuers[issuer_id], **self.changes)


def at_vault(pki=None, api=None, now=None):
    pki = pki or FakePki()
    world = pki.world = World(api, pki=pki)
    world.now = now or world.now
    return world, pki


def story(test):
    def run():
        async def inside():
            world, pki = at_vault()
            domain = world.trust_domain(**SPEC)
            identity = world.apply(LEAF)
            await world.settle()
            assert world.ready(domain) == ("True", "Ready")
            assert world.ready(identity) == ("True", "Ready")
            await test(world, pki, domain, identity)

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run


def message(world, key):
    return world.status(key)["conditions"][0]["message"]


def leaf(world, at=TLS):
    return certificates.load_chain(world.api.stored[at].value("tls.crt"))[0]


@story
async def test_two_writes_for_each_identity_and_none_at_rest_or_after_a_restart(world, pki, domain, identity):
    await world.settle(LOOK)
    world.api.writes.clear()
    for number in range(20):
        world.apply(LEAF, name=f"service-{number}")
    await world.settle()
    assert world.api.writes == {"create": 20, "status": 20}
    assert sum(pki.signed.values()) == 21
    world.api.writes.clear()
    for _ in range(6):
        await world.settle(LOOK)
    again, other = at_vault(FakePki(issuers=pki.issuers), world.api, world.now)
    await again.settle()
    assert world.api.writes == {}
    assert other.asked == 0
    authorities = [view for (namespace, _), view in world.api.stored.items() if namespace == "system"]
    assert len(authorities) == 2
    assert not any("tls.key" in view.data for view in authorities)


@story
async def test_many_at_once_are_few_at_once_for_vault(world, pki, domain, identity):
    for number in range(60):
        world.apply(LEAF, name=f"service-{number}")
    await world.settle()
    assert pki.most_at_once == AT_ONCE == 3
    assert sum(pki.signed.values()) == 61


@story
async def test_vault_away_keeps_what_is_there_asks_little_and_recovers_soon(world, pki, domain, identity):
    keys = [world.apply(LEAF, name=f"service-{number}") for number in range(40)]
    await world.settle()
    before = {at: view.data for at, view in world.api.stored.items() if at[0] == "shop"}
    pki.fails, pki.asked = RetryableError("Vault is sealed, or does not serve now"), 0
    await world.settle(17 * HOUR)
    await world.settle(LOOK * 3)
    world.api.writes.clear()
    asked = pki.asked
    for _ in range(12):
        await world.settle(LOOK)
    assert world.api.writes == {}, "said once"
    assert pki.asked - asked <= 12 * 2, "one asks for all"
    assert {at: view.data for at, view in world.api.stored.items() if at[0] == "shop"} == before
    assert world.ready(domain) == ("True", "Ready")
    assert {world.ready(key) for key in keys} == {("False", "VaultUnavailable")}
    assert "sealed" in message(world, keys[0])
    pki.fails = None
    for _ in range(4):
        await world.settle(LOOK)
    assert {world.ready(key) for key in keys} == {("True", "Ready")}
    assert pki.most_at_once <= AT_ONCE


@story
async def test_a_new_issuer_signs_when_its_root_has_been_published_for_its_time(world, pki, domain, identity):
    pki.issuers["id-2"], pki.default = engine(2), "id-2"
    await world.settle(timedelta(seconds=40))
    late = world.apply(LEAF, name="late")
    await world.settle()
    assert world.ready(late) == ("True", "Ready")
    assert pki.signed == {"id-1": 2}, "by its ID, whatever is the default by now"
    assert len(certificates.load_chain(world.api.stored[TLS].value("ca.crt"))) == 2
    await world.settle(LOOK)
    await world.settle(HOUR)
    world.apply(LEAF, name="later")
    await world.settle()
    assert pki.signed["id-2"] == 1


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"refuses": RejectedError("the role does not allow a URI")}, "role services of Vault's PKI engine at pki"),
        ({"refuses": MissingError("Vault has nothing under this path")}, "did not sign: Vault has nothing"),
        ({"changes": {"names": []}}, "is missing from its names"),
    ],
)
def test_what_is_refused_or_not_as_asked_for_is_said_and_tried_again_later_and_later(trouble, words):
    @story
    async def told(world, pki, domain, identity):
        for name, value in trouble.items():
            setattr(pki, name, value)
        key, pki.asked = world.apply(LEAF, name="late"), 0
        for _ in range(30):
            await world.settle(LOOK)
        assert world.ready(key) == ("False", "IssueFailed")
        assert words in message(world, key)
        assert ("shop", "late-tls") not in world.api.stored
        assert 2 <= pki.asked <= 8, "with a backoff"
        pki.refuses, pki.changes = None, {}
        for _ in range(40):
            await world.settle(timedelta(minutes=1))
        assert world.ready(key) == ("True", "Ready")

    told()


@story
async def test_an_issuer_that_is_gone_does_not_keep_the_next_ones_root_from_being_published(
    world, pki, domain, identity
):
    await world.settle(15 * HOUR)
    gone, pki.issuers["id-2"], pki.default = pki.issuers["id-1"], engine(2), "id-2"
    world.apply({"certificate": {"duration": "23h"}}, generation=2)
    pki.refuses = RejectedError("its issuer is not there any more")
    await world.settle(timedelta(seconds=40))
    assert world.ready(identity) == ("False", "IssueFailed")
    for _ in range(3):
        await world.settle(LOOK)
    trusted = certificates.load_chain(world.api.stored[TLS].value("ca.crt"))
    assert set(trusted) == {gone.path[-1], pki.issuers["id-2"].path[-1]}
    pki.refuses = None
    del pki.issuers["id-1"]
    for _ in range(75):
        await world.settle(timedelta(minutes=1))
    assert world.ready(identity) == ("True", "Ready")
    assert certificates.signed_by(leaf(world), pki.issuers["id-2"].certificate)


@story
async def test_what_the_policy_refuses_is_never_sent(world, pki, domain, identity):
    asked = pki.asked
    key = world.apply({"certificate": {"dnsNames": ["bank.example"]}}, name="greedy")
    await world.settle()
    assert world.ready(key)[0] == "False"
    assert pki.asked == asked


@story
async def test_other_credentials_do_not_wait_for_vault(world, pki, domain, identity):
    pki.fails = RetryableError("Vault does not answer")
    key = world.apply(LEAF | {"hmac": {}}, name="both")
    await world.settle()
    assert ("shop", "both-hmac") in world.api.stored
    assert ("shop", "both-tls") not in world.api.stored
    assert world.ready(key) == ("False", "VaultUnavailable")


@story
async def test_a_vault_that_hangs_holds_up_nobody_who_does_not_need_it(world, pki, domain, identity):
    pki.hangs, pki.asked = True, 0
    waiting = [world.apply(LEAF, name=f"service-{number}") for number in range(60)]
    others = [world.apply({"hmac": {}}, name=f"other-{number}") for number in range(10)]
    with patch.object(leaves, "LONGEST_ANSWER", 0.2), patch.object(leaves, "WAIT_FOR_PLACE", 0.05):
        await world.settle()
        assert {world.ready(key) for key in others} == {("True", "Ready")}
        assert {world.ready(key) for key in waiting} == {("False", "VaultUnavailable")}
        assert pki.asked <= 2 * AT_ONCE
    pki.hangs = False
    for _ in range(3):
        await world.settle(LOOK)
    assert {world.ready(key) for key in waiting} == {("True", "Ready")}


@story
async def test_a_tainted_issuers_certificates_are_replaced_by_the_next_ones(world, pki, domain, identity):
    root = pki.issuers["id-1"].above
    pki.issuers["id-2"], pki.default = company("Vault issuing 2", root), "id-2"
    listed = [{"fingerprint": certificates.fingerprint(pki.issuers["id-1"].certificate)}]
    change(world, taintedAuthorities=listed)
    for _ in range(4):
        await world.settle(LOOK)
    assert certificates.signed_by(leaf(world), pki.issuers["id-2"].certificate)


@story
async def test_what_is_revoked_is_revoked_at_vault_and_replaced_in_one_step(world, pki, domain, identity):
    old, asked = leaf(world), {"serviceidentity.dev/revoke": "1"}
    pki.refuses_revocation = RejectedError("Vault does not allow this: a bad token, or a policy that lacks it")
    world.apply(LEAF, annotations=asked)
    await world.settle(LOOK)
    assert leaf(world) == old
    assert world.ready(identity) == ("False", "IssueFailed")
    assert "not revoked by Vault" in message(world, identity)
    pki.refuses_revocation = None
    for _ in range(30):
        await world.settle(LOOK)
    assert pki.revoked == [old]
    assert leaf(world) != old
    assert world.ready(identity) == ("True", "Ready")
    world.apply(LEAF, annotations=asked | {"serviceidentity.dev/rotate": "1"})
    await world.settle(LOOK)
    assert pki.revoked == [old], "only what was asked for"
    assert "CRLReady" not in {one["type"] for one in world.status(domain)["conditions"]}


def test_without_an_address_the_condition_says_so():
    async def inside():
        world = World()
        domain = world.trust_domain(**SPEC)
        await world.settle()
        assert world.ready(domain) == ("False", "VaultNotConfigured")
        assert world.api.stored == {}

    asyncio.run(inside())
