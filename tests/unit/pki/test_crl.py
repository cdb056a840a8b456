"""Revocation lists: what is on them, and what OpenSSL, a linter and a TLS server make of them."""

import ssl

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from pkilint import loader, pkix, validation
from pkilint.pkix import crl as linted
from pkilint.pkix import extension, name

from serviceidentity.domain.pki import certificates, crl, keys
from serviceidentity.domain.pki.certificates import Subject, Validity
from serviceidentity.domain.pki.crl import RevocationList, RevokedCertificate
from serviceidentity.domain.pki.errors import PkiError
from tests.unit.pki.builders import DAY, PROFILES, T0, hierarchy, key_for, leaf, title
from tests.unit.pki.test_tls import BEGINS, context, shake_hands

AT = str(int((T0 + DAY / 2).timestamp()))
REASONS = sorted(crl.REASONS)


def serial_of(certificate):
    return certificates.facts(certificate).serial_number


def content(*serials, number=1, begins=T0, **changed):
    entries = tuple(RevokedCertificate(serial, begins, "keyCompromise") for serial in serials)
    return RevocationList(
        **({"number": number, "this_update": begins, "next_update": begins + DAY, "entries": entries} | changed)
    )


serials = st.integers(1, 2**159 - 1).map(lambda number: crl.serial_of(f"{number:x}"))
moments = st.integers(0, 40_000).map(lambda hours: T0 + hours * DAY / 24)


@settings(deadline=None)
@given(
    st.integers(1, 2**159),
    moments,
    st.lists(st.tuples(serials, moments, st.sampled_from(REASONS)), unique_by=lambda e: e[0]),
)
def test_what_is_written_is_read(number, begins, entries):
    wanted = RevocationList(number, begins, begins + DAY, tuple(RevokedCertificate(*entry) for entry in entries))
    issuer = hierarchy().intermediate
    found = crl.read(crl.issue(issuer, wanted), issuer.certificate)
    assert set(found.entries) == set(wanted.entries)
    assert (found.number, found.this_update, found.next_update) == (number, begins, begins + DAY)


def test_the_profile_of_rfc_5280():
    issuer = hierarchy().intermediate
    entries = (RevokedCertificate("0a", T0, "keyCompromise"), RevokedCertificate("0b", T0))
    found = x509.load_pem_x509_crl(crl.issue(issuer, content(number=7, entries=entries)))
    assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 7
    aki = found.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    ski = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert aki.key_identifier == ski.digest
    assert not any(one.critical for one in found.extensions)
    reasons = [[one.value.reason for one in entry.extensions] for entry in found]
    assert reasons == [[x509.ReasonFlags.key_compromise], []], "no reason is absent, not `unspecified`"
    assert found.get_revoked_certificate_by_serial_number(10) is not None


@pytest.mark.usefixtures("all_keys")
@pytest.mark.parametrize("profile", PROFILES, ids=title)
def test_the_linter_finds_no_error(profile):
    tiers = hierarchy(profile)
    for issuer in (tiers.root, tiers.intermediate):
        for entries in ((), tuple(RevokedCertificate(f"{n + 16:x}", T0, reason) for n, reason in enumerate(REASONS))):
            assert lint(crl.issue(issuer, content(entries=entries))) == []


def test_the_linter_would_find_an_error():
    issuer = hierarchy().intermediate
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.name).last_update(T0).next_update(T0 + DAY)
    bare = builder.sign(issuer.private_key, certificates.signature_hash(issuer.private_key))
    assert lint(bare.public_bytes(certificates.serialization.Encoding.PEM)), "no number, no key identifier"


def lint(pem):
    linter = linted.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            linted.create_issuer_validator_container([]),
            linted.create_validity_validator_container([]),
            linted.create_extensions_validator_container([]),
        ],
    )
    results = linter.validate(loader.load_pem_crl(pem.decode(), "crl").root)
    return [
        f"{found.finding.code} {found.message or ''} at {result.node.path}"
        for result in results
        for found in result.finding_descriptions
        if found.finding.severity <= validation.ValidationFindingSeverity.ERROR
    ]


@pytest.mark.usefixtures("all_keys")
@pytest.mark.parametrize("profile", PROFILES, ids=title)
def test_openssl_accepts_the_lists_and_refuses_what_is_on_them(openssl, tmp_path, profile):
    tiers = hierarchy(profile)
    good, bad = leaf(tiers.intermediate), leaf(tiers.intermediate)
    lists = crl.issue(tiers.root, content()) + crl.issue(tiers.intermediate, content(serial_of(bad)))
    write(tmp_path, tiers, good=good, bad=bad, lists=lists)
    assert ": OK" in verify(openssl, tmp_path, "good")
    assert "certificate revoked" in verify(openssl, tmp_path, "bad", fails=True)
    shown = openssl("crl", "-in", tmp_path / "intermediate.crl", "-CAfile", tmp_path / "chain.pem", "-noout", "-text")
    assert "verify OK" in shown
    assert "Key Compromise" in shown


def test_openssl_refuses_everything_below_a_revoked_intermediate(openssl, tmp_path):
    tiers = hierarchy()
    lists = crl.issue(tiers.root, content(serial_of(tiers.intermediate.certificate))) + crl.issue(
        tiers.intermediate, content()
    )
    write(tmp_path, tiers, good=leaf(), lists=lists)
    assert "certificate revoked" in verify(openssl, tmp_path, "good", fails=True)


