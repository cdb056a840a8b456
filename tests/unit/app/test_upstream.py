"""Vault's PKI engine as the operator uses it: asked now and then, never in the way when it is away."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from serviceidentity.app.ports import PkiIssuer
from serviceidentity.domain.pki import certificates
from serviceidentity.errors import RejectedError, RetryableError
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import TLS
from tests.unit.domain.builders import DAY, HOUR
from tests.unit.domain.test_upstream import engine_signs
from tests.unit.pki.companies import Company, company, pem

LOOK = timedelta(seconds=10)
MINUTE = timedelta(minutes=1)
SPEC = {"intermediate": {"duration": "240h", "vault": {"mount": "pki"}}, "maxLeafDuration": "24h", "propagation": "1h"}


@dataclass
class FakePki:
    """The port Pki; `fails` is raised by whatever is asked, `refuses` by signing only."""

    world: World | None
    root: Company
    fails: Exception | None = None
    refuses: Exception | None = None
    reads: int = 0
    signed: list[str] = field(default_factory=list)

    async def issuer(self, mount, name):
        self.reads += 1
        assert (mount, name) == ("pki", "default")
        if self.fails:
            raise self.fails
        return PkiIssuer("the-id", tuple(pem(one).decode() for one in self.root.path))

    async def sign_intermediate(self, mount, issuer_id, request):
        assert (mount, issuer_id) == ("pki", "the-id")
        if self.fails or self.refuses:
            raise self.fails or self.refuses
        self.signed.append(request.pem)
        return engine_signs(self.root, request, self.world.now)


def at_vault(api=None, now=None, root=None):
    pki = FakePki(None, root or company("Vault root"))
    world = pki.world = World(api, pki=pki)
    world.now = now or world.now
    return world, pki


def story(test):
    def run():
        async def inside():
            world, pki = at_vault()
            domain = world.trust_domain(**SPEC)
            identity = world.apply({"certificate": {}})
            await world.settle()
            assert world.ready(domain) == ("True", "Ready")
            assert world.ready(identity) == ("True", "Ready")
            assert len(pki.signed) == 1
            world.api.writes.clear()
            await test(world, pki, domain)

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run


def source(world, domain):
    return next(c for c in world.status(domain)["conditions"] if c["type"] == "SourceReady")


@story
async def test_at_rest_and_after_a_restart_nothing_is_written_or_signed(world, pki, domain):
    reads = pki.reads
    for _ in range(6):
        await world.settle(LOOK)
    assert pki.reads - reads == 2, "twice a minute"
    again, other = at_vault(world.api, world.now, pki.root)
    await again.settle()
    assert again.api.writes == {}
    assert other.signed == []


@story
async def test_vault_away_is_said_and_changes_nothing_until_it_is_back(world, pki, domain):
    pki.fails = RetryableError("Vault is sealed, or does not serve now")
    await world.settle(MINUTE)
    assert source(world, domain)["reason"] == "VaultUnavailable"
    assert world.ready(domain) == ("True", "Ready")
    before = world.api.stored[TLS].data
    world.api.writes.clear()
    for _ in range(3):
        await world.settle(LOOK)
    assert world.api.writes == {}, "said once"
    await world.settle(DAY - HOUR)
    assert world.api.stored[TLS].data != before, "certificates are renewed meanwhile"
    pki.fails = None
    await world.settle(LOOK)
    assert source(world, domain)["status"] == "True"


@story
async def test_a_refusal_is_a_condition_and_is_not_asked_again_and_again(world, pki, domain):
    pki.refuses = RejectedError("Vault does not allow this: a bad token, or a policy that lacks it")
    asked = []
    real = pki.sign_intermediate

    async def counted(*arguments):
        asked.append(world.now)
        return await real(*arguments)

    pki.sign_intermediate = counted
    await world.settle(9 * DAY)
    assert world.ready(domain) == ("False", "IssueFailed")
    assert "does not allow" in world.status(domain)["conditions"][0]["message"]
    for _ in range(30):
        await world.settle(LOOK)
    assert len(asked) <= 5, "with a backoff"
    certificate = certificates.load_chain(world.api.stored[TLS].value("tls.crt"))[0]
    assert certificate.not_valid_after_utc > world.now, "what signs goes on signing"
    pki.refuses = None
    for _ in range(40):
        await world.settle(MINUTE)
    assert world.ready(domain) == ("True", "Ready")


def test_without_an_address_the_condition_says_so():
    async def inside():
        world = World()
        domain = world.trust_domain(**SPEC)
        await world.settle()
        assert world.ready(domain) == ("False", "VaultNotConfigured")
        assert world.api.stored == {}

    asyncio.run(inside())
