"""Intermediates that Vault or OpenBao signs: our key, their signature, the same life."""

from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from serviceidentity.domain import authority, status
from serviceidentity.domain.authority import Authority, MakeAuthority, Role
from serviceidentity.domain.authority.steps import ImportAuthority
from serviceidentity.domain.authority.upstream import SigningRequest, Upstream
from serviceidentity.domain.material import Held
from serviceidentity.domain.model import VaultIssuer
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.errors import PkiError
from tests.unit.domain.authorities_at_work import Works
from tests.unit.domain.builders import DAY, HOUR, T0, domain, stored_authority
from tests.unit.pki.companies import USAGE, Company, company, pem

TIMES = {"maxLeafDuration": "24h", "backdate": "0s", "propagation": "2h"}
SPEC = {"intermediate": {"duration": "240h", "vault": {"mount": "pki"}}} | TIMES
AT = VaultIssuer("pki", "default")


def engine_signs(issuer: Company, request: SigningRequest, now, **changes) -> str:
    """What the engine does with a request; its own clock and limits are in `changes`."""
    csr = x509.load_pem_x509_csr(request.pem.encode())
    assert csr.is_signature_valid
    lower = {
        "begins": now - request.backdate, "ends": now + request.lifetime, "key": csr.public_key(),
        "subject": csr.subject, "path_length": 0,
    } | changes  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(lower["subject"])
        .issuer_name(issuer.certificate.subject)
        .public_key(lower["key"])
        .serial_number(x509.random_serial_number())
        .not_valid_before(lower["begins"])
        .not_valid_after(lower["ends"])
        .add_extension(x509.BasicConstraints(lower.get("ca", True), lower["path_length"]), critical=True)
        .add_extension(USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(lower["key"]), critical=False)
    )
    made = builder.sign(issuer.key, hashes.SHA256())
    return "\n".join(pem(one).decode() for one in (made, *issuer.path))


@dataclass
class AtVault(Works):
    """A trust domain whose intermediates are signed at Vault; None means that Vault is away."""

    issuer: Company | None = None
    longest: timedelta | None = None
    requests: list[SigningRequest] = field(default_factory=list)

    @property
    def seen(self):
        if self.domain.intermediate.vault is None:
            return super().seen
        source = Held("VaultUnavailable", "Vault does not answer") if self.issuer is None else self.upstream()
        return replace(super().seen, source=authority.judged(source, self.found, self.domain.tainted))

    def upstream(self):
        chain = [pem(one).decode() for one in self.issuer.path]
        return authority.read_upstream(AT, "an-id", chain, self.now)

    def _carry_out(self, step):
        source = self.seen.source
        if isinstance(step, MakeAuthority) and step.role is Role.INTERMEDIATE and isinstance(source, Upstream):
            (root,) = (a for a in self.found if a.view.name == step.signer)
            key = keys.generate(self.domain.intermediate.profile)
            request = authority.request_for(self.domain, root, source, key, self.now)
            self.requests.append(request)
            granted = min(request.lifetime, self.longest or request.lifetime)
            answer = engine_signs(self.issuer, replace(request, lifetime=granted), self.now)
            content = authority.signed_upstream(self.domain, step, root, source, key, answer, self.now)
            made = stored_authority(content, self.domain, step.role, step.generation)
            self.found = (*self.found, made)
        else:
            super()._carry_out(step)


def at_vault(issuer=None, **more):
    made = AtVault(domain(**SPEC | more), issuer=issuer or company("Vault root"))
    made.work()
    made.publish()
    return made


def test_vault_signs_our_intermediate_and_its_root_is_trusted_without_a_key():
    made = at_vault()
    assert made.states() == {"root-1": "Active", "intermediate-1": "Active"}
    root = made.issuer.certificate
    assert made.trust.roots == (root,)
    assert certificates.signed_by(made.trust.signer.certificate, root)
    assert made.named("root-1").key is None
    assert made.named("root-1").imported_from == "vault:pki"
    assert [type(step) for step in made.steps] == [ImportAuthority, MakeAuthority], "two writes and no more"
    assert made.requests[0].lifetime == 240 * HOUR


