from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain.authority import Trust
from serviceidentity.domain.credentials.base import Due, Reason
from serviceidentity.domain.credentials.certificate import leaf_facts, renewal
from serviceidentity.domain.material import Held
from serviceidentity.domain.pki import certificates, keys
from tests.unit.domain.builders import (
    CERTIFICATE,
    DAY,
    HOUR,
    T0,
    TRUST,
    issue,
    issued,
    observed,
    rendered,
    trust,
    with_data,
    with_spec,
)

SPEC = {"certificate": {"dnsNames": ["order-service.shop.svc"]}}
NAME = "order-service-tls"


def decide(seen, now=T0):
    return CERTIFICATE.decide(seen, now)


def reason(seen, now=T0):
    verdict = decide(seen, now)
    return verdict.reason if verdict is not None else None


def test_what_was_just_issued_needs_nothing():
    assert decide(issued(SPEC)) is None


def test_a_missing_secret_is_issued():
    assert reason(observed(SPEC)) is Reason.DOES_NOT_EXIST


@pytest.mark.parametrize("key", ["tls_crt", "tls_key", "ca_crt"])
def test_a_missing_file_is_issued_anew(key):
    assert reason(with_data(issued(SPEC), NAME, **{key: None})) is Reason.MISSING_DATA


def test_a_key_of_another_certificate_is_noticed():
    other = issued(SPEC).contents[NAME].data
    assert reason(with_data(issued(SPEC), NAME, tls_key=other["tls.key"])) is Reason.INVALID_KEY_PAIR


@pytest.mark.parametrize("garbage", ["", "!", "anVuaw==", "LS0tLS1CRUdJTg=="])
def test_garbage_is_issued_anew(garbage):
    assert reason(with_data(issued(SPEC), NAME, tls_key=garbage)) in (Reason.INVALID_KEY_PAIR, Reason.MISSING_DATA)
    assert reason(with_data(issued(SPEC), NAME, tls_crt=garbage)) in (Reason.INVALID_KEY_PAIR, Reason.MISSING_DATA)


def test_a_valid_certificate_of_somebody_else_is_noticed():
    other = issued({"serviceAccountName": "payment-service", "certificate": {}}).contents[NAME].data
    swapped = with_data(issued(SPEC), NAME, tls_key=other["tls.key"], tls_crt=other["tls.crt"])
    assert reason(swapped) is Reason.SECRET_MISMATCH


def test_another_trust_domains_certificate_is_noticed():
    assert reason(replace(issued(SPEC), trust=trust())) is Reason.INCORRECT_ISSUER


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dnsNames", ["other.shop.svc"]),
        ("commonName", "other"),
        ("duration", "12h"),
        ("usages", ["digital signature", "client auth"]),
        ("subject", {"organizations": ["Shop"]}),
        ("privateKey", {"algorithm": "Ed25519"}),
        ("ipAddresses", ["10.0.0.1"]),
    ],
)
def test_a_changed_request_names_the_field(field, value):
    verdict = decide(with_spec(issued(SPEC), {"certificate": SPEC["certificate"] | {field: value}}))
    assert isinstance(verdict, Due)
    assert verdict.reason is Reason.REQUEST_CHANGED
    assert verdict.message == f"changed in the spec: {field}"


@pytest.mark.parametrize("change", [{"renewBefore": "1h"}, {"secretTemplate": {"labels": {"a": "b"}}}])
def test_what_does_not_change_the_certificate_does_not_reissue_it(change):
    assert decide(with_spec(issued(SPEC), {"certificate": SPEC["certificate"] | change})) is None


def test_the_order_of_names_does_not_matter():
    seen = issued({"certificate": {"dnsNames": ["a.example", "b.example"]}})
    assert decide(with_spec(seen, {"certificate": {"dnsNames": ["b.example", "a.example"]}})) is None


