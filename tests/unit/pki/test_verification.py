"""A service's certificate is accepted up to a trusted root; everything else is an answer with a reason."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from serviceidentity.domain.pki import certificates, crl
from serviceidentity.domain.pki.certificates import Validity
from serviceidentity.domain.pki.crl import RevocationList, RevokedCertificate
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.verification import AcceptedCertificate, load_lists, verify_certificate
from serviceidentity.domain.verdict import Refused
from tests.unit.pki.builders import DAY, SPIFFE_ID, T0, Issuer, hierarchy, key_for, leaf

NOW = T0 + DAY / 2


def made() -> tuple[x509.Certificate, x509.Certificate, x509.Certificate]:
    trust = hierarchy()
    return leaf(), trust.intermediate.certificate, trust.root.certificate


def lists(
    *, of_root: tuple = (), of_intermediate: tuple = (), ends: timedelta = DAY, begins: timedelta = DAY
) -> tuple[bytes, ...]:
    trust = hierarchy()
    both = ((trust.root, of_root), (trust.intermediate, of_intermediate))
    return load_lists(
        b"".join(crl.issue(issuer, RevocationList(1, NOW - begins, NOW + ends, entries)) for issuer, entries in both)
    )


def revoked(certificate: x509.Certificate, reason: str = "keyCompromise") -> tuple[RevokedCertificate]:
    return (RevokedCertificate(certificates.serial_number(certificate), NOW - DAY, reason),)


def verified(chain: list, roots: list, known: tuple = (), now=NOW, **more: Any) -> AcceptedCertificate | Refused:
    return verify_certificate(chain, roots, known, now, **more)


def reasons(*given: Any, **more: Any) -> list[str]:
    found = verified(*given, **more)
    return [one.reason for one in found.problems] if isinstance(found, Refused) else []


def test_a_leaf_with_its_chain_is_accepted():
    service, intermediate, root = made()
    found = verified([service, intermediate], [root], lists(), trust_domain="example.org")
    assert isinstance(found, AcceptedCertificate)
    assert found.facts.spiffe_id == SPIFFE_ID
    assert found.path == (service, intermediate, root)
    assert found.remarks == ()
    assert reasons([service], [root, intermediate]) == []


def test_only_the_given_roots_are_trusted():
    service, intermediate, root = made()
    other = hierarchy(label="other", begins=T0)
    assert reasons([service, intermediate, root], [other.root.certificate]) == ["UnknownAuthority"]
    assert reasons([service, intermediate], [other.root.certificate]) == ["UnknownAuthority"]
    assert reasons([service], [root]) == ["UnknownAuthority"]
    assert reasons([service, intermediate], []) == ["UnknownAuthority"]
    assert "NotALeaf" in reasons([root], [root])
    assert reasons([root], [root])[0] == "UnknownAuthority"  # a root is no service


def test_an_authority_is_no_service():
    _, intermediate, root = made()
    assert reasons([intermediate], [root])[:1] == ["NotALeaf"]


def test_a_leaf_signs_no_other():
    service, intermediate, root = made()
    signer = Issuer.__new__(Issuer)
    for name, value in (
        ("certificate", service), ("private_key", key_for("leaf")), ("chain", ()), ("root_ends", None),
        ("name", service.subject), ("path_length", None), ("not_after", service.not_valid_after_utc),
        ("key_identifier", x509.AuthorityKeyIdentifier.from_issuer_public_key(key_for("leaf").public_key())),
    ):  # fmt: skip
        object.__setattr__(signer, name, value)
    forged = leaf(signer, key=key_for("forger"), validity=Validity(T0, service.not_valid_after_utc))
    found = reasons([forged, service, intermediate], [root])
    assert found[0] == "NotAnAuthority"
    assert "PathLengthTooSmall" in found


def test_times_of_the_whole_path_count():
    service, intermediate, root = made()
    assert reasons([service, intermediate], [root], now=service.not_valid_after_utc) == ["Expired"]
    assert reasons([service, intermediate], [root], now=T0 - timedelta(seconds=1)) == ["NotYetValid"]


def test_no_root_speaks_for_another_trust_domain():
    service, intermediate, root = made()
    assert reasons([service, intermediate], [root], trust_domain="example.com") == ["WrongTrustDomain"]
    assert reasons([service, intermediate], [root], trust_domain="example.or") == ["WrongTrustDomain"]


def test_what_is_on_a_list_is_refused():
    service, intermediate, root = made()
    chain = [service, intermediate]
    found = verified(chain, [root], lists(of_intermediate=revoked(service)))
    assert isinstance(found, Refused)
    assert found.first.reason == "Revoked"
    assert "keyCompromise" in found.first.message
    assert reasons(chain, [root], lists(of_root=revoked(intermediate))) == ["Revoked"]
    assert reasons(chain, [root], lists(of_root=revoked(service))) == []  # another issuer's serial number


def test_with_lists_each_authority_has_one_in_force():
    service, intermediate, root = made()
    chain = [service, intermediate]
    both = lists()
    assert reasons(chain, [root], both[:1]) == ["RevocationUnknown"]
    assert reasons(chain, [root], both[1:]) == ["RevocationUnknown"]
    assert reasons(chain, [root], lists(ends=timedelta(0))) == ["RevocationUnknown"]
    assert reasons(chain, [root], lists(begins=-timedelta(seconds=1))) == ["RevocationUnknown"]
    forged = hierarchy(label="other")
    other = crl.issue(forged.intermediate, RevocationList(1, NOW - DAY, NOW + DAY, ()))
    assert reasons(chain, [root], (both[0], other)) == ["RevocationUnknown"]


@pytest.mark.parametrize("text", [b"", b"x", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"])
def test_what_is_no_list_is_not_taken_for_an_empty_one(text):
    with pytest.raises(PkiError):
        load_lists(text)
