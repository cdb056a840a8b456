import json
import pickle
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain import hmac_ring, key_ring, ownership, parse, plan, status
from serviceidentity.domain.credentials import keyring
from serviceidentity.domain.credentials.base import Caller, Reason
from serviceidentity.domain.key_ring import KeyState
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.model import Kind, identity_key
from serviceidentity.domain.plan import Hold, Remove, Restore, Write
from serviceidentity.domain.schedule import format_time
from serviceidentity.domain.status import Failure
from serviceidentity.errors import InvalidSpecError
from tests.unit.domain.builders import (
    DAY,
    HMAC,
    HOUR,
    KEYRING,
    T0,
    domain,
    identity,
    identity_body,
    issue,
    issued,
    observed,
    with_spec,
)

ROOT = Path(__file__).resolve().parents[3]
SPEC = {"certificate": {}, "hmac": {}}


def test_a_new_identity_gets_what_it_asks_for_and_nothing_else():
    actions = plan.plan(observed(SPEC), T0)
    assert [(type(a), a.secret) for a in actions] == [(Write, "order-service-tls"), (Write, "order-service-hmac")]
    assert plan.plan(issued(SPEC), T0) == ()


@pytest.mark.parametrize("change", [{"suspend": True}, {}])
def test_suspended_or_deleted_identities_are_left_alone(change):
    seen = observed(SPEC | change)
    if not change:
        seen = replace(seen, identity=replace(seen.identity, meta=replace(seen.identity.meta, deleting=True)))
    assert plan.plan(seen, T0 + 100 * DAY) == ()
    assert plan.deadline(seen, T0) is None


def test_drift_is_undone_and_not_reissued():
    (action,) = plan.plan(replace(issued(SPEC), drifted={"order-service-hmac": "edited"}), T0)
    assert isinstance(action, Restore)
    assert action.due.reason is Reason.DRIFTED


@pytest.mark.parametrize("part", ["labels", "annotations", "owners"])
def test_lost_metadata_is_put_back(part):
    seen = issued(SPEC)
    view = seen.contents["order-service-hmac"]
    bare = replace(view, **{part: () if part == "owners" else {}})
    (action,) = plan.plan(replace(seen, contents={**seen.contents, view.name: bare}), T0)
    assert isinstance(action, Restore)


def test_foreign_metadata_is_no_reason_to_write():
    seen = issued(SPEC)
    view = seen.contents["order-service-tls"]
    more = replace(view, labels={**view.labels, "team": "x"}, annotations={**view.annotations, "a": "b"})
    assert plan.plan(replace(seen, contents={**seen.contents, view.name: more}), T0) == ()


@pytest.mark.parametrize(("policy", "actions"), [("Delete", 1), ("Retain", 0)])
def test_leftovers_are_removed_unless_retained(policy, actions):
    seen = issued(SPEC | {"deletionPolicy": policy})
    found = plan.plan(with_spec(seen, {"certificate": {}, "deletionPolicy": policy}), T0)
    assert [type(a) for a in found] == [Remove] * actions


def test_deletion_policy_decides_about_the_owner_reference():
    seen = issued(SPEC)
    (first, second) = plan.plan(with_spec(seen, SPEC | {"deletionPolicy": "Retain"}), T0)
    assert isinstance(first, Restore)
    assert isinstance(second, Restore)


def test_a_namesake_adopts_and_a_stranger_does_not():
    view = issued(SPEC).contents["order-service-tls"]
    reborn = identity(SPEC, uid="uid-2").meta
    assert ownership.is_owned(view, Kind.SERVICE_IDENTITY, reborn)
    stranger = identity(SPEC, name="payment-service", uid="uid-3").meta
    assert not ownership.is_owned(view, Kind.SERVICE_IDENTITY, stranger)
    copy = replace(view, name="backup")
    assert not ownership.is_owned(copy, Kind.SERVICE_IDENTITY, identity(SPEC).meta)
    foreign = replace(view, labels={}, annotations={}, owners=({"controller": True, "kind": "X", "uid": "y"},))
    assert not ownership.is_owned(foreign, Kind.SERVICE_IDENTITY, identity(SPEC).meta)


