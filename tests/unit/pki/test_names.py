"""Names that go into certificates: accepted ones read back, everything else is a PkiError."""

import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain.pki import certificates
from serviceidentity.domain.pki.certificates import Subject, SubjectAltNames
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import KeyAlgorithm
from serviceidentity.domain.pki.names import DEFAULT_USAGES, extended_key_usage, key_usage
from tests.unit.pki.builders import ED25519, P256, PROFILES, RSA, SPIFFE_ID, T0, leaf, title

GOOD = {
    "dns_names": [
        "a",
        "order-service.shop.svc",
        "*.shop.svc",
        "Shop.Example",
        "xn--mnchen-3ya.example",
        "1.a",
        "a" * 63 + ".b",
        ".".join(["a" * 49] * 5),
    ],
    "ip_addresses": ["10.0.0.1", "::1", "2001:db8::1"],
    "uris": [
        "urn:example:orders",
        "https://example.org",
        "https://example.org:8443/a/b?c=d#e",
        "https://[2001:db8::1]/",
        "https://10.0.0.1/",
        "https://user@example.org/%41",
        "mailto:orders@example.org",
    ],
    "email_addresses": ["orders@example.org", "a@b", "first.last+tag@example.org", "o'neill@example.org"],
}
BAD = {
    "dns_names": [
        "",
        " ",
        ".",
        ".a",
        "a.",
        "a..b",
        "a b",
        "-a.b",
        "a-.b",
        "a_b.c",
        "a.*.b",
        "*a.b",
        "*",
        "a\0b",
        "a\n",
        "münchen.example",
        "a" * 64,
        ".".join(["a" * 50] * 5),
    ],
    "ip_addresses": ["", "1.2.3", "10.0.0.0/8", "fe80::1%eth0", "1.2.3.4:80", "256.0.0.1", "01.2.3.4"],
    "uris": [
        "",
        "orders",
        "//example.org",
        "https://a b",
        "https://ä",
        "https://a/%zz",
        "https://a:b/",
        "https://a..b/",
        "https://a./",
        "https://[::1",
        "https://[fe80::1%25eth0]/",
        "https://:80/",
        "x:\0",
        "x:y\n",
        "1x:y",
        "https://a/" + "b" * 2048,
    ],
    "email_addresses": [
        "",
        "orders",
        "@example.org",
        "orders@",
        "a b@example.org",
        "a@b c",
        "A <a@example.org>",
        "ä@example.org",
        "a@b@c",
        ".a@b",
        "a\0@b",
        "a" * 65 + "@b",
    ],
}
SPIFFE_IDS_BAD = [
    "",
    "https://example.org/a",
    "spiffe://",
    "spiffe:///a",
    "spiffe://example.org",
    "spiffe://example.org/",
    "spiffe://example.org/a/",
    "spiffe://example.org//a",
    "spiffe://example.org/a?b",
    "spiffe://example.org/a#b",
    "spiffe://example.org:8443/a",
    "spiffe://user@example.org/a",
    "spiffe://Example.org/a",
    "SPIFFE://example.org/a",
    "spiffe://example.org/a/../b",
    "spiffe://example.org/./a",
    "spiffe://example.org/%41",
    "spiffe://example.org/ä",
    "spiffe://example.org/a b",
    "spiffe://example.org/a\n",
    "spiffe://a..b/c",
    "spiffe://.a/c",
    "spiffe://a./c",
    "spiffe://" + "a" * 256 + "/b",
    "spiffe://example.org/" + "a" * 2048,
]
SPIFFE_IDS_GOOD = [
    SPIFFE_ID,
    "spiffe://a/b",
    "spiffe://under_score-dash.example/.../a..b/_-",
    "spiffe://" + "a" * 255 + "/b",
    "spiffe://example.org/" + "a" * (2048 - len("spiffe://example.org/")),
]


