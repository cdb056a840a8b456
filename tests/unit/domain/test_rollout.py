"""When a target is restarted, and when not."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from serviceidentity.domain import hmac_ring, ownership, parse, rollout
from serviceidentity.domain.credentials.base import Caller, Due, Reason
from serviceidentity.domain.key_ring import KeyState, Ring, RingKey, new_ring
from serviceidentity.domain.material import SecretContent
from serviceidentity.domain.model import RolloutSpec, Target, WorkloadKind, identity_key
from serviceidentity.domain.rollout import Problem, Record, Restart, Workload
from serviceidentity.errors import InvalidSpecError
from tests.unit.domain.builders import (
    CERTIFICATE,
    HMAC,
    HOUR,
    KEYRING,
    T0,
    identity,
    issued,
    observed,
    rendered,
    with_data,
)

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
TARGET = Target(WorkloadKind.DEPLOYMENT, "order-service")
SPEC = RolloutSpec((TARGET,), frozenset({"certificate", "hmac", "keyring"}), 10 * MINUTE, 10 * SECOND)
ME = "order-service"
OLD, NEW = {"tls": "a"}, {"tls": "b"}
PENDING = Record(OLD, pending=T0 - MINUTE)


def workload(*restarts: tuple[str, dict[str, str], object]) -> Workload:
    """A target that was restarted by identities, for contents, at times."""
    written = {
        rollout.annotation_of(name): json.dumps({"at": f"{at:%Y-%m-%dT%H:%M:%SZ}", "for": contents})
        for name, contents, at in restarts
    }
    return Workload("uid", "7", written)


def decide(record, contents, found, now=T0):
    return rollout.decide(SPEC, ME, record, contents, found, now)


def test_a_new_target_has_read_what_is_there():
    assert decide(None, NEW, workload()) == Record(NEW)


def test_a_credential_that_is_issued_later_restarts_nothing():
    early = decide(None, {"tls": "a", "hmac": None}, workload())
    assert early == Record({"tls": "a"})
    assert rollout.refreshed(SPEC, early, {"tls": "a", "hmac": "h"}, T0) == Record({"tls": "a", "hmac": "h"})


def test_new_content_is_waited_with_until_it_has_settled():
    record = rollout.refreshed(SPEC, Record(OLD), NEW, T0)
    assert record == Record(OLD, pending=T0)
    assert rollout.restart_time(SPEC, record) == T0 + 10 * SECOND
    assert not rollout.must_look(SPEC, record, NEW, T0 + 9 * SECOND)
    assert rollout.must_look(SPEC, record, NEW, T0 + 10 * SECOND)
    later = rollout.refreshed(SPEC, record, {"tls": "c"}, T0 + 5 * SECOND)
    assert later.pending == T0, "further changes go along, and do not put it off"


def test_then_the_target_is_restarted_once():
    due = decide(PENDING, NEW, workload())
    assert isinstance(due, Restart)
    assert due.secrets == ("tls",)
    assert json.loads(due.value) == {"at": "2026-01-01T12:00:00Z", "for": NEW}
    after = Workload("uid", "8", {due.annotation: due.value})
    assert decide(due.after, NEW, after) == Record(NEW, T0)
    assert decide(PENDING, NEW, after, T0 + HOUR) == Record(NEW, T0), "the status was not written any more"
    assert decide(None, NEW, after, T0 + HOUR) == Record(NEW, T0), "the status was lost"


def test_a_lost_status_does_not_lose_what_the_annotation_says_is_due():
    found = workload((ME, OLD, T0 - HOUR))
    waiting = decide(None, NEW, found)
    assert waiting == Record(OLD, T0 - HOUR, T0)
    assert isinstance(decide(waiting, NEW, found, T0 + 10 * SECOND), Restart)


@pytest.mark.parametrize("found", [workload(), workload((ME, OLD, T0 - HOUR))], ids=["taken off", "rolled back"])
def test_a_changed_annotation_is_no_new_content(found):
    assert decide(Record(NEW, T0), NEW, found, T0 + HOUR) == Record(NEW, T0)


@pytest.mark.parametrize("value", ["", "1", "[]", "{}", '{"at":"x","for":{}}', '{"at":1,"for":{}}', "[" * 9999])
def test_an_annotation_that_is_not_ours_says_nothing(value):
    found = Workload("uid", "7", {rollout.annotation_of(ME): value})
    assert decide(None, NEW, found) == Record(NEW)


def test_two_restarts_are_at_least_the_interval_apart():
    found = workload((ME, OLD, T0 - 9 * MINUTE))
    waiting = decide(PENDING, NEW, found)
    assert isinstance(waiting, Record)
    assert rollout.restart_time(SPEC, waiting) == T0 + MINUTE
    assert isinstance(decide(waiting, NEW, found, T0 + MINUTE), Restart)


def test_also_when_another_identity_restarts_the_same_target():
    waiting = decide(PENDING, NEW, workload(("payment-service", {"tls": "x"}, T0 - MINUTE)))
    assert isinstance(waiting, Record)
    assert rollout.restart_time(SPEC, waiting) == T0 + 9 * MINUTE


def test_what_came_after_a_restart_that_was_not_recorded_settles_anew():
    found = workload((ME, NEW, T0 - 11 * MINUTE))
    waiting = decide(replace(PENDING, pending=T0 - 12 * MINUTE), {"tls": "c"}, found)
    assert isinstance(waiting, Record)
    assert waiting.pending == T0


def test_a_time_far_in_the_future_is_no_time():
    found = workload((ME, OLD, T0 + HOUR))
    assert isinstance(decide(PENDING, NEW, found), Restart)
    record = rollout.refreshed(SPEC, Record(OLD, T0 + HOUR, T0 + HOUR), NEW, T0)
    assert record == Record(OLD, None, T0)


def test_a_target_that_is_missing_has_nothing_to_restart():
    missing = decide(PENDING, NEW, None)
    assert missing == Record(NEW, None, None, Problem.NOT_FOUND)
    assert rollout.must_look(SPEC, missing, NEW, T0)
    assert decide(missing, NEW, workload()) == Record(NEW)


def test_a_restart_that_is_refused_stays_due():
    stuck = rollout.failed(SPEC, PENDING, NEW, Problem.REJECTED, T0)
    assert stuck == replace(PENDING, problem=Problem.REJECTED)
    assert isinstance(decide(stuck, NEW, workload()), Restart)


def test_what_changes_while_the_operator_has_no_right_to_look_is_made_up_for():
    stuck = rollout.failed(SPEC, None, OLD, Problem.FORBIDDEN, T0)
    changed = rollout.refreshed(SPEC, stuck, NEW, T0)
    assert isinstance(decide(changed, NEW, workload(), T0 + MINUTE), Restart)


def test_a_secret_that_is_gone_for_now_is_not_forgotten():
    gone = rollout.refreshed(SPEC, Record(OLD), {"tls": None}, T0)
    assert gone == Record(OLD)
    assert rollout.refreshed(SPEC, gone, NEW, T0).pending == T0


def test_a_secret_that_is_not_asked_for_any_more_is_forgotten():
    record = Record({"tls": "a", "hmac": "h"})
    assert rollout.refreshed(SPEC, record, OLD, T0) == Record(OLD)


def test_looking_again_is_rare_after_a_while():
    assert rollout.retry_time(None, T0) == T0 + 10 * SECOND
    assert rollout.retry_time(T0 - 40 * SECOND, T0) == T0 + 40 * SECOND
    assert rollout.retry_time(T0 - 10 * HOUR, T0) == T0 + 10 * MINUTE


def test_records_survive_the_status():
    other = Target(WorkloadKind.DAEMON_SET, "agent")
    spec = replace(SPEC, targets=(TARGET, other))
    records = {TARGET: Record(OLD, T0 - HOUR, T0), other: Record({}, problem=Problem.FORBIDDEN)}
    report = rollout.report(spec, records, T0, suspended=False)
    assert rollout.records_of({"rollout": report.entries}) == records
    assert report.deadline == T0 + 10 * SECOND
    assert report.condition[:3] == (rollout.CONDITION, False, "TargetForbidden")
    assert rollout.report(spec, {TARGET: Record(OLD)}, T0, suspended=False).condition[1:3] == (True, "UpToDate")


@pytest.mark.parametrize("entry", [None, 1, {}, {"kind": "Pod", "name": "a"}, {"kind": "Deployment"}])
def test_a_record_that_cant_be_read_is_none(entry):
    assert rollout.records_of({"rollout": [entry]}) == {}


def test_the_annotation_has_a_valid_name_for_the_longest_identity():
    prefix, _, name = rollout.annotation_of("a" * 63).partition("/")
    assert len(prefix) <= 253
    assert len(name) <= 63


# What counts as new content


def write(seen, credential, now=T0, due=None):
    """What is stored when a credential is written, and whether it is the same to who uses it."""
    before = seen.contents[credential.secret_name(seen.identity)]
    content = rendered(credential, seen, due or Due(Reason.DRIFTED, "", fresh=False), now)
    return credential.consumed(before) == credential.consumed(content)


def test_another_certificate_is_new_and_the_same_in_other_bytes_is_not():
    seen = issued({"certificate": {"outputFormats": ["PKCS12", "JKS", "DER"]}})
    assert not write(seen, CERTIFICATE, due=Due(Reason.RENEWING, ""))
    assert write(seen, CERTIFICATE)


@pytest.mark.parametrize(("name", "same"), [("ca.crl", True), ("tls.crt", False), ("ca.crt", False), ("extra", False)])
def test_which_files_of_a_certificate_matter(name, same):
    seen = issued({"certificate": {}})
    changed = with_data(seen, "order-service-tls", **{name.replace(".", "_"): "bmV3"})
    before, after = (one.contents["order-service-tls"] for one in (seen, changed))
    assert (CERTIFICATE.consumed(before) == CERTIFICATE.consumed(after)) is same


def test_of_a_rotation_only_the_key_that_signs_matters_to_its_owner():
    seen = issued({"hmac": {"publishBefore": "10h", "overlap": "10h", "rotateEvery": "100h"}})
    steps = []
    for hours in range(0, 250, 5):
        now = T0 + hours * HOUR
        if HMAC.decide(seen, now) is None:
            continue
        content = HMAC.render(seen, Due(Reason.ROTATING, ""), now, None)
        view = seen.contents["order-service-hmac"]
        signs = HMAC.consumed(view) != HMAC.consumed(content)
        assert signs == (view.value("key") != content.value("key"))
        steps.append(signs)
        seen = replace(seen, contents={"order-service-hmac": replace(view, data=content.data)})
    assert steps.count(True) == 2
    assert steps.count(False) >= 3, "prepared and dropped"


def test_a_keyring_matters_when_a_key_comes_or_goes():
    def keyring(*keys):
        caller = _caller(Ring(keys))
        seen = observed({"callers": [{"name": "a"}]}, callers=(caller,))
        return KEYRING.consumed(KEYRING.render(seen, Due(Reason.CALLERS_CHANGED, ""), T0, None))

    active = new_ring(hmac_ring.make, T0).active
    prepared = RingKey(*hmac_ring.make(), KeyState.PREPARED, T0, T0 + HOUR)
    retiring = replace(active, state=KeyState.RETIRING, until=T0 + HOUR)
    signing = replace(prepared, state=KeyState.ACTIVE, until=None)
    assert keyring(active) != keyring(active, prepared)
    assert keyring(active, prepared) == keyring(retiring, signing)
    assert keyring(retiring, signing) != keyring(signing)


def _caller(ring):
    return Caller(identity_key("shop", "a"), "a", "", ring)


def test_content_that_is_the_same_to_its_users_keeps_their_id():
    seen = issued({"certificate": {}})
    view = seen.contents["order-service-tls"]
    content = SecretContent(view.type, view.data, {})
    first = ownership.with_content_id(content, "1")
    second = ownership.with_content_id(first, "2", ownership.consumed_id(replace(view, annotations=first.annotations)))
    third = ownership.with_content_id(second, "3", ownership.consumed_id(replace(view, annotations=second.annotations)))
    assert ownership.consumed_id(replace(view, annotations=third.annotations)) == "1"
    assert third.annotations[ownership.CONTENT_ID_ANNOTATION] == "3"
    assert ownership.consumed_id(replace(view, annotations=ownership.with_content_id(third, "4").annotations)) == "4"


def test_contents_are_those_of_the_credentials_that_are_followed():
    spec = {"certificate": {}, "hmac": {}, "rollout": {"targets": [{"kind": "Deployment", "name": "a"}]}}
    seen = issued(spec)
    view = seen.contents["order-service-tls"]
    known = replace(view, annotations={**view.annotations, ownership.CONTENT_ID_ANNOTATION: "1"})
    seen = replace(seen, contents={"order-service-tls": known})
    assert rollout.contents_of(seen, seen.identity.rollout) == {"order-service-tls": "1", "order-service-hmac": None}
    only = replace(seen.identity.rollout, credentials=frozenset({"hmac"}))
    assert rollout.contents_of(seen, only) == {"order-service-hmac": None}


# The spec


def asked(**block):
    return identity(
        {"certificate": {}, "hmac": {}, "rollout": {"targets": [{"kind": "Deployment", "name": "a"}]} | block}
    )


def test_all_credentials_are_followed_unless_some_are_named():
    everything = {"certificate", "hmac", "keyring", "vault", "encrypted", "jwt"}
    assert asked().rollout.credentials == everything, "but a token, which changes every few minutes"
    assert asked(credentials=["HMAC"]).rollout.credentials == {"hmac"}


@pytest.mark.parametrize(
    ("block", "field"),
    [
        ({"targets": []}, "targets"),
        ({"targets": [{"kind": "Deployment", "name": "a"}] * 2}, "targets"),
        ({"targets": [{"kind": "Pod", "name": "a"}]}, "targets[0].kind"),
        ({"targets": [{"kind": "Deployment"}]}, "targets[0].name"),
        ({"credentials": ["Keyring"]}, "credentials"),
        ({"credentials": ["Password"]}, "credentials"),
        ({"minInterval": "1d"}, "minInterval"),
        ({"minInterval": "8h"}, "minInterval"),
        ({"settle": 5}, "settle"),
    ],
)
def test_what_the_schema_let_through_names_its_field(block, field):
    with pytest.raises(InvalidSpecError, match=f"^spec.rollout.{field}".replace("[", r"\[")):
        asked(**block)


def test_an_identity_without_the_block_restarts_nothing():
    assert parse.identity({"metadata": {"name": "a", "uid": "u"}, "spec": {"hmac": {}}}).rollout is None
