"""Leaves that Vault or OpenBao signs: what comes back is what was asked for, or it is not stored."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from serviceidentity.domain.authority import RemoteIssuer
from serviceidentity.domain.credentials import remote_leaf
from serviceidentity.domain.credentials.base import Due, Reason
from serviceidentity.domain.credentials.leaf import Order, sign
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.errors import PkiError
from tests.unit.domain.builders import CERTIFICATE, DAY, HOUR, T0, TRUST, identity, observed, view_of
from tests.unit.pki.companies import Company, company, pem

ENGINE = company("Vault issuing", company("Vault root"))
SIGNER = RemoteIssuer("pki", "an-id", "services", ENGINE.path)
AT_VAULT = replace(TRUST, signer=SIGNER, roots=ENGINE.path[1:], bundle=certificates.encode_chain(*ENGINE.path[1:]))
SPEC = {
    "certificate": {
        "dnsNames": ["order.shop.svc"],
        "ipAddresses": ["10.0.0.1"],
        "uris": ["https://order.example/a,b"],
        "subject": {"organizations": ["Example Ltd"]},
        "duration": "24h",
    }
}
NEW = Due(Reason.DOES_NOT_EXIST, "")
USAGE = {
    "digital_signature": True, "content_commitment": False, "key_encipherment": True, "data_encipherment": False,
    "key_agreement": True, "key_cert_sign": False, "crl_sign": False, "encipher_only": False, "decipher_only": False,
}  # fmt: skip
BOTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


def ordered(spec=None, trust=AT_VAULT) -> Order:
    order = CERTIFICATE.order(observed(spec or SPEC, trust), NEW, T0)
    assert order is not None
    return order


def engine_signs(request: remote_leaf.LeafRequest, now=T0, signer: Company = ENGINE, **changes) -> str:
    """What the engine does with a request; what its role makes of it is in `changes`."""
    csr = x509.load_pem_x509_csr(request.pem.encode())
    assert csr.is_signature_valid
    asked = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    made = {
        "begins": now - timedelta(seconds=30), "ends": now + request.lifetime, "key": csr.public_key(),
        "subject": csr.subject, "names": list(asked), "usage": x509.KeyUsage(**USAGE), "extended": BOTH, "more": (),
    } | changes  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(made["subject"])
        .issuer_name(signer.certificate.subject)
        .public_key(made["key"])
        .serial_number(x509.random_serial_number())
        .not_valid_before(made["begins"])
        .not_valid_after(made["ends"])
    )
    if made["names"]:
        builder = builder.add_extension(x509.SubjectAlternativeName(made["names"]), critical=False)
    for extension in filter(None, (made["usage"], made["extended"])):
        builder = builder.add_extension(extension, critical=False)
    for extension, critical in made["more"]:
        builder = builder.add_extension(extension, critical=critical)
    return pem(builder.sign(signer.key, hashes.SHA256())).decode()


def answered(order: Order | None = None, **changes):
    order = order or ordered()
    answer = engine_signs(remote_leaf.request_for(order, T0), **changes)
    return remote_leaf.examined(order, answer, T0)


def test_a_leaf_as_it_was_asked_for_is_stored_with_its_chain_and_our_key():
    order = ordered()
    leaf = answered(order)
    made, *above = certificates.load_chain(leaf.chain)
    assert tuple(above) == (ENGINE.certificate,), "without the root"
    assert certificates.key_matches(made, leaf.key)
    content = CERTIFICATE.render(observed(SPEC, AT_VAULT), NEW, T0, None, leaf)
    assert content.data.keys() >= {"tls.crt", "tls.key", "ca.crt"}
    name = CERTIFICATE.secret_name(identity(SPEC))
    seen = observed(SPEC, AT_VAULT, contents={name: view_of(content, name)})
    assert CERTIFICATE.decide(seen, T0) is None, "and nothing is due then"


def test_the_request_says_everything_and_has_no_private_key():
    request = remote_leaf.request_for(ordered(), T0)
    assert request.uris == ("spiffe://example.org/ns/shop/sa/order-service", "https://order.example/a,b")
    assert (request.dns_names, request.ip_addresses) == (("order.shop.svc",), ("10.0.0.1",))
    assert request.lifetime == DAY
    assert "PRIVATE" not in repr(request)
    assert "PRIVATE" not in repr(ordered())


def test_a_shorter_life_and_what_a_role_adds_to_every_subject_are_its_owners_to_say():
    order = ordered()
    csr = order.subject.to_x509()
    subject = x509.Name([*csr, x509.NameAttribute(NameOID.LOCALITY_NAME, "Berlin")])
    answered(order, ends=T0 + HOUR, subject=subject)


def uri(value: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(value)


SPIFFE = uri("spiffe://example.org/ns/shop/sa/order-service")
OTHERS = [x509.DNSName("order.shop.svc"), uri("https://order.example/a,b")]
CN = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "order-service")])
ELSE = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "someone-else")])
CA_USAGE = x509.KeyUsage(**USAGE | {"key_cert_sign": True})
CRITICAL = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"key": keys.generate(keys.KeyProfile()).public_key()}, "another key"),
        ({"signer": company("Vault issuing", company("Vault root"))}, "another authority"),
        ({"names": []}, "is missing from its names"),
        ({"names": OTHERS}, "10.0.0.1 is missing"),
        ({"names": [uri("spiffe://example.org/ns/shop/sa/other"), *OTHERS]}, "missing from its names"),
        ({"more": ((x509.BasicConstraints(True, None), True),)}, "one of an authority"),
        ({"usage": CA_USAGE}, "one of an authority"),
        ({"usage": None}, "no key usage"),
        ({"usage": x509.KeyUsage(**USAGE | {"digital_signature": False})}, "digital signature is missing"),
        ({"extended": None}, "extended key usages are less"),
        ({"extended": x509.ExtendedKeyUsage([*BOTH, ExtendedKeyUsageOID.CODE_SIGNING])}, "usages are more"),
        ({"subject": ELSE}, "another common name"),
        ({"subject": x509.Name([])}, "another common name"),
        ({"subject": CN}, "subject's organizationName is missing"),
        ({"begins": T0 + HOUR}, "not valid before"),
        ({"begins": T0 - DAY, "ends": T0 - HOUR}, "it ended"),
        ({"ends": T0 + DAY + HOUR}, "later than"),
        ({"more": ((CRITICAL, True),)}, "critical extension"),
    ],
)
def test_anything_else_is_not_stored_and_says_what_differs(changes, complaint):
    with pytest.raises(PkiError, match=complaint):
        answered(**changes)


def test_names_that_were_not_asked_for_are_counted_and_never_shown():
    order = ordered()
    with pytest.raises(PkiError, match="1 more names") as caught:
        answered(order, names=[*order.names.to_x509(), x509.DNSName("bank.example")])
    assert "bank" not in str(caught.value)


def test_what_is_no_certificate_is_refused():
    with pytest.raises(PkiError) as caught:
        remote_leaf.examined(ordered(), "super secret", T0)
    assert "secret" not in str(caught.value)


def test_an_order_for_vault_can_not_be_signed_here():
    with pytest.raises(PkiError, match="elsewhere"):
        sign(ordered())


@pytest.mark.parametrize("algorithm", ["ECDSA", "RSA", "Ed25519"])
def test_every_kind_of_key_can_be_asked_for(algorithm):
    answered(ordered({"certificate": {"privateKey": {"algorithm": algorithm}}}))


def test_near_the_issuers_end_nothing_is_asked_for_in_vain():
    ends = ENGINE.certificate.not_valid_after_utc
    late = ends - 10 * HOUR
    name = CERTIFICATE.secret_name(identity(SPEC))
    order = CERTIFICATE.order(observed(SPEC, AT_VAULT), NEW, late)
    assert order.validity.not_after == SIGNER.not_after < ends
    # The engine's clock is behind: the certificate ends sooner than could be asked for again.
    answer = engine_signs(remote_leaf.request_for(order, late), late, ends=SIGNER.not_after - timedelta(seconds=20))
    leaf = remote_leaf.examined(order, answer, late)
    content = CERTIFICATE.render(observed(SPEC, AT_VAULT), NEW, late, None, leaf)
    seen = observed(SPEC, AT_VAULT, contents={name: view_of(content, name)})
    for hours in range(1, 10):
        assert CERTIFICATE.decide(seen, late + hours * HOUR) is None