def flat(table):
    return [
        pytest.param(kind, name, id=f"{kind}-{number}") for kind in table for number, name in enumerate(table[kind])
    ]


@pytest.mark.parametrize(("kind", "name"), flat(GOOD))
def test_a_good_name_reads_back(kind, name):
    assert getattr(certificates.facts(leaf(**{kind: (name,)})), kind) == (name,)


@pytest.mark.parametrize(("kind", "name"), flat(BAD))
def test_a_bad_name_is_refused(kind, name):
    with pytest.raises(PkiError):
        leaf(**{kind: (name,)})


def test_an_ip_address_reads_back_as_the_same_address():
    (found,) = certificates.facts(leaf(ip_addresses=("0:0:0:0:0:FFFF:10.0.0.1",))).ip_addresses
    assert ipaddress.ip_address(found) == ipaddress.ip_address("::ffff:10.0.0.1")


def test_names_that_are_accepted_are_names_to_go_as_well(go_cases):
    """Go does not parse a certificate at all when one of its URIs is not to its liking."""
    accepted = [leaf(**{kind: (name,)}) for kind in GOOD for name in GOOD[kind]]
    accepted += [leaf(spiffe_id=spiffe_id) for spiffe_id in SPIFFE_IDS_GOOD]
    cases = [
        {"chain": certificates.encode_chain(one).decode(), "roots": "", "name": "", "at": int(T0.timestamp())}
        for one in accepted
    ]
    for one, answer in zip(accepted, go_cases(cases), strict=True):
        seen = certificates.facts(one)
        assert answer["parse"] == ""
        assert tuple(answer["dnsNames"] or ()) == seen.dns_names
        assert tuple(answer["uris"]) == (seen.spiffe_id, *seen.uris)
        assert tuple(answer["emails"] or ()) == seen.email_addresses


@given(st.sampled_from(sorted(GOOD)), st.text(max_size=80) | st.from_regex(r"[a-z]{1,5}:[!-~]{0,30}", fullmatch=True))
def test_any_text_is_a_name_that_reads_back_or_a_pki_error(kind, name):
    try:
        certificate = leaf(**{kind: (name,)})
    except PkiError:
        return
    (found,) = getattr(certificates.facts(certificate), kind)
    assert found == name or kind == "ip_addresses"


@pytest.mark.parametrize("spiffe_id", SPIFFE_IDS_GOOD)
def test_a_spiffe_id_reads_back(spiffe_id):
    assert certificates.facts(leaf(spiffe_id=spiffe_id)).spiffe_id == spiffe_id


@pytest.mark.parametrize("spiffe_id", SPIFFE_IDS_BAD)
def test_what_is_not_a_spiffe_id_is_refused(spiffe_id):
    with pytest.raises(PkiError):
        leaf(spiffe_id=spiffe_id)


@pytest.mark.parametrize("second", [SPIFFE_ID, "spiffe://other.example/a", "SPIFFE://example.org/a", "spiffe:a"])
def test_a_second_spiffe_id_is_refused(second):
    with pytest.raises(PkiError, match="exactly one"):
        leaf(uris=(second,))


def test_the_spiffe_id_is_apart_from_the_other_uris():
    seen = certificates.facts(leaf(uris=("urn:a:b", "https://example.org")))
    assert seen.spiffe_id == SPIFFE_ID
    assert seen.uris == ("urn:a:b", "https://example.org")


FULL = Subject(
    "order-service",
    organizations=("Example", "Société"),
    organizational_units=("Shop",),
    countries=("DE", "FR"),
    provinces=("Bayern",),
    localities=("München",),
    street_addresses=("1 Main Street",),
    postal_codes=("80331",),
    serial_number="A-1 (b)",
)


