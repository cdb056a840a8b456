"""Reading certificates, ours and others', good and broken."""

import base64
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import KeyProfile
from tests.unit.pki.builders import DAY, NAMES, P256, PROFILES, SPIFFE_ID, T0, hierarchy, key_for, leaf, title

ROOT, INTERMEDIATE = hierarchy().root, hierarchy().intermediate
LEAF = leaf(ip_addresses=("10.0.0.1",), email_addresses=("a@example.org",))
LEAF_DER = LEAF.public_bytes(serialization.Encoding.DER)


def armoured(der):
    return b"-----BEGIN CERTIFICATE-----\n%b\n-----END CERTIFICATE-----\n" % base64.b64encode(der)


def examined(pem):
    """All that is done with certificates from outside; nothing but a PkiError may come of it."""
    try:
        chain = certificates.load_chain(pem)
    except PkiError:
        return
    for certificate in chain:
        certificates.signed_by(certificate, INTERMEDIATE.certificate)
        certificates.signed_by(LEAF, certificate)
        certificates.key_matches(certificate, key_for("leaf"))
        for read in (certificates.facts, lambda one: certificates.Issuer(one, key_for("leaf"))):
            try:
                read(certificate)
            except PkiError:
                pass


def test_facts_are_what_the_certificate_says():
    found = certificates.facts(LEAF)
    assert found.spiffe_id == SPIFFE_ID
    assert found.common_name == "order-service"
    assert found.dns_names == NAMES.dns_names
    assert found.ip_addresses == ("10.0.0.1",)
    assert found.uris == ()
    assert found.email_addresses == ("a@example.org",)
    assert (found.not_before, found.not_after) == (T0, T0 + DAY)
    assert not found.is_ca
    assert found.key == KeyProfile()
    assert found.issuer_key_id == certificates.facts(INTERMEDIATE.certificate).subject_key_id


def test_facts_of_authorities():
    root, intermediate = certificates.facts(ROOT.certificate), certificates.facts(INTERMEDIATE.certificate)
    assert root.is_ca
    assert intermediate.is_ca
    assert root.issuer_key_id == ""
    assert intermediate.issuer_key_id == root.subject_key_id
    assert root.spiffe_id is None


def test_hex_is_what_openssl_prints(openssl, tmp_path):
    short = _with_serial(0xABC)
    for number, certificate in enumerate((LEAF, short)):
        path = tmp_path / f"{number}.pem"
        path.write_bytes(certificates.encode_chain(certificate))
        printed = openssl("x509", "-in", path, "-noout", "-serial", "-fingerprint", "-sha256").lower().split()
        found = certificates.facts(certificate)
        assert printed[0] == f"serial={found.serial_number}"
        assert printed[-1].split("=")[-1].replace(":", "") == found.fingerprint


def _with_serial(number, *more, key=None):
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ROOT.name)
        .public_key((key or key_for("leaf")).public_key())
        .serial_number(number)
        .not_valid_before(T0)
        .not_valid_after(T0 + timedelta(days=1))
    )
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(ROOT.private_key, hashes.SHA256())


def test_a_certificate_without_extensions_has_facts():
    found = certificates.facts(_with_serial(1))
    assert (found.serial_number, found.spiffe_id, found.common_name, found.is_ca) == ("01", None, None, False)
    assert (found.subject_key_id, found.issuer_key_id, found.dns_names) == ("", "", ())


def test_two_spiffe_ids_are_none():
    """X.509-SVID 2: exactly one, or it is not an SVID."""
    uris = [x509.UniformResourceIdentifier(uri) for uri in ("spiffe://a/b", "spiffe://a/c", "urn:x:y")]
    found = certificates.facts(_with_serial(1, x509.SubjectAlternativeName(uris)))
    assert found.spiffe_id is None
    assert found.uris == ("urn:x:y",)


def test_a_chain_reads_back_in_order():
    chain = (LEAF, INTERMEDIATE.certificate, ROOT.certificate)
    pem = certificates.encode_chain(*chain)
    assert certificates.load_chain(pem) == chain
    assert certificates.encode_chain(*certificates.load_chain(pem)) == pem


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"not a certificate",
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        armoured(b"\x30\x00"),
        certificates.encode_chain(LEAF)[:-40],
    ],
)
def test_what_is_no_certificate_is_a_pki_error(pem):
    with pytest.raises(PkiError):
        certificates.load_chain(pem)


