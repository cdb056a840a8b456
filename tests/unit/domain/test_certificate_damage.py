"""What is found in a certificate Secret and is not as it was issued, in every combination with what else is wrong."""

import itertools
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from serviceidentity.domain import plan
from serviceidentity.domain.credentials.base import Due, Reason
from serviceidentity.domain.credentials.keystores import PASSWORD_KEY
from serviceidentity.domain.material import Held
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.plan import Restore
from tests.unit.domain.builders import (
    CERTIFICATE,
    DAY,
    HOUR,
    T0,
    issue,
    issued,
    observed,
    rendered,
    view_of,
    with_data,
    with_spec,
)

NAME = "order-service-tls"
FORMATS = {"certificate": {"outputFormats": ["DER", "CombinedPEM", "PKCS12", "JKS"]}}
GARBAGE = b64encode(b"garbage").decode()
OTHER = issued({"certificate": {}}).contents[NAME].data
BROKEN = {
    "another key": {"tls_key": OTHER["tls.key"]},
    "another certificate": {"tls_crt": OTHER["tls.crt"]},
    "garbage for a key": {"tls_key": GARBAGE},
    "garbage for a certificate": {"tls_crt": GARBAGE},
    "not even base64": {"tls_key": "!"},
}
ELSE = {
    "and nothing else": {},
    "and a format is missing": {"key_der": None},
    "and all formats are missing": {"key_der": None, "keystore_p12": None, "keystore_jks": None},
}


def settled(seen, now=T0):
    """Write what is due until nothing is, as the operator does: what it wrote is known to be good."""
    for _ in range(3):
        verdict = CERTIFICATE.decide(seen, now)
        if verdict is None:
            return seen
        assert isinstance(verdict, Due)
        content = rendered(CERTIFICATE, seen, verdict, now)
        written = view_of(content, NAME)
        seen = replace(seen, contents={NAME: written}, known_good=frozenset({NAME}))
    pytest.fail("it goes on and on")


@pytest.mark.parametrize(
    ("broken", "more"),
    list(itertools.product(BROKEN.values(), ELSE.values())),
    ids=[f"{one} {two}" for one, two in itertools.product(BROKEN, ELSE)],
)
def test_a_pair_that_does_not_match_is_never_kept(broken, more):
    seen = settled(with_data(issued(FORMATS), NAME, **broken, **more))
    view = seen.contents[NAME]
    leaf = certificates.load_chain(view.value("tls.crt"))[0]
    assert certificates.key_matches(leaf, keys.load(view.value("tls.key")))


@pytest.mark.parametrize("name", ["key_der", "tls-combined_pem", "keystore_p12", "truststore_p12", "truststore_jks"])
def test_a_lost_format_is_written_again_with_the_same_certificate(name):
    before = issued(FORMATS)
    seen = settled(with_data(before, NAME, **{name: None}))
    assert seen.contents[NAME].data["tls.crt"] == before.contents[NAME].data["tls.crt"]
    assert name.replace("_", ".") in seen.contents[NAME].data


@pytest.mark.parametrize("name", ["key_der", "tls-combined_pem"])
def test_a_format_that_holds_another_key_is_written_again(name):
    other = issued(FORMATS).contents[NAME]
    before = issued(FORMATS)
    seen = settled(with_data(before, NAME, **{name: other.data[name.replace("_", ".")]}))
    data_key = name.replace("_", ".")
    restored = seen.contents[NAME].data[data_key] == before.contents[NAME].data[data_key]
    assert restored


@pytest.mark.parametrize("password", [None, b64encode(b"another").decode()], ids=["gone", "changed"])
def test_the_password_in_a_secret_opens_its_keystores(password):
    seen = settled(with_data(issued(FORMATS), NAME, **{PASSWORD_KEY: password}))
    view = seen.contents[NAME]
    key, *_ = pkcs12.load_key_and_certificates(view.value("keystore.p12"), view.value(PASSWORD_KEY))
    assert key is not None