def test_openssl_asks_for_the_list_of_every_authority_of_the_chain(openssl, tmp_path):
    """So as soon as one authority has a list, each has to have one."""
    tiers = hierarchy()
    write(tmp_path, tiers, good=leaf(), lists=crl.issue(tiers.intermediate, content()))
    assert "unable to get certificate CRL" in verify(openssl, tmp_path, "good", fails=True)


def write(folder, tiers, lists, **leaves):
    (folder / "root.pem").write_bytes(certificates.encode_chain(tiers.root.certificate))
    (folder / "chain.pem").write_bytes(
        certificates.encode_chain(tiers.intermediate.certificate, tiers.root.certificate)
    )
    (folder / "lists.pem").write_bytes(lists)
    (folder / "intermediate.crl").write_bytes(lists[lists.rindex(b"-----BEGIN") :])
    for label, certificate in leaves.items():
        (folder / f"{label}.pem").write_bytes(certificates.encode_chain(certificate))


def verify(openssl, folder, label, fails=False):
    options = ["-crl_check_all", "-x509_strict", "-attime", AT, "-CAfile", folder / "root.pem", "-no-CApath"]
    files = ["-untrusted", folder / "chain.pem", "-CRLfile", folder / "lists.pem", folder / f"{label}.pem"]
    return openssl("verify", *options, *files, fails=fails)


@pytest.mark.parametrize("flags", [ssl.VERIFY_CRL_CHECK_LEAF, ssl.VERIFY_CRL_CHECK_CHAIN])
def test_a_tls_server_that_loads_the_lists_refuses_a_revoked_client(tmp_path, flags):
    tiers = hierarchy(begins=BEGINS)
    client = context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, PROFILES[0])
    mine = certificates.load_chain((tmp_path / "PROTOCOL_TLS_CLIENT" / "tls.crt").read_bytes())[0]

    def server(label, *revoked):
        made = context(tmp_path / label, ssl.PROTOCOL_TLS_SERVER, PROFILES[0])
        lists = crl.issue(tiers.root, content(begins=BEGINS)) + crl.issue(
            tiers.intermediate, content(*revoked, begins=BEGINS)
        )
        made.load_verify_locations(cadata=None, cafile=save(tmp_path / label / "ca.crl", lists))
        made.verify_flags |= flags
        return made

    for label in ("before", "after"):
        (tmp_path / label).mkdir()
    shake_hands(client, server("before", "0a"))
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        shake_hands(client, server("after", serial_of(mine)))


def save(path, text):
    path.write_bytes(text)
    return str(path)


def test_an_authority_that_may_not_sign_lists_does_not():
    key = key_for("root")
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    root = certificates.issue_root(Subject("a"), key, Validity(T0, T0 + DAY))
    builder = (
        x509.CertificateBuilder().subject_name(root.subject).issuer_name(root.subject).public_key(key.public_key())
    )
    builder = (
        builder.serial_number(1).not_valid_before(T0).not_valid_after(T0 + DAY).add_extension(usage, critical=True)
    )
    builder = builder.add_extension(x509.BasicConstraints(True, 1), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    with pytest.raises(PkiError, match="may not sign revocation lists"):
        crl.issue(certificates.Issuer(builder.sign(key, certificates.signature_hash(key)), key), content())


def test_a_time_that_cant_be_written_is_an_error_of_ours():
    entry = RevokedCertificate("0a", T0.replace(year=1900))
    with pytest.raises(PkiError, match="can't be written"):
        crl.issue(hierarchy().intermediate, content(entries=(entry,)))


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"])
def test_what_is_not_a_list_is_refused(damage):
    with pytest.raises(PkiError, match="readable"):
        crl.read(damage, None)


def test_the_list_of_another_authority_is_refused():
    pem = crl.issue(hierarchy(label="-other").intermediate, content())
    with pytest.raises(PkiError, match="another"):
        crl.read(pem, hierarchy().intermediate.certificate)
    assert crl.read(pem, None).number == 1, "of an authority that is gone nothing can be said"


def test_a_list_of_a_namesake_with_another_kind_of_key_is_refused():
    pem = crl.issue(hierarchy(PROFILES[-1]).intermediate, content())
    with pytest.raises(PkiError, match="another"):
        crl.read(pem, hierarchy().intermediate.certificate)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("0A", "0a"), ("a", "0a"), ("00:0a:1B", "0a1b"), ("f" * 40, "f" * 40), ("00" + "7" * 40, "7" * 40)],
)
def test_a_serial_number_is_taken_as_tools_print_it(written, meant):
    assert crl.serial_of(written) == meant


@pytest.mark.parametrize("written", ["", ":", "0", "00:00", "0x0a", "-1", "zz", "1" * 41, "٣"])
def test_what_is_no_serial_number_is_refused(written):
    with pytest.raises(PkiError):
        crl.serial_of(written)


def test_a_serial_number_is_the_one_that_is_shown():
    certificate = leaf(key=keys.generate(keys.KeyProfile()))
    assert crl.serial_of(f"{certificate.serial_number:x}") == serial_of(certificate)