def test_a_subject_says_everything_it_was_given():
    expected = (
        "C=DE,C=FR,ST=Bayern,L=München,STREET=1 Main Street,2.5.4.17=80331,"
        "O=Example,O=Société,OU=Shop,2.5.4.5=A-1 (b),CN=order-service"
    )
    name = leaf(subject=FULL).subject
    assert ",".join(part.rfc4514_string() for part in name.rdns) == expected


@pytest.mark.parametrize(
    "subject",
    [
        Subject("a" * 65),
        Subject("ü" * 33),  # cryptography counts bytes where RFC 5280 counts characters: stricter, never invalid
        Subject("a\0b"),
        Subject("a\nb"),
        Subject("a\x85b"),
        Subject("a\ud800"),
        Subject("a", organizations=("",)),
        Subject("a", organizations=("o" * 65,)),
        Subject("a", organizational_units=("o" * 65,)),
        Subject("a", countries=("de",)),
        Subject("a", countries=("DEU",)),
        Subject("a", countries=("D!",)),
        Subject("a", provinces=("p" * 129,)),
        Subject("a", localities=("l" * 129,)),
        Subject("a", street_addresses=("s" * 129,)),
        Subject("a", postal_codes=("1" * 41,)),
        Subject("a", serial_number="ä"),
        Subject("a", serial_number="1" * 65),
    ],
)
def test_a_subject_field_that_does_not_fit_is_refused(subject):
    with pytest.raises(PkiError):
        leaf(subject=subject)


@given(st.text(max_size=70))
def test_any_text_is_a_common_name_that_reads_back_or_a_pki_error(text):
    try:
        certificate = leaf(subject=Subject(text))
    except PkiError:
        return
    assert (certificates.facts(certificate).common_name or "") == text


@pytest.mark.parametrize("profile", PROFILES, ids=title)
def test_no_usage_lets_a_leaf_sign_certificates_and_every_usage_lets_it_sign(profile):
    everything = ("content commitment", "key encipherment", "data encipherment", "key agreement")
    for usages in ((), everything, DEFAULT_USAGES):
        found = key_usage(usages, profile)
        assert found.digital_signature
        assert not found.key_cert_sign
        assert not found.crl_sign


def test_a_key_is_only_for_what_its_algorithm_can_do():
    """RFC 5480 3 for ECDSA, RFC 8410 5 for Ed25519, RFC 3279 2.3.1 for RSA."""
    wanted = ("key encipherment", "data encipherment", "key agreement")
    elliptic, edwards, rsa = (key_usage(wanted, profile) for profile in (P256, ED25519, RSA))
    assert (elliptic.key_encipherment, elliptic.data_encipherment, elliptic.key_agreement) == (False, False, True)
    assert (edwards.key_encipherment, edwards.data_encipherment, edwards.key_agreement) == (False, False, False)
    assert (rsa.key_encipherment, rsa.data_encipherment, rsa.key_agreement) == (True, True, False)


def test_by_default_a_leaf_only_signs_even_with_rsa():
    found = key_usage(DEFAULT_USAGES, RSA)
    assert RSA.algorithm is KeyAlgorithm.RSA
    assert not found.key_encipherment


def test_an_unknown_usage_is_refused():
    with pytest.raises(PkiError, match="unknown"):
        leaf(usages=("digital signature", "cert sign"))


def test_extended_usages_are_those_asked_for():
    assert extended_key_usage(("digital signature",)) is None
    assert extended_key_usage(("client auth", "code signing")) == x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.CODE_SIGNING]
    )


def test_names_in_one_certificate_keep_their_order():
    names = SubjectAltNames(SPIFFE_ID, ("b", "a"), ("10.0.0.2", "10.0.0.1"), ("urn:b", "urn:a"), ("b@a", "a@a"))
    seen = certificates.facts(leaf(names=names))
    assert seen.dns_names == ("b", "a")
    assert seen.ip_addresses == ("10.0.0.2", "10.0.0.1")
    assert seen.uris == ("urn:b", "urn:a")
    assert seen.email_addresses == ("b@a", "a@a")