def test_a_rotation_is_requested_once():
    annotations = {"serviceidentity.dev/rotate": "1"}
    seen = with_spec(issued(SPEC), SPEC, annotations=annotations)
    assert reason(seen) is Reason.ROTATION_REQUESTED
    assert decide(issue(seen, CERTIFICATE)) is None


def test_renewal_comes_before_expiry_and_never_after_the_promise():
    seen = issued({"certificate": {"duration": "24h", "renewBefore": "8h"}})
    due = renewal(seen, seen.contents[NAME])
    assert T0 + 15 * HOUR < due <= T0 + 16 * HOUR
    assert reason(seen, due - timedelta(seconds=1)) is None
    assert reason(seen, due) is Reason.RENEWING


def test_an_expired_certificate_is_expired():
    assert reason(issued(SPEC), T0 + DAY) is Reason.EXPIRED


def test_a_new_form_keeps_the_key_pair():
    seen = with_spec(issued(SPEC), {"certificate": SPEC["certificate"] | {"outputFormats": ["DER"]}})
    verdict = decide(seen)
    assert isinstance(verdict, Due)
    assert (verdict.reason, verdict.fresh) == (Reason.OUTPUT_CHANGED, False)
    content = rendered(CERTIFICATE, seen, verdict, T0)
    assert all(content.data[name] == seen.contents[NAME].data[name] for name in ("tls.crt", "tls.key"))
    assert "key.der" in content.data


def test_new_roots_keep_the_key_pair():
    second = trust().roots
    wider = replace(TRUST, roots=(*TRUST.roots, *second), bundle=certificates.encode_chain(*TRUST.roots, *second))
    seen = replace(issued(SPEC), trust=wider)
    verdict = decide(seen)
    assert isinstance(verdict, Due)
    assert (verdict.reason, verdict.fresh) == (Reason.TRUST_BUNDLE_CHANGED, False)
    assert rendered(CERTIFICATE, seen, verdict, T0).data["tls.crt"] == seen.contents[NAME].data["tls.crt"]


@pytest.mark.parametrize(("policy", "same"), [("Never", True), ("Always", False)])
def test_the_rotation_policy_says_whether_the_key_stays(policy, same):
    seen = issued({"certificate": {"privateKey": {"rotationPolicy": policy}}})
    again = issue(seen, CERTIFICATE, T0 + HOUR)
    first, second = (keys.load(s.contents[NAME].value("tls.key")) for s in (seen, again))
    assert (first.public_key() == second.public_key()) == same


def test_without_a_signer_what_is_valid_stays_and_what_is_due_waits():
    nobody = Held("TrustDomainNotFound", "gone")
    seen = replace(issued(SPEC), trust=nobody)
    assert decide(seen) is None
    assert decide(seen, T0 + DAY) == nobody


def test_a_duration_beyond_the_limit_is_held():
    assert reason(observed({"certificate": {"duration": "3000h"}})) == "DurationNotAllowed"


@given(st.integers(10, 40 * 86400), st.integers(0, 29 * 86400))
def test_a_leaf_never_outlives_its_issuer_and_renewing_never_loops(duration, age):
    short = SHORT_LIVED
    now = T0 + timedelta(seconds=age)
    spec = {"certificate": {"duration": f"{duration}s"}}
    seen = issue(observed(spec, trusted=short), CERTIFICATE, now)
    leaf = leaf_facts(seen.contents[NAME])
    assert leaf.not_after <= short.signer.certificate.not_valid_after_utc
    due = renewal(seen, seen.contents[NAME])
    assert leaf.not_before <= due < leaf.not_after
    again = decide(seen, due)
    if leaf.not_after == short.signer.certificate.not_valid_after_utc:
        assert again is None, "a renewal that would not live longer is no use"
    else:
        assert isinstance(again, Due)


SHORT_LIVED: Trust = trust(
    root={"duration": "960h"}, intermediate={"duration": "720h"}, maxLeafDuration="720h", backdate="0s"
)
