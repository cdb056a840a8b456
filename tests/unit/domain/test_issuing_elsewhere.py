"""Leaves that Vault or OpenBao signs: its authorities are here without a key, and live as any."""

from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from serviceidentity.domain import authority, status
from serviceidentity.domain.authority import RemoteIssuer, crl_report, crls
from serviceidentity.domain.authority.sealing import sealing_due
from serviceidentity.domain.authority.steps import ImportAuthority
from serviceidentity.domain.material import Held, MalformedError
from serviceidentity.domain.model import VaultSigner
from tests.unit.domain.authorities_at_work import Works
from tests.unit.domain.builders import DAY, HOUR, T0, domain
from tests.unit.pki.companies import Company, company, pem

TIMES = {"maxLeafDuration": "24h", "backdate": "0s", "propagation": "2h"}
AT = VaultSigner("pki", "default", "services")


def engine(number: int = 1, **more) -> Company:
    return company(f"Vault issuing {number}", company(f"Vault root {number}"), **more)


@dataclass
class LeavesAtVault(Works):
    """A trust domain whose leaves are signed at Vault; None means that Vault is away."""

    issuer: Company | None = None
    issuer_id: str = "id-1"
    at: VaultSigner | None = field(default=AT)

    @property
    def seen(self):
        seen = replace(super().seen, domain=replace(self.domain, leaves=self.at))
        if self.at is None:
            return seen
        source = Held("VaultUnavailable", "Vault does not answer") if self.issuer is None else self.read()
        return replace(seen, source=authority.judged(source, self.found, self.domain.tainted))

    def read(self):
        return authority.read_issuing(
            self.at, self.issuer_id, [pem(one).decode() for one in self.issuer.path], self.now
        )

    @property
    def signer(self) -> RemoteIssuer:
        found = authority.trust_of(self.seen, self.now).signer
        assert isinstance(found, RemoteIssuer)
        return found

    def settle(self):
        self.work()
        self.publish()
        self.publish()


def at_vault(issuer: Company | None = None, **more) -> LeavesAtVault:
    made = LeavesAtVault(domain(**TIMES | more), issuer=issuer or engine())
    made.settle()
    return made


def test_the_issuer_and_its_root_are_copied_without_a_key_and_the_issuer_signs_by_its_id():
    made = at_vault()
    assert made.states() == {"root-1": "Active", "intermediate-1": "Active"}
    assert [type(step) for step in made.steps] == [ImportAuthority, ImportAuthority], "two writes and no more"
    assert not any("tls.key" in a.view.data or a.key_is_here for a in made.found)
    assert (made.signer.mount, made.signer.issuer_id, made.signer.role) == ("pki", "id-1", "services")
    assert made.signer.chain == (made.issuer.certificate,)
    assert made.trust.roots == (made.issuer.path[-1],)


def test_a_new_issuer_is_published_before_it_signs_and_the_old_one_signs_until_then():
    made = at_vault()
    made.issuer, made.issuer_id = engine(2), "id-2"
    made.work()
    assert made.states()["root-2"] == made.states()["intermediate-2"] == "Prepared"
    made.go(made.now + DAY)
    assert made.signer.issuer_id == "id-1", "not everyone has the root"
    made.publish()
    made.go(made.now + 2 * HOUR - timedelta(seconds=1))
    assert made.signer.issuer_id == "id-1"
    made.go(made.now + timedelta(seconds=1))
    assert made.signer.issuer_id == "id-2"
    assert made.states()["intermediate-1"] == "Retiring"
    made.go(made.now + 2 * DAY)
    assert made.states() == {"root-2": "Active", "intermediate-2": "Active"}


def test_a_new_issuer_under_the_same_root_waits_its_time_too():
    root = company("Vault root")
    made = at_vault(company("Vault issuing 1", root))
    made.issuer, made.issuer_id = company("Vault issuing 2", root), "id-2"
    made.work()
    assert made.signer.issuer_id == "id-1"
    made.go(made.now + 2 * HOUR)
    assert made.signer.issuer_id == "id-2"
    assert made.roots() == ["root-1"]


def test_the_same_certificate_under_another_id_is_another_copy():
    made = at_vault()
    made.issuer_id = "id-2"
    made.work()
    made.go(made.now + 2 * HOUR)
    assert made.signer.issuer_id == "id-2"
    made.go(made.now + 2 * HOUR)
    assert made.states() == {"root-1": "Active", "intermediate-2": "Active"}