def test_an_engine_that_is_itself_an_intermediate_is_part_of_every_chain():
    engine = company("Vault intermediate", company("Company root"))
    made = at_vault(engine)
    assert made.trust.signer.chain[1:] == (engine.certificate,)
    assert made.trust.roots == (engine.path[-1],)


def test_intermediates_are_renewed_on_schedule():
    made = at_vault()
    until = made.now + 30 * DAY
    while made.now < until:
        made.go(made.next())
        assert made.signs() != "nobody"
        assert made.trust.signer.not_after >= made.now + DAY, "no leaf is cut short"
    assert 3 <= len(made.requests) <= 8
    assert made.states().keys() >= {"root-1"}


@pytest.mark.parametrize("longest", [timedelta(hours=3), timedelta(hours=30), timedelta(days=5)])
def test_limits_of_the_engine_shorten_lives_and_make_no_loop(longest):
    made = at_vault()
    made.longest = longest
    made.domain = replace(made.domain, meta=replace(made.domain.meta, annotations={"serviceidentity.dev/rotate": "1"}))
    until = made.now + 2 * longest
    made.work()
    while made.now < until and (due := made.next()) <= until:
        made.go(due)
    assert len(made.requests) < 20


def test_near_the_end_of_the_engine_nothing_is_asked_for_in_vain():
    made = at_vault(company("Vault root", lives=12 * DAY))
    late = made.issuer.certificate.not_valid_after_utc - HOUR
    while (due := authority.deadline(made.seen, made.now)) is not None and due < late:
        made.go(due)
    assert len(made.requests) <= 3
    assert made.named(made.signs()).not_after <= made.issuer.certificate.not_valid_after_utc


def test_a_new_root_at_vault_is_published_before_anything_is_signed_under_it():
    made = at_vault()
    made.issuer = company("Vault root 2")
    made.work()
    assert made.states()["root-2"] == made.states()["intermediate-2"] == "Prepared"
    made.go(made.now + DAY)
    assert made.signs() == "intermediate-1"
    made.publish()
    made.go(made.now + 2 * HOUR)
    assert made.signs() == "intermediate-2"
    made.go(made.now + 2 * DAY)
    assert made.states() == {"root-2": "Active", "intermediate-2": "Active"}


def report(made):
    return {c["type"]: c for c in status.of_trust_domain(made.seen, None, None, {}, made.now)["conditions"]}


def test_while_vault_is_away_what_is_there_signs_on_and_nothing_is_made_here_in_its_place():
    made = at_vault()
    made.issuer, steps = None, len(made.steps)
    made.go(made.named("intermediate-1").not_after - HOUR)
    assert made.signs() == "intermediate-1"
    assert len(made.steps) == steps
    assert report(made)["SourceReady"]["reason"] == "VaultUnavailable"
    assert "stays in use" in report(made)["SourceReady"]["message"]
    made.issuer = company("Vault root 2")
    made.work()
    made.publish()
    made.publish()
    made.go(made.now + 2 * HOUR)
    assert made.signs() == "intermediate-2", "and it goes on when Vault is back"


def test_without_vault_no_authority_is_made():
    made = AtVault(domain(**SPEC))
    made.work()
    assert made.found == ()
    assert authority.plan(made.seen, made.now).reason == "VaultUnavailable"


def test_a_tainted_intermediate_is_replaced_under_the_same_root_and_a_tainted_root_only_by_another():
    made = at_vault()
    listed = [{"fingerprint": made.named("intermediate-1").fingerprint}]
    made.domain = domain(**SPEC, taintedAuthorities=listed)
    made.work()
    assert made.signs() == "intermediate-2"
    assert made.roots() == ["root-1"]
    listed.append({"fingerprint": made.named("root-1").fingerprint})
    made.domain = domain(**SPEC, taintedAuthorities=listed)
    made.work()
    assert made.signs() == "nobody"
    assert report(made)["SourceReady"]["reason"] == "Tainted"
    made.issuer = company("Vault root 2")
    made.work()
    made.publish()
    made.publish()
    assert made.signs() != "nobody"
    assert certificates.signed_by(made.trust.signer.certificate, made.issuer.certificate)