def _caller(name: str, namespace: str = "shop", service_id: str | None = None) -> Caller:
    return Caller(identity_key(namespace, name), service_id or name, "", key_ring.new_ring(hmac_ring.make, T0))


def test_of_two_callers_with_one_service_id_the_own_namespace_wins_whatever_the_order():
    near, far, other = _caller("a"), _caller("a", "attic"), _caller("a", "zoo")
    verifier = identity({"callers": [{"name": "*"}]})
    for callers in ((near, far, other), (other, far, near)):
        chosen, left_out = keyring.distinct(verifier, callers)
        assert chosen == (near,)
        assert left_out == (far, other)
    assert keyring.distinct(verifier, (other, far))[0] == (far,)


def test_a_keyring_holds_prepared_keys_and_follows_its_callers():
    ring = key_ring.Ring(
        (
            *key_ring.new_ring(hmac_ring.make, T0).keys,
            key_ring.RingKey(*hmac_ring.make(), KeyState.PREPARED, T0, T0 + HOUR),
        )
    )
    caller = replace(_caller("a"), ring=ring)
    seen = issue(observed({"callers": [{"name": "a"}]}, callers=(caller,)), KEYRING)
    assert KEYRING.decide(seen, T0) is None
    view = seen.contents["order-service-hmac-keyring"]
    assert (keyring.published_since(view, caller.key, "a") or {}).keys() == ring.key_ids
    assert keyring.published_since(view, identity_key("other", "a"), "a") is None
    assert KEYRING.decide(replace(seen, callers=()), T0) is not None


def test_status_computed_later_is_the_same_so_nothing_is_written():
    seen = issued(SPEC)
    first = status.of_identity(seen, {}, {}, T0)
    again = status.of_identity(seen, {}, first, T0 + 7 * HOUR)
    assert again == first
    assert status.merge_patch(first, again) == {}
    assert first["conditions"][0]["type"] == "Ready"
    assert first["nextActionTime"] == first["certificate"]["renewalTime"]


def test_no_secret_value_is_in_a_status():
    seen = issued(SPEC | {"certificate": {"outputFormats": ["PKCS12", "JKS", "DER"]}})
    text = json.dumps(status.of_identity(seen, {}, {}, T0)) + repr(seen)
    public = {"tls.crt", "ca.crt", "key-id"}
    for view in seen.contents.values():
        for name, value in view.data.items():
            if name not in public:
                assert value[:40] not in text
                assert b64decode(value).hex()[:40] not in text
                assert b64decode(value).decode(errors="ignore")[:60] not in text


def test_a_failure_backs_off_longer_each_time_and_a_changed_spec_is_tried_at_once():
    seen, previous, now = observed(SPEC), {}, T0
    pauses = []
    for _ in range(14):
        failing = {"certificate": Failure(status.CONFLICT, "taken")}
        previous = status.of_identity(seen, failing, previous, now)
        retry = status.parse_time(previous["backoff"]["nextAttemptTime"])
        pauses.append(retry - now)
        assert "CertificateReady" in status.backing_off(previous, seen.identity.meta, now)
        changed = replace(seen.identity.meta, generation=2)
        assert status.backing_off(previous, changed, now) == {}
        now = retry
        assert status.backing_off(previous, seen.identity.meta, now) == {}
    assert pauses[:3] == [timedelta(minutes=m) for m in (1, 2, 4)]
    assert pauses[-1] == timedelta(hours=32)


def test_a_repeated_failure_keeps_its_backoff():
    seen = observed(SPEC)
    first = status.of_identity(seen, {"certificate": Failure(status.CONFLICT, "taken")}, {}, T0)
    repeated = status.backing_off(first, seen.identity.meta, T0)["CertificateReady"]
    again = status.of_identity(seen, {"certificate": repeated}, first, T0 + timedelta(seconds=5))
    assert again["backoff"] == first["backoff"]


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)
statuses = st.dictionaries(
    st.sampled_from(status.OWNED_FIELDS),
    st.integers()
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=3),
)