def test_another_role_counts_at_once_and_at_another_mount_the_old_one_keeps_its_own():
    made = at_vault()
    made.at = replace(AT, role="others")
    made.work()
    assert made.signer.role == "others"
    assert len(made.steps) == 2
    made.at, made.issuer, made.issuer_id = VaultSigner("pki2", "default", "others"), engine(2), "id-2"
    made.work()
    assert (made.signer.mount, made.signer.role) == ("pki", "services")
    made.publish()
    made.go(made.now + 2 * HOUR)
    assert (made.signer.mount, made.signer.issuer_id, made.signer.role) == ("pki2", "id-2", "others")


def test_while_vault_is_away_nothing_changes_and_nothing_is_made_here():
    made = at_vault()
    made.issuer, steps = None, len(made.steps)
    made.go(made.now + 30 * DAY)
    assert len(made.steps) == steps
    assert made.states() == {"root-1": "Active", "intermediate-1": "Active"}
    shown = {c["type"]: c for c in status.of_trust_domain(made.seen, None, None, {}, made.now)["conditions"]}
    assert shown["SourceReady"]["reason"] == "VaultUnavailable"


def test_a_tainted_issuer_signs_nothing_and_only_another_one_takes_its_place():
    root = company("Vault root")
    made = at_vault(company("Vault issuing 1", root))
    made.domain = domain(**TIMES, taintedAuthorities=[{"fingerprint": made.named("intermediate-1").fingerprint}])
    made.work()
    assert authority.trust_of(made.seen, made.now).signer.reason == "IssuerTainted"
    made.issuer, made.issuer_id = company("Vault issuing 2", root), "id-2"
    made.settle()
    assert made.signer.issuer_id == "id-2"


def test_authorities_can_be_made_here_again_and_be_elsewhere_again():
    made = at_vault()
    made.at = None
    made.settle()
    assert made.signer.issuer_id == "id-1", "until the new root has been published"
    made.go(made.now + 2 * HOUR)
    made.go(made.now + 2 * DAY)
    assert made.states() == {"root-2": "Active", "intermediate-2": "Active"}
    assert all(a.key_is_here for a in made.found)
    made.at = AT
    made.settle()
    made.go(made.now + 2 * HOUR)
    made.go(made.now + 2 * DAY)
    assert made.states() == {"root-3": "Active", "intermediate-3": "Active"}
    assert made.signer.issuer_id == "id-1"


def test_there_are_no_lists_and_nothing_to_encrypt_without_a_key():
    made = at_vault(crl={})
    assert not any(crls.issues_lists(made.seen, a, made.now) for a in made.found)
    assert crl_report.summary(crls.Lists(made.seen)) == (
        True,
        "Elsewhere",
        "no authority's key is here: their revocation lists are where their keys are",
    )
    assert not any(sealing_due(a, "another-kek", made.domain.meta) for a in made.found)


def test_the_end_of_the_issuer_is_announced_and_signs_no_longer_than_that():
    made = at_vault(engine(lives=61 * DAY))
    assert made.signer.not_after == made.issuer.certificate.not_valid_after_utc - timedelta(seconds=30)
    made.go(T0 + 41 * DAY)
    shown = {c["type"]: c for c in status.of_trust_domain(made.seen, None, None, {}, made.now)["conditions"]}
    assert shown["SourceReady"]["reason"] == "RenewalDue"


def test_an_issuer_that_can_not_sign_leaves_is_refused_with_its_reason():
    for issuer, reason in (
        (company("Vault root"), "NotAnIntermediate"),
        (engine(ca=False), "NotAnAuthority"),
        (engine(begins=T0 - 2 * DAY, lives=DAY), "Expired"),
    ):
        assert LeavesAtVault(domain(**TIMES), issuer=issuer).read().reason == reason
    headless = authority.read_issuing(AT, "id", [pem(engine().certificate).decode()], T0)
    assert (headless.reason, headless.message.partition(":")[0]) == ("IncompleteChain", "Vault's PKI engine at pki")


@pytest.mark.parametrize("lost", ["serviceidentity.dev/vault-issuer", "serviceidentity.dev/vault-role"])
def test_an_intermediate_without_a_key_has_to_say_who_signs(lost):
    view = at_vault().named("intermediate-1").view
    view = replace(view, annotations={k: v for k, v in view.annotations.items() if k != lost})
    with pytest.raises(MalformedError):
        authority.read_authority(view)