def test_the_end_of_the_engine_is_announced():
    made = at_vault(company("Vault root", lives=61 * DAY))
    assert report(made)["SourceReady"]["reason"] == "Available"
    made.now = T0 + 40 * DAY + HOUR
    assert report(made)["SourceReady"]["reason"] == "RenewalDue"


def test_authorities_can_be_made_here_again():
    made = at_vault()
    made.domain = domain(root={"duration": "2400h"}, intermediate={"duration": "240h"}, **TIMES)
    made.work()
    made.publish()
    made.go(made.now + 2 * HOUR)
    made.go(made.now + 2 * DAY)
    assert made.states() == {"root-2": "Active", "intermediate-2": "Active"}
    assert made.named("root-2").key is not None
    made.domain = domain(**SPEC)
    made.work()
    made.publish()
    made.go(made.now + 2 * HOUR)
    made.go(made.now + 2 * DAY)
    assert made.states() == {"root-3": "Active", "intermediate-3": "Active"}


def test_an_issuer_that_can_not_sign_intermediates_is_refused_with_its_reason():
    leaf_only = company("Vault root", path_length=0)
    dead = company("Vault root", begins=T0 - 2 * DAY, lives=DAY)
    headless = company("Vault intermediate", company("Company root"))
    for chain, reason in (
        (leaf_only.path, "PathLengthTooSmall"),
        (dead.path, "Expired"),
        (headless.path[:1], "IncompleteChain"),
    ):
        found = authority.read_upstream(AT, "an-id", [pem(one).decode() for one in chain], T0)
        assert found.reason == reason
        assert found.message.startswith("Vault's PKI engine at pki: ")
    assert authority.read_upstream(AT, "an-id", ["super secret"], T0).reason == "InvalidCertificate"


STEP = MakeAuthority(Role.INTERMEDIATE, 2, "default-intermediate-2", "", "", "default-root-1")


def examined(**changes):
    """What is made of an answer that the engine changed in some way."""
    made = at_vault()
    (root,) = (a for a in made.found if a.role is Role.ROOT)
    signer = changes.pop("signer", made.issuer)
    key = keys.generate(made.domain.intermediate.profile)
    request = authority.request_for(made.domain, root, made.upstream(), key, made.now)
    answer = engine_signs(signer, request, made.now, **changes)
    return authority.signed_upstream(made.domain, STEP, root, made.upstream(), key, answer, made.now)


def test_an_answer_that_is_not_what_was_asked_for_is_not_stored():
    assert examined().type == "kubernetes.io/tls"
    another_key = keys.generate(keys.KeyProfile()).public_key()
    for changes, complaint in (
        ({"key": another_key}, "another key"),
        ({"ca": False, "path_length": None}, "not one of a certificate authority"),
        ({"signer": company("Another root")}, "another root"),
        ({"ends": T0 - HOUR, "begins": T0 - DAY}, "expired"),
        ({"begins": T0 + HOUR}, "not valid before"),
        ({"subject": x509.Name([])}, "no subject name"),
    ):
        with pytest.raises(PkiError, match=complaint):
            examined(**changes)


def test_a_request_shows_no_key_and_is_not_made_in_vain():
    made = at_vault(company("Vault root", lives=30 * DAY))
    (root,) = (a for a in made.found if a.role is Role.ROOT)
    key = keys.generate(made.domain.intermediate.profile)
    text = repr(authority.request_for(made.domain, root, made.upstream(), key, made.now))
    assert "PRIVATE" not in text
    late = made.issuer.certificate.not_valid_after_utc - timedelta(seconds=10)
    with pytest.raises(PkiError, match="ends too soon"):
        authority.request_for(made.domain, root, made.upstream(), key, late)


def test_our_keys_differ_each_time():
    made = at_vault()
    made.domain = replace(made.domain, meta=replace(made.domain.meta, annotations={"serviceidentity.dev/rotate": "1"}))
    made.work()
    one, other = (made.named(f"intermediate-{n}") for n in (1, 2))
    assert isinstance(one, Authority)
    assert not one.has_key_of(other)
