import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from pkilint import loader
from pkilint.pkix import certificate as pkix
from pkilint.pkix import extension, name
from pkilint.validation import ValidationFindingSeverity

from serviceidentity.domain.pki import certificates
from serviceidentity.domain.pki.certificates import Subject, SubjectAltNames
from serviceidentity.domain.pki.errors import PkiError
from tests.unit.pki.hierarchy import PROFILES, SPIFFE_ID, hierarchy, key_of, validity

# The linter's list of URI schemes ends with the web's; the URI itself is what RFC 3986 and SPIFFE say.
UNKNOWN_SCHEME = ("pkix.invalid_uri_syntax", f'Invalid URI syntax: "{SPIFFE_ID}"')
LOADER = loader.RFC5280CertificateDocumentLoader()
every_profile = pytest.mark.parametrize("profile", PROFILES, ids=lambda p: f"{p.algorithm}-{p.size}")


@pytest.fixture(scope="session")
def go_verify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if go is None:
        pytest.skip("no Go toolchain")
    program = tmp_path_factory.mktemp("go") / "goverify"
    subprocess.run([go, "build", "-o", str(program), "."], cwd=Path(__file__).parent / "goverify", check=True)
    return program


@every_profile
def test_openssl_accepts_the_chain_strictly_as_server_and_client(profile, tmp_path):
    tree = hierarchy(profile)
    for file, content in zip(("tls.crt", "ca.crt"), tree.pem(tree.leaf(profile)), strict=True):
        (tmp_path / file).write_bytes(content)
    for purpose in ("sslserver", "sslclient"):
        command = [
            "openssl",
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-verify_hostname",
            "order-service.shop.svc",
        ]
        command += ["-CAfile", "ca.crt", "-untrusted", "tls.crt", "tls.crt"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


@every_profile
def test_go_accepts_the_chain_as_server_and_client(profile, tmp_path, go_verify):
    tree = hierarchy(profile)
    for file, content in zip(("tls.crt", "ca.crt"), tree.pem(tree.leaf(profile)), strict=True):
        (tmp_path / file).write_bytes(content)
    result = subprocess.run([str(go_verify), "tls.crt", "ca.crt", "order-service.shop.svc"], cwd=tmp_path, check=False)
    assert result.returncode == 0


@every_profile
def test_pkilint_finds_no_error(profile):
    tree = hierarchy(profile)
    validator = pkix.create_pkix_certificate_validator_container(
        pkix.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            pkix.create_issuer_validator_container([]),
            pkix.create_validity_validator_container(),
            pkix.create_subject_validator_container([]),
            pkix.create_extensions_validator_container([]),
            pkix.create_spki_validator_container([]),
        ],
    )
    for certificate in (tree.root.certificate, tree.intermediate.certificate, tree.leaf(profile)):
        document = LOADER.load_der_document(certificate.public_bytes(serialization.Encoding.DER), "certificate")
        errors = [
            (described.finding.code, described.message)
            for result in validator.validate(document.root)
            for described in result.finding_descriptions
            if described.finding.severity in (ValidationFindingSeverity.ERROR, ValidationFindingSeverity.FATAL)
        ]
        assert [error for error in errors if error != UNKNOWN_SCHEME] == []


def test_a_leaf_has_the_extensions_of_an_mtls_end_entity():
    tree = hierarchy()
    leaf = tree.leaf()
    found = leaf.extensions
    basic = found.get_extension_for_class(x509.BasicConstraints)
    usage = found.get_extension_for_class(x509.KeyUsage)
    assert (basic.critical, basic.value.ca) == (True, False)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert set(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    own = tree.intermediate.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert found.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == own.digest
    uris = found.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.UniformResourceIdentifier
    )
    assert uris == [SPIFFE_ID]
    assert 2**64 < leaf.serial_number < 2**159


@pytest.mark.parametrize(("tier", "path_length"), [("root", 1), ("intermediate", 0)])
def test_an_authority_may_sign_certificates_and_crls_within_its_path(tier, path_length):
    extensions = getattr(hierarchy(), tier).certificate.extensions
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, path_length)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.crl_sign) == (True, True, True)


def test_an_empty_subject_makes_the_alternative_names_critical():
    leaf = hierarchy().leaf(subject=Subject(""))
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_serial_numbers_do_not_repeat():
    assert len({certificates.random_serial_number() for _ in range(1000)}) == 1000


def test_a_leaf_never_outlives_its_issuer():
    with pytest.raises(PkiError, match="outlive"):
        hierarchy().leaf(validity=validity(51))


def test_an_issuer_is_one_that_may_sign_and_whose_key_it_is():
    tree = hierarchy()
    with pytest.raises(PkiError, match="key does not belong"):
        certificates.Issuer(tree.root.certificate, key_of(PROFILES[0]))
    with pytest.raises(PkiError, match="may not sign"):
        certificates.Issuer(tree.leaf(), key_of(PROFILES[0]))


@pytest.mark.parametrize(
    "names",
    [
        SubjectAltNames("https://example.org"),
        SubjectAltNames(SPIFFE_ID, uris=("spiffe://example.org/ns/shop/sa/other",)),
        SubjectAltNames(SPIFFE_ID, uris=("SPIFFE://example.org/other",)),
        SubjectAltNames(SPIFFE_ID, dns_names=("bücher.example",)),
        SubjectAltNames(SPIFFE_ID, ip_addresses=("300.1.1.1",)),
    ],
)
def test_names_that_no_leaf_may_have_are_refused(names):
    with pytest.raises(PkiError):
        hierarchy().leaf(names=names)


@every_profile
def test_only_keys_that_can_encipher_say_so(profile):
    usages = (*certificates.DEFAULT_USAGES, "key encipherment", "key agreement")
    usage = hierarchy().leaf(profile, usages=usages).extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_encipherment == (profile.algorithm == "RSA")
    assert usage.key_agreement == (profile.algorithm == "ECDSA")


def test_facts_are_what_openssl_prints(tmp_path):
    leaf = hierarchy().leaf()
    (tmp_path / "leaf.pem").write_bytes(certificates.encode_chain(leaf))
    command = ["openssl", "x509", "-in", "leaf.pem", "-noout", "-serial", "-fingerprint", "-sha256"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    facts = certificates.facts(leaf)
    serial, fingerprint = (line.partition("=")[2].replace(":", "").lower() for line in printed.splitlines())
    assert (facts.serial_number, facts.fingerprint) == (serial.lstrip("0"), fingerprint)
    assert facts.spiffe_id == SPIFFE_ID
    assert facts.ip_addresses == ("10.0.0.1", "2001:db8::1")