def test_a_key_is_no_certificate():
    pem = keys.encode(key_for("leaf"), keys.KeyEncoding.PKCS8)
    with pytest.raises(PkiError) as caught:
        certificates.load_chain(pem)
    quoted = pem.splitlines()[1].decode() in str(caught.value)
    assert not quoted


def test_an_unknown_version_is_a_pki_error():
    """cryptography's InvalidVersion is no ValueError."""
    version_3, version_9 = bytes.fromhex("a003020102"), bytes.fromhex("a003020108")
    assert LEAF_DER.count(version_3) == 1
    with pytest.raises(PkiError):
        certificates.load_chain(armoured(LEAF_DER.replace(version_3, version_9)))


def test_a_repeated_extension_is_a_pki_error():
    """cryptography's DuplicateExtension is no ValueError. Here keyUsage (2.5.29.15) is renamed to a second SAN."""
    usage, names = bytes.fromhex("0603551d0f"), bytes.fromhex("0603551d11")
    (broken,) = certificates.load_chain(armoured(LEAF_DER.replace(usage, names)))
    with pytest.raises(PkiError):
        certificates.facts(broken)


def test_an_alternative_name_of_a_kind_nobody_uses_is_a_pki_error():
    """cryptography's UnsupportedGeneralNameType is no ValueError. Tag 3, x400Address, instead of 7, iPAddress."""
    address, other = bytes.fromhex("870404020000"), bytes.fromhex("a30404020000")
    der = leaf(ip_addresses=("4.2.0.0",)).public_bytes(serialization.Encoding.DER)
    assert der.count(address) == 1
    (broken,) = certificates.load_chain(armoured(der.replace(address, other)))
    with pytest.raises(x509.UnsupportedGeneralNameType):
        _ = broken.extensions
    with pytest.raises(PkiError):
        certificates.facts(broken)


@given(st.binary(max_size=400))
@example(b"")
def test_any_bytes_are_a_pki_error_or_nothing(data):
    examined(data)
    examined(armoured(data))


@settings(max_examples=400)
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, len(LEAF_DER) - 1), st.integers(1, 255), st.integers(0, 3))
def test_damage_to_a_certificate_is_a_pki_error_or_nothing(place, change, cut):
    damaged = bytearray(LEAF_DER)
    damaged[place] ^= change
    examined(armoured(bytes(damaged[: len(damaged) - cut])))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, len(LEAF_DER) - 1), st.integers(1, 255))
def test_what_was_signed_cannot_be_changed(place, change):
    damaged = bytearray(LEAF_DER)
    damaged[place] ^= change
    try:
        (certificate,) = certificates.load_chain(armoured(bytes(damaged)))
    except PkiError:
        return
    # The wrapping may change: the signature's count of unused bits is not signed, and 1 passes if the last bit is 0.
    untouched = certificate.tbs_certificate_bytes == LEAF.tbs_certificate_bytes
    assert untouched or not certificates.signed_by(certificate, INTERMEDIATE.certificate)


def test_signed_by_is_true_only_for_the_issuer():
    root, intermediate = ROOT.certificate, INTERMEDIATE.certificate
    assert certificates.signed_by(root, root)
    assert certificates.signed_by(intermediate, root)
    assert certificates.signed_by(LEAF, intermediate)
    assert not certificates.signed_by(LEAF, root)
    assert not certificates.signed_by(root, intermediate)
    assert not certificates.signed_by(intermediate, LEAF)


def test_an_authority_of_the_same_name_is_not_the_issuer():
    other = hierarchy(label="-other")
    assert other.intermediate.name == INTERMEDIATE.name
    assert not certificates.signed_by(LEAF, other.intermediate.certificate)


@pytest.mark.parametrize("profile", PROFILES, ids=title)
def test_a_wrong_key_is_noticed(all_keys, profile):
    certificate = leaf(key=key_for("leaf", profile))
    assert certificates.key_matches(certificate, key_for("leaf", profile))
    assert not certificates.key_matches(certificate, key_for("root", profile))
    assert not certificates.key_matches(certificate, key_for("intermediate", P256))
