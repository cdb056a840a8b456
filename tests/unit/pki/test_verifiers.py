"""OpenSSL, Go and a linter agree that our certificates are what RFC 5280 asks for."""

import itertools

import pytest
from cryptography.hazmat.primitives import serialization
from pkilint import loader, validation
from pkilint.bin import lint_pkix_signer_signee_cert_chain as pairs
from pkilint.pkix import certificate as pkix
from pkilint.pkix import extension, name

from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.certificates import Subject
from serviceidentity.domain.pki.keys import KeyAlgorithm, KeyEncoding
from tests.unit.pki.builders import DAY, NAMES, PROFILES, SPIFFE_ID, T0, hierarchy, key_for, leaf, title
from tests.unit.pki.test_names import FULL

AT = int((T0 + DAY / 2).timestamp())
NAME = NAMES.dns_names[1]
UNDERSCORE = "spiffe://under_score.example/a"
URN = "urn:example:orders"
WILDCARD = "*.shop.svc"
PAIRS = list(itertools.product(PROFILES, PROFILES))
pytestmark = pytest.mark.usefixtures("all_keys")


def chain_of(root, intermediate, end):
    tiers = hierarchy(root, intermediate)
    return tiers, leaf(tiers.intermediate, key_for("leaf", end))


def pem(*chain):
    return certificates.encode_chain(*chain).decode()


@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_verifies_every_combination_of_algorithms(openssl, tmp_path, purpose):
    for number, (root, intermediate) in enumerate(PAIRS):
        folder = tmp_path / str(number)
        folder.mkdir()
        tiers = hierarchy(root, intermediate)
        (folder / "root.pem").write_text(pem(tiers.root.certificate))
        (folder / "intermediate.pem").write_text(pem(tiers.intermediate.certificate))
        ends = [folder / f"{title(end)}.pem" for end in PROFILES]
        for path, end in zip(ends, PROFILES, strict=True):
            path.write_text(pem(chain_of(root, intermediate, end)[1]))
        options = ["-x509_strict", "-check_ss_sig", "-purpose", purpose, "-attime", str(AT)]
        files = ["-CAfile", folder / "root.pem", "-no-CApath", "-untrusted", folder / "intermediate.pem"]
        said = openssl("verify", *options, *files, *ends)
        assert said.count(": OK") == len(ends)


def test_openssl_refuses_a_leaf_of_another_hierarchy(openssl, tmp_path):
    (tmp_path / "root.pem").write_text(pem(hierarchy(label="-other").root.certificate))
    (tmp_path / "intermediate.pem").write_text(pem(hierarchy().intermediate.certificate))
    (tmp_path / "leaf.pem").write_text(pem(leaf()))
    files = ["-CAfile", tmp_path / "root.pem", "-no-CApath", "-untrusted", tmp_path / "intermediate.pem"]
    openssl("verify", "-attime", str(AT), *files, tmp_path / "leaf.pem", fails=True)


def case(tiers, end, key=None, at=AT, root=None):
    return {
        "chain": pem(end, *tiers.intermediate.chain),
        "roots": pem(root or tiers.root.certificate),
        "name": NAME,
        "at": at,
        "key": key or "",
    }


def test_go_verifies_every_combination_of_algorithms(go_cases):
    combinations = list(itertools.product(PROFILES, repeat=3))
    answers = go_cases([case(*chain_of(*combination)) for combination in combinations])
    for combination, answer in zip(combinations, answers, strict=True):
        assert [answer[part] for part in ("parse", "server", "client")] == ["", "", ""], combination
        assert answer["uris"] == [SPIFFE_ID]
        assert tuple(answer["dnsNames"]) == NAMES.dns_names


def test_go_speaks_mutual_tls_with_every_kind_and_encoding_of_key(go_cases):
    wanted = [
        (profile, encoding)
        for profile, encoding in itertools.product(PROFILES, KeyEncoding)
        if profile.algorithm is not KeyAlgorithm.ED25519 or encoding is KeyEncoding.PKCS8
    ]
    cases = [
        case(*chain_of(profile, profile, profile), keys.encode(key_for("leaf", profile), encoding).decode())
        for profile, encoding in wanted
    ]
    failures = [answer["tls"] for answer in go_cases(cases)]
    assert failures == [""] * len(wanted)


def test_go_refuses_what_is_wrong(go_cases):
    tiers, end = hierarchy(), leaf()
    late = case(tiers, end, at=int((T0 + DAY).timestamp()) + 1)
    stranger = case(tiers, end, root=hierarchy(label="-other").root.certificate)
    client_only = case(tiers, leaf(usages=("digital signature", "client auth")))
    answers = go_cases([late, stranger, client_only])
    assert [bool(answer["server"]) for answer in answers] == [True, True, True]
    assert [bool(answer["client"]) for answer in answers] == [True, True, False]


