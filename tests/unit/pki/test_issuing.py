"""What a certificate holds: the RFC 5280 profile, and what is refused before anything is signed."""

import hashlib
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.certificates import Issuer, Subject, Validity
from serviceidentity.domain.pki.errors import PkiError
from tests.unit.pki.builders import DAY, ED25519, NAMES, P256, P384, RSA, SPIFFE_ID, T0, hierarchy, key_for, leaf

ROOT, INTERMEDIATE = hierarchy().root, hierarchy().intermediate


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def key_id(certificate):
    """RFC 5280 4.2.1.2 method 1: SHA-1 of the bits of the public key."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return hashlib.sha1(spki).digest()


def every_tier():
    return [ROOT.certificate, INTERMEDIATE.certificate, leaf()]


@pytest.mark.parametrize(("issuer", "path_length"), [(ROOT, 1), (INTERMEDIATE, 0)], ids=["root", "intermediate"])
def test_an_authority_may_sign_and_says_how_deep(issuer, path_length):
    constraints = extension(issuer.certificate, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=path_length)
    usage = extension(issuer.certificate, x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature


def test_a_leaf_may_serve_and_call_and_not_sign():
    certificate = leaf()
    constraints = extension(certificate, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    usage = extension(certificate, x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    extended = extension(certificate, x509.ExtendedKeyUsage)
    assert not extended.critical
    assert list(extended.value) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


def test_key_ids_lead_from_the_leaf_to_the_root():
    root, intermediate, end = every_tier()
    for certificate in (root, intermediate, end):
        own = extension(certificate, x509.SubjectKeyIdentifier)
        assert not own.critical
        assert own.value.digest == key_id(certificate)
    for certificate, issuer in ((intermediate, root), (end, intermediate)):
        identifier = extension(certificate, x509.AuthorityKeyIdentifier)
        assert not identifier.critical
        assert identifier.value.key_identifier == key_id(issuer)
        assert identifier.value.authority_cert_issuer is None
        assert identifier.value.authority_cert_serial_number is None


def test_a_certificate_has_exactly_the_extensions_of_the_profile():
    authority = {x509.SubjectKeyIdentifier, x509.BasicConstraints, x509.KeyUsage}
    end = authority | {x509.SubjectAlternativeName, x509.AuthorityKeyIdentifier, x509.ExtendedKeyUsage}
    found = [{type(one.value) for one in certificate.extensions} for certificate in every_tier()]
    assert found == [authority, authority | {x509.AuthorityKeyIdentifier}, end]


def test_names_chain():
    root, intermediate, end = every_tier()
    assert root.issuer == root.subject == intermediate.issuer
    assert end.issuer == intermediate.subject
    assert all(certificate.version is x509.Version.v3 for certificate in (root, intermediate, end))


def test_the_alternative_names_are_critical_only_when_there_is_no_subject():
    assert not extension(leaf(), x509.SubjectAlternativeName).critical
    nameless = leaf(subject=Subject(""))
    assert extension(nameless, x509.SubjectAlternativeName).critical
    assert not list(nameless.subject)
    assert certificates.facts(nameless).common_name is None


def test_a_leaf_without_other_names_has_its_spiffe_id():
    names = extension(leaf(dns_names=()), x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(SPIFFE_ID)]


def test_serial_numbers_are_positive_random_and_twenty_octets():
    numbers = [certificates.random_serial_number() for _ in range(1000)]
    assert len(set(numbers)) == len(numbers)
    assert all((number.bit_length() + 8) // 8 == 20 for number in numbers)
    tops, bottoms = {number >> 95 for number in numbers}, {number & (2**64 - 1) for number in numbers}
    assert len(tops) == len(bottoms) == len(numbers)


@pytest.mark.parametrize(
    ("profile", "digest"), [(P256, hashes.SHA256), (P384, hashes.SHA384), (RSA, hashes.SHA256), (ED25519, None)]
)
def test_the_signature_hash_is_as_strong_as_the_issuers_key(profile, digest):
    issuer = hierarchy(profile).intermediate
    found = leaf(issuer).signature_hash_algorithm
    assert (type(found) if found else None) is digest


def test_two_leaves_of_one_request_differ_in_serial_number_only():
    first, second = leaf(), leaf()
    assert first.serial_number != second.serial_number
    assert [one.value for one in first.extensions] == [one.value for one in second.extensions]


@given(st.integers(-400 * 86400, 400 * 86400).map(lambda seconds: timedelta(seconds=seconds)))
def test_a_leaf_is_issued_exactly_when_it_does_not_outlive_its_issuer(past_the_end):
    not_after = INTERMEDIATE.not_after + past_the_end
    validity = Validity(min(T0, not_after - DAY), not_after)
    if past_the_end > timedelta(0):
        with pytest.raises(PkiError, match="outlive"):
            leaf(validity=validity)
    else:
        assert leaf(validity=validity).not_valid_after_utc == not_after


def test_an_intermediate_never_outlives_its_root():
    validity = Validity(T0, ROOT.not_after + timedelta(seconds=1))
    with pytest.raises(PkiError, match="outlive"):
        certificates.issue_intermediate(Subject("a"), key_for("leaf").public_key(), ROOT, validity)


def test_a_leaf_outlives_no_authority_of_its_chain():
    """An imported intermediate may well outlive the one above it."""
    upper_key, lower_key = key_for("root"), key_for("intermediate")
    upper = certificates.issue_root(Subject("upper"), upper_key, Validity(T0, T0 + 10 * DAY))
    lower = _longer_lived(upper, upper_key, lower_key, T0 + 20 * DAY)
    issuer = Issuer(lower, lower_key, (lower, upper))
    assert issuer.not_after == T0 + 10 * DAY
    with pytest.raises(PkiError, match="outlive"):
        leaf(issuer, validity=Validity(T0, T0 + 15 * DAY))


def _longer_lived(upper, upper_key, lower_key, not_after):
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(upper_key.public_key())
    usage = extension(upper, x509.KeyUsage).value
    return (
        x509.CertificateBuilder()
        .subject_name(Subject("lower").to_x509())
        .issuer_name(upper.subject)
        .public_key(lower_key.public_key())
        .serial_number(certificates.random_serial_number())
        .not_valid_before(T0)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(lower_key.public_key()), critical=False)
        .add_extension(identifier, critical=False)
        .sign(upper_key, hashes.SHA256())
    )


def test_an_intermediate_signs_no_other_authority():
    with pytest.raises(PkiError, match="leaves only"):
        certificates.issue_intermediate(
            Subject("deeper"), key_for("leaf").public_key(), INTERMEDIATE, Validity(T0, T0 + DAY)
        )


def test_an_authority_needs_a_name():
    with pytest.raises(PkiError, match="subject"):
        certificates.issue_root(Subject(""), key_for("root"), Validity(T0, T0 + DAY))
    with pytest.raises(PkiError, match="subject"):
        certificates.issue_intermediate(Subject(""), key_for("leaf").public_key(), ROOT, Validity(T0, T0 + DAY))


def test_a_leaf_is_no_issuer():
    with pytest.raises(PkiError, match="may not sign"):
        Issuer(leaf(), key_for("leaf"))


def test_an_issuers_key_has_to_be_its_own():
    with pytest.raises(PkiError, match="does not belong"):
        Issuer(ROOT.certificate, key_for("leaf"))


def test_an_issuers_chain_begins_with_itself_and_is_in_order():
    with pytest.raises(PkiError, match="begin"):
        Issuer(INTERMEDIATE.certificate, INTERMEDIATE.private_key, (ROOT.certificate,))
    other = hierarchy(label="-other").root.certificate
    with pytest.raises(PkiError, match="order"):
        Issuer(INTERMEDIATE.certificate, INTERMEDIATE.private_key, (INTERMEDIATE.certificate, other))


def test_an_issuer_shows_no_key():
    assert "rivate" not in repr(INTERMEDIATE)
    assert "Key object" not in repr(INTERMEDIATE)


@pytest.mark.parametrize("encoding", keys.KeyEncoding)
def test_an_authority_reads_back_from_its_secret(encoding):
    for issuer in (ROOT, INTERMEDIATE):
        pem = keys.encode(issuer.private_key, encoding)
        loaded = certificates.load_issuer(certificates.encode_chain(issuer.certificate), pem)
        assert loaded.certificate == issuer.certificate
        assert loaded.chain == issuer.chain


def test_what_an_authority_hands_out_is_all_of_its_chain_without_the_root():
    pem = certificates.encode_chain(INTERMEDIATE.certificate, ROOT.certificate)
    loaded = certificates.load_issuer(pem, keys.encode(INTERMEDIATE.private_key, keys.KeyEncoding.PKCS8))
    assert loaded.chain == (INTERMEDIATE.certificate,)


def test_an_intermediate_that_bears_its_roots_name_is_still_handed_out():
    key = key_for("intermediate")
    subject = Subject("example root", ("Example",))
    certificate = certificates.issue_intermediate(subject, key.public_key(), ROOT, Validity(T0, T0 + DAY))
    assert certificate.subject == certificate.issuer
    pem = keys.encode(key, keys.KeyEncoding.PKCS8)
    assert certificates.load_issuer(certificates.encode_chain(certificate), pem).chain == (certificate,)


def test_times_are_whole_seconds_in_utc():
    east = timezone(timedelta(hours=5, minutes=30))
    begins = datetime(2026, 1, 1, 5, 30, 0, 999_999, tzinfo=east)
    validity = Validity(begins, begins + DAY)
    assert validity == Validity(T0, T0 + DAY)
    certificate = leaf(validity=validity)
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (T0, T0 + DAY)


@pytest.mark.parametrize(
    ("not_before", "not_after"),
    [
        (T0, T0),
        (T0, T0 - DAY),
        (T0, T0 + timedelta(microseconds=1)),
        (T0.replace(tzinfo=None), T0),
        (T0, (T0 + DAY).replace(tzinfo=None)),
        (T0.replace(year=1949), T0),
    ],
)
def test_a_validity_that_no_certificate_can_have_is_refused(not_before, not_after):
    with pytest.raises(PkiError):
        Validity(not_before, not_after)


def test_a_root_may_live_past_2050():
    """RFC 5280 4.1.2.5: GeneralizedTime from 2050 on."""
    ends = T0.replace(year=2126)
    certificate = certificates.issue_root(Subject("a"), key_for("root"), Validity(T0, ends))
    assert certificate.not_valid_after_utc == ends


def test_the_leaf_keeps_the_callers_names():
    assert NAMES.to_x509() == extension(leaf(), x509.SubjectAlternativeName).value