def _merge(target: object, patch: object) -> object:
    """RFC 7386 section 2, as written there."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), value)
    return result


@given(statuses, statuses)
def test_a_merge_patch_turns_the_old_status_into_the_new_one(old, new):
    assert _merge(old, status.merge_patch(old, new)) == new


@given(st.dictionaries(st.sampled_from(["certificate", "hmac", "callers", "trustDomainRef", "suspend", "x"]), values))
def test_any_spec_is_understood_or_refused_with_its_field(spec):
    try:
        parse.identity(identity_body(spec))
    except InvalidSpecError as error:
        assert error.path.startswith("spec")


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"certificate": {"duration": "1d"}}, "spec.certificate.duration"),
        ({"certificate": {"duration": "1h", "renewBefore": "1h"}}, "spec.certificate.renewBefore"),
        ({"certificate": {"privateKey": {"algorithm": "RSA", "size": 1024}}}, "spec.certificate.privateKey.size"),
        ({"certificate": {"renewBeforePercentage": 100}}, "spec.certificate.renewBeforePercentage"),
        ({"hmac": {"rotateEvery": "1h", "overlap": "2h"}}, "spec.hmac.rotateEvery"),
        ({"callers": [{"namespace": "x"}]}, "spec.callers[0].name"),
    ],
)
def test_a_bad_spec_names_its_field(spec, path):
    with pytest.raises(InvalidSpecError) as caught:
        parse.identity(identity_body(spec))
    assert caught.value.path == path


def test_an_invalid_spec_keeps_what_was_issued_in_the_status():
    before = status.of_identity(issued(SPEC), {}, {}, T0)
    now = status.of_invalid(identity(SPEC, generation=2).meta, "spec.certificate.duration", "bad", before, T0)
    assert now["certificate"] == before["certificate"]
    assert now["conditions"][0]["reason"] == "InvalidSpec"
    assert "nextActionTime" not in now


def test_schema_and_parser_have_the_same_defaults():
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "crds/serviceidentities.serviceidentity.dev.yaml").read_text()
    schema = yaml.safe_load(text)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    full = _defaulted(schema, {"certificate": {}, "hmac": {}, "callers": [{"name": "a"}]})
    bare = {"certificate": {}, "hmac": {}, "callers": [{"name": "a"}]}
    assert parse.identity(identity_body(full)) == parse.identity(identity_body(bare))
    text = (ROOT / "crds/trustdomains.serviceidentity.dev.yaml").read_text()
    schema = yaml.safe_load(text)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    full = _defaulted(schema, {"trustDomain": "example.org"})
    assert len(full) > 3
    assert domain(**full) == domain()


def _defaulted(schema: dict, value: object) -> object:
    """What the API server makes of a value: defaults of absent properties, all the way down."""
    if isinstance(value, dict):
        for name, field in schema.get("properties", {}).items():
            if name not in value and "default" in field:
                value[name] = json.loads(json.dumps(field["default"]))
            if name in value:
                value[name] = _defaulted(field, value[name])
    if isinstance(value, list):
        return [_defaulted(schema.get("items", {}), item) for item in value]
    return value


def test_key_material_shows_nowhere():
    material = KeyMaterial(b"very secret")
    for text in (repr(material), str(material), f"{material}", f"{material!r:>40}", repr([material])):
        assert "secret" not in text
    with pytest.raises(TypeError):
        pickle.dumps(material)


def test_the_source_folder_does_not_shadow_pythons_operator_module():
    assert not (ROOT / "operator" / "__init__.py").exists()
    code = "import operator; operator.itemgetter; import serviceidentity"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_hold_says_why():
    (action,) = plan.plan(observed({"certificate": {"duration": "3000h"}}), T0)
    assert isinstance(action, Hold)
    found = status.of_identity(observed({"certificate": {"duration": "3000h"}}), {"certificate": action.held}, {}, T0)
    assert found["conditions"][0]["reason"] == "DurationNotAllowed"
    assert "backoff" not in found


def test_hmac_status_lists_states_and_deadlines():
    seen = issued({"hmac": {}})
    found = HMAC.report(seen, T0)
    assert found["keys"] == [{"keyID": found["keys"][0]["keyID"], "state": "Active", "activationTime": format_time(T0)}]