def test_an_intermediate_that_bears_its_roots_name_verifies(openssl, go_cases, tmp_path):
    """RFC 5280 6.1 calls it self-issued; key IDs tell the two apart."""
    root, key = hierarchy().root, key_for("intermediate")
    subject, validity = Subject("example root", ("Example",)), certificates.Validity(T0, T0 + DAY)
    certificate = certificates.issue_intermediate(subject, key.public_key(), root, validity)
    issuer = certificates.Issuer(certificate, key, (certificate,))
    end = leaf(issuer)
    (tmp_path / "root.pem").write_text(pem(root.certificate))
    (tmp_path / "intermediate.pem").write_text(pem(certificate))
    (tmp_path / "leaf.pem").write_text(pem(end))
    files = ["-CAfile", tmp_path / "root.pem", "-no-CApath", "-untrusted", tmp_path / "intermediate.pem"]
    openssl("verify", "-x509_strict", "-attime", str(AT), *files, tmp_path / "leaf.pem")
    (answer,) = go_cases([{"chain": pem(end, certificate), "roots": pem(root.certificate), "name": NAME, "at": AT}])
    assert (answer["server"], answer["client"]) == ("", "")


LINTER = pkix.create_pkix_certificate_validator_container(
    pkix.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
    [
        pkix.create_issuer_validator_container([]),
        pkix.create_validity_validator_container(),
        pkix.create_subject_validator_container([]),
        pkix.create_extensions_validator_container([]),
        pkix.create_spki_validator_container([]),
    ],
)


# pkilint asks another package what a URI or a domain is. That one knows neither the schemes spiffe and urn nor names of
# one label and wildcards. All of them are valid (RFC 3986, RFC 8141, RFC 1034 3.5, RFC 6125 6.4.3), and accepted word
# for word only.
UNKNOWN_TO_THE_LINTER = {
    *(f'Invalid URI syntax: "{uri}"' for uri in (SPIFFE_ID, UNDERSCORE, URN)),
    *(f'Invalid domain name syntax: "{domain}"' for domain in (NAMES.dns_names[0], WILDCARD)),
}


def errors(results):
    return [
        f"{found.finding.code} {found.message or ''} at {result.node.path}"
        for result in results
        for found in result.finding_descriptions
        if found.finding.severity <= validation.ValidationFindingSeverity.ERROR
        and found.message not in UNKNOWN_TO_THE_LINTER
    ]


def document(certificate, label=None, collection=None):
    der = certificate.public_bytes(serialization.Encoding.DER)
    return loader.load_certificate(der, "certificate", label, collection)


def lint(certificate):
    return errors(LINTER.validate(document(certificate).root))


def lint_pair(issuer, subject):
    collection = {}
    for label, certificate in (("issuer", issuer), ("subject", subject)):
        collection[label] = document(certificate, label, collection)
    decoding = pairs.create_decoder_validation_container()
    results = [result for one in collection.values() for result in decoding.validate(one.root)]
    results += pairs.create_issuer_validation_container().validate(collection["issuer"].root)
    results += pairs.create_subject_validation_container().validate(collection["subject"].root)
    return errors(results)


@pytest.mark.parametrize("profile", PROFILES, ids=title)
def test_the_linter_finds_no_error(profile):
    tiers, end = chain_of(profile, profile, profile)
    for certificate in (tiers.root.certificate, tiers.intermediate.certificate, end):
        assert lint(certificate) == []


@pytest.mark.parametrize(("signer", "signed"), PAIRS, ids=title)
def test_the_linter_finds_no_error_between_issuer_and_subject(signer, signed):
    tiers, end = chain_of(signed, signer, signed)
    assert lint_pair(tiers.root.certificate, tiers.intermediate.certificate) == []
    assert lint_pair(tiers.intermediate.certificate, end) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"subject": FULL},
        {"subject": Subject("")},
        {"dns_names": ()},
        {
            "dns_names": (WILDCARD, "xn--mnchen-3ya.example"),
            "ip_addresses": ("10.0.0.1", "2001:db8::1"),
            "uris": ("https://example.org:8443/a", URN),
            "email_addresses": ("orders@example.org",),
        },
        {"spiffe_id": UNDERSCORE},
        {"usages": ("digital signature", "key agreement", "content commitment", "code signing", "email protection")},
        {"usages": ()},
    ],
    ids=["full subject", "no subject", "only a SPIFFE ID", "all names", "underscore", "more usages", "no usages"],
)
def test_the_linter_finds_no_error_in_unusual_leaves(changed):
    assert lint(leaf(**changed)) == []


def test_the_linter_would_find_an_error():
    """That it finds none elsewhere says something."""
    root, other = hierarchy().root.certificate, hierarchy(label="-other").intermediate.certificate
    assert lint_pair(root, other)