@pytest.mark.parametrize("formats", [["JKS"], ["PKCS12"], ["PKCS12", "JKS"]])
def test_a_password_that_is_no_text_does_not_stop_renewal(formats):
    seen = issued({"certificate": {"outputFormats": formats}})
    seen = with_data(seen, NAME, **{PASSWORD_KEY: b64encode(b"\xff\xfe").decode()})
    now = T0 + 17 * HOUR
    verdict = CERTIFICATE.decide(seen, now)
    assert isinstance(verdict, Due)
    content = rendered(CERTIFICATE, seen, verdict, now)
    assert content.data["tls.crt"] != seen.contents[NAME].data["tls.crt"]


@pytest.mark.parametrize("issued_at", ["2099-01-01T00:00:00Z", "2026-01-02T11:00:00Z", "1999-01-01T00:00:00Z", "x", ""])
def test_no_record_moves_renewal_past_the_promise(issued_at):
    seen = issued({"certificate": {"renewBefore": "8h"}})
    view = seen.contents[NAME]
    annotations = {**view.annotations, "serviceidentity.dev/issued-at": issued_at}
    seen = replace(seen, contents={NAME: replace(view, annotations=annotations)})
    assert CERTIFICATE.decide(seen, T0 + 16 * HOUR + timedelta(seconds=1)) is not None


@pytest.mark.parametrize("how", ["deleted", "edited"])
def test_drift_is_undone_while_renewal_is_held(how):
    held = Held("TrustDomainNotFound", "gone")
    seen = replace(issued({"certificate": {}}), trust=held, drifted={NAME: how})
    actions = plan.plan(seen, T0 + 17 * HOUR)
    assert Restore in [type(action) for action in actions]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"certificate": {"uris": ["https://example.org/a"]}}, "uris"),
        ({"certificate": {"emailAddresses": ["a@example.org"]}}, "emailAddresses"),
        ({"certificate": {}, "serviceAccountName": "other"}, "spiffeID"),
        ({"certificate": {"privateKey": {"size": 384}}}, "privateKey"),
    ],
)
def test_whatever_else_is_in_a_certificate_is_a_changed_request_too(spec, field):
    verdict = CERTIFICATE.decide(with_spec(issued({"certificate": {}}), spec), T0)
    assert isinstance(verdict, Due)
    assert (verdict.reason, verdict.message) == (Reason.REQUEST_CHANGED, f"changed in the spec: {field}")


def test_everything_at_once_is_one_request_and_is_settled_by_one_write():
    spec = {"certificate": {"dnsNames": ["b.example"], "duration": "12h", "outputFormats": ["JKS"]}}
    seen = with_spec(issued({"certificate": {}}), spec, annotations={"serviceidentity.dev/rotate": "1"})
    once = issue(seen, CERTIFICATE)
    assert CERTIFICATE.decide(once, T0) is None
    assert CERTIFICATE.report(once, T0)["revision"] == 2


@pytest.mark.parametrize("reason", ["renewal", "request", "rotation", "expiry"])
def test_rotation_policy_never_keeps_the_key_whatever_the_reason(reason):
    never = {"certificate": {"privateKey": {"rotationPolicy": "Never"}}}
    first = issued(never)
    seen, now = first, T0
    match reason:
        case "renewal":
            now = T0 + 17 * HOUR
        case "request":
            seen = with_spec(first, {"certificate": never["certificate"] | {"dnsNames": ["b.example"]}})
        case "rotation":
            seen = with_spec(first, never, annotations={"serviceidentity.dev/rotate": "1"})
        case "expiry":
            now = T0 + 2 * DAY
    again = settled(seen, now)
    kept = again.contents[NAME].data["tls.key"] == first.contents[NAME].data["tls.key"]
    assert kept
    assert again.contents[NAME].data["tls.crt"] != first.contents[NAME].data["tls.crt"]


def test_a_secret_that_somebody_else_filled_is_never_taken_for_issued():
    other = issued({"certificate": {}, "serviceAccountName": "payment-service"}).contents[NAME]
    seen = observed({"certificate": {}}, contents={NAME: other})
    assert CERTIFICATE.decide(seen, T0) is not None
