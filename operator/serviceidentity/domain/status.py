"""The status of an identity and of a trust domain, computed anew each time from what is observed.

Nothing in it depends on the moment of computing besides the transition times of conditions, so that a restarted
operator computes the status that is already there, and writes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.domain import ownership
from serviceidentity.domain import plan as planning
from serviceidentity.domain.authority import (
    AUTHORITY_MISSING,
    AUTHORITY_UNREADABLE,
    Authority,
    AuthorityState,
    Hierarchy,
    Role,
    Trust,
    activation_of,
    crl_report,
    crls,
    fingerprints,
    renewal_is_due,
    renewal_of,
    retirement_of,
    rotation_asked_for,
    state_of,
)
from serviceidentity.domain.authority.crls import Lists
from serviceidentity.domain.authority.signing import ROTATE_ROOT_ANNOTATION
from serviceidentity.domain.bundle import Publication
from serviceidentity.domain.credentials import STATUS_FIELDS, credentials_of, jwt
from serviceidentity.domain.credentials.base import Credential, Due, Observed, Reason
from serviceidentity.domain.credentials.jwt import JwtKeys
from serviceidentity.domain.material import Held, MalformedError
from serviceidentity.domain.model import Meta, spiffe_id
from serviceidentity.domain.pki import certificates
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.policy.checks import DenialReason
from serviceidentity.domain.rollout import STATUS_FIELD as ROLLOUT
from serviceidentity.domain.rollout import Report
from serviceidentity.domain.schedule import BACKOFF_LIMIT, backoff, earliest, format_time, parse_time, urgency

Json = dict[str, Any]

CONNECTION_FIELDS: Final = ("version", "sealed", "tokenTTL")
POLICY_FIELDS: Final = ("services", "selected", "delivered")
OWNED_FIELDS: Final = (
    "observedGeneration",
    "conditions",
    "spiffeID",
    "nextActionTime",
    "backoff",
    "authorities",
    "bundle",
    "jwt",
    *CONNECTION_FIELDS,
    *POLICY_FIELDS,
    *STATUS_FIELDS,
    ROLLOUT,
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An action that a server refused and that only backing off helps.

    `repeated` means that it was not tried again yet: its backoff stays as it is. `limit` is the longest pause before
    it is tried again.
    """

    reason: str
    message: str
    repeated: bool = False
    limit: timedelta = BACKOFF_LIMIT


SOURCE_READY: Final = "SourceReady"  # the condition about an authority that people bring along
CONFLICT: Final = "Conflict"
REJECTED: Final = "Rejected"
ISSUE_FAILED: Final = "IssueFailed"
CRL_READY: Final = "CRLReady"
_FAILURE_REASONS: Final = frozenset({CONFLICT, REJECTED, ISSUE_FAILED})


def of_identity(
    seen: Observed,
    obstacles: Mapping[str, Failure | Held],
    previous: Mapping[str, Any],
    now: datetime,
    rollout: Report | None = None,
) -> Json:
    """Return the whole status of an identity. `obstacles` say, by a credential's name, why it is not as asked for.

    What `rollout` says of the targets is a condition of its own: the credentials are there, so the identity is Ready.
    """
    meta = seen.identity.meta
    status: Json = {"observedGeneration": meta.generation}
    problems: list[tuple[str, str]] = []
    reports: list[tuple[str, bool, str, str]] = []
    summaries: list[str] = []
    credentials = credentials_of(seen.identity)
    for credential in credentials:
        try:
            report = credential.report(seen, now)
            if credential.listed:
                status.setdefault(credential.status_field, []).append(report)
            else:
                status[credential.status_field] = report
            summary = credential.summary(seen, now)
        except (KeyError, MalformedError, PkiError):
            summary = ""
        problem = obstacles.get(credential.name) or _defect(seen, credential, summary, now)
        if problem is None:
            summaries.append(summary)
            reports.append((credential.condition, True, Reason.ISSUED, summary))
        else:
            reports.append((credential.condition, False, problem.reason, problem.message))
            problems.append((problem.reason, problem.message))
    ready: tuple[str, bool, str, str]
    if problems:
        ready = ("Ready", False, *problems[0])
    elif seen.identity.suspend:
        kept = "; leases of Vault are renewed" if any("lease" in item for item in status.get("vault", ())) else ""
        ready = ("Ready", True, Reason.SUSPENDED.value, f"suspended: nothing is issued or renewed{kept}")
    else:
        ready = ("Ready", True, Reason.READY.value, "; ".join(summaries))
    if rollout is not None:
        reports.append(rollout.condition)
        status[ROLLOUT] = rollout.entries
    status["conditions"] = as_conditions([ready, *reports], previous, meta.generation, now)
    another = any(denial.reason is DenialReason.SPIFFE_ID_IN_USE for denial in seen.denied)
    if isinstance(seen.trust, Trust) and (not another or "certificate" in status or "tokens" in status):
        domain = seen.trust.domain.trust_domain
        status["spiffeID"] = spiffe_id(domain, meta.namespace, seen.identity.service_account)
    elif "spiffeID" in previous and not another:
        status["spiffeID"] = previous["spiffeID"]
    failures = [obstacle for obstacle in obstacles.values() if isinstance(obstacle, Failure)]
    ends = (credential.ends(seen) for credential in credentials if credential.name in obstacles)
    deadline = earliest(planning.deadline(seen, now), rollout.deadline if rollout else None)
    return _finish(status, deadline, _backoff(failures, previous, meta, now, earliest(*ends)))


def _defect(seen: Observed, credential: Credential, summary: str, now: datetime) -> Held | None:
    """What is wrong with a credential that nothing is done about: it was never issued, or its identity is suspended."""
    name, ended = credential.secret_name(seen.identity), credential.ends(seen)
    if not summary:
        return Held(Reason.SUSPENDED if seen.identity.suspend else Reason.DOES_NOT_EXIST, "nothing is issued yet")
    if ended is not None and now >= ended:
        return Held(Reason.EXPIRED, f"what is in Secret {name} expired at {format_time(ended)}")
    if seen.identity.suspend and name in seen.drifted:
        return Held(Reason.DRIFTED, f"Secret {name} was {seen.drifted[name]}, and the identity is suspended")
    due = credential.decide(seen, now) if seen.identity.suspend else None
    if seen.identity.suspend and isinstance(credential, JwtKeys) and not isinstance(due, Due):
        due = jwt.unpublished(seen, now)
    if isinstance(due, Due) and due.reason in (Reason.REVOKED, Reason.LEASE_LOST, Reason.DRIFTED):
        return Held(due.reason, f"{due.message}, and the identity is suspended")
    return None


def of_trust_domain(
    seen: Hierarchy,
    problem: Held | Failure | None,
    deadline: datetime | None,
    previous: Mapping[str, Any],
    now: datetime,
    publication: Publication | None = None,
    lists: Lists | None = None,
    crl_problem: Failure | Held | None = None,
    more: Sequence[tuple[str, bool, str, str]] = (),
    jwt: Mapping[str, Any] | None = None,
) -> Json:
    """Return the whole status of a trust domain.

    `publication` says what became of its bundle, if it publishes one; `lists` are its revocation lists, as far as they
    can be known; `more` has conditions beside these; `jwt` is what is told of its token keys.
    """
    domain = seen.domain
    if problem is None:
        more_to_say = _waiting(seen, now) + fingerprints.remark(seen, "spec.taintedAuthorities", domain.tainted)
        ready = ("Ready", True, Reason.READY.value, "the trust domain's authorities can sign" + more_to_say)
    else:
        # A failure that is told again is told in its own words.
        also = _waiting(seen, now) if isinstance(problem, Held) else ""
        ready = ("Ready", False, problem.reason, problem.message + also)
    reason = problem.reason if problem is not None else None
    # Of those whose key alone can't be read, everything is known that is listed.
    unreadable = reason == AUTHORITY_MISSING or (reason == AUTHORITY_UNREADABLE and not seen.authorities)
    lost = unreadable or bool(seen.recorded - {item.view.name for item in seen.authorities})
    listed = [
        _authority(seen, authority, now) | crl_report.entry(lists, authority, previous)
        for authority in _by_age(seen.authorities)
    ]
    conditions = [ready, *([publication.condition()] if publication else [])]
    if lists is not None and crls.has_lists(lists, now):
        stuck = crl_problem and (False, crl_problem.reason, crl_problem.message)
        conditions.append((CRL_READY, *(stuck or crl_report.summary(lists))))
        deadline = earliest(deadline, crls.deadline(lists, now))
    status: Json = {
        "observedGeneration": domain.meta.generation,
        "conditions": as_conditions([*conditions, *_source(seen, now), *more], previous, domain.meta.generation, now),
        # What was there stays on record while it can't be found or read: it must not be replaced without a word.
        "authorities": previous.get("authorities", []) if lost else listed,
    }
    if publication is not None:
        status["bundle"] = publication.report(previous.get("bundle") or {})
    if jwt:
        status["jwt"] = dict(jwt)
    failures = [failure for failure in (problem, crl_problem) if isinstance(failure, Failure)]
    # A list that can't be written is an outage: a revocation that is asked for meanwhile must not wait for hours.
    ends = now if isinstance(crl_problem, Failure) else _signs_until(seen, now)
    return _finish(status, deadline, _backoff(failures, previous, domain.meta, now, ends))


def of_invalid(meta: Meta, path: str, message: str, previous: Mapping[str, Any], now: datetime) -> Json:
    """Return the status of an object whose spec can't be understood: what was issued before stays listed."""
    ready = ("Ready", False, Reason.INVALID_SPEC, f"{path}: {message}" if path else message)
    status: Json = {name: previous[name] for name in OWNED_FIELDS if name in previous}
    status.pop("nextActionTime", None)
    status |= {
        "observedGeneration": meta.generation,
        "conditions": as_conditions([ready], previous, meta.generation, now),
    }
    return status


def backing_off(previous: Mapping[str, Any], meta: Meta, now: datetime) -> dict[str, Failure]:
    """Return the failures, by condition type, that must not be tried again yet.

    A changed spec is tried at once, and so is a rotation or revocation that was asked for since.
    """
    if previous.get("observedGeneration") != meta.generation:
        return {}
    try:
        if previous["backoff"].get("rotateRequest") != _request(meta):
            return {}
        until = parse_time(previous["backoff"]["nextAttemptTime"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    if now >= until:
        return {}
    return {
        old["type"]: Failure(old["reason"], old["message"], repeated=True)
        for old in previous.get("conditions") or []
        if old.get("status") == "False" and old.get("reason") in _FAILURE_REASONS
    }


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Json:
    """Return the JSON merge patch (RFC 7386) from `old` to `new`, top-level fields as a whole; empty if they agree."""
    patch = {name: _replacement(old.get(name), value) for name, value in new.items() if old.get(name) != value}
    return patch | {name: None for name in OWNED_FIELDS if name in old and name not in new}


def _replacement(old: object, new: object) -> object:
    """A merge patch merges objects, so what vanished from one has to be named."""
    if isinstance(old, dict) and isinstance(new, dict):
        return new | {name: None for name in old if name not in new}
    return new


def _finish(status: Json, deadline: datetime | None, failed: Json | None) -> Json:
    if deadline is not None:
        status["nextActionTime"] = format_time(deadline)
    if failed is not None:
        status["backoff"] = failed
        retry = parse_time(failed["nextAttemptTime"])
        status["nextActionTime"] = format_time(earliest(deadline, retry) or retry)
    return status


def _backoff(
    failures: Sequence[Failure],
    previous: Mapping[str, Any],
    meta: Meta,
    now: datetime,
    ends: datetime | None = None,
) -> Json | None:
    """Return when to try again: later each time, but several times before what is in use `ends`."""
    before = previous.get("backoff") or {}
    if not failures:
        return None
    if before and all(failure.repeated for failure in failures):
        return dict(before)
    attempts = int(before.get("failedAttempts") or 0) + 1
    pause = min(backoff(attempts), *(failure.limit for failure in failures))
    if ends is not None:
        pause = min(pause, urgency(ends - now))
    requested = _request(meta)
    return {
        "failedAttempts": attempts,
        "lastFailureTime": format_time(now),
        "nextAttemptTime": format_time(now + pause),
        **({} if requested is None else {"rotateRequest": requested}),
    }


def _request(meta: Meta) -> str | None:
    """Return the values of the annotations that ask for a rotation or revocation, of whatever kind."""
    wanted = (
        ownership.ROTATE_ANNOTATION,
        ROTATE_ROOT_ANNOTATION,
        ownership.REVOKE_ANNOTATION,
        ownership.REVOKE_JWT_ANNOTATION,
    )
    return " ".join(meta.annotations[name] for name in wanted if name in meta.annotations) or None


def as_conditions(
    wanted: Sequence[tuple[str, bool, str, str]], previous: Mapping[str, Any], generation: int, now: datetime
) -> list[Json]:
    """Return conditions, given as type, whether it holds, reason and message; `previous` tells since when they do."""
    before = {old.get("type"): old for old in previous.get("conditions") or [] if isinstance(old, dict)}
    conditions = []
    for type_, ok, reason, message in wanted:
        value, old = "True" if ok else "False", before.get(type_, {})
        unchanged = old.get("status") == value
        conditions.append(
            {
                "type": type_,
                "status": value,
                "reason": str(reason),
                "message": message,
                "observedGeneration": generation,
                "lastTransitionTime": old.get("lastTransitionTime") if unchanged else format_time(now),
            }
        )
    return conditions


def _by_age(authorities: Sequence[Authority]) -> list[Authority]:
    return sorted(authorities, key=lambda a: (a.role is not Role.ROOT, -a.generation))


def _signs_until(seen: Hierarchy, now: datetime) -> datetime:
    """When nobody can sign any more, if nothing is done: now, when that is so already."""
    signer = seen.active(Role.INTERMEDIATE)
    return signer.not_after if signer is not None and seen.is_usable(signer, now) else now


def _waiting(seen: Hierarchy, now: datetime) -> str:
    """Name what a prepared root is waiting for, when that is not only time."""
    root = seen.prepared(Role.ROOT, now)
    if root is None or root.published_at is not None or not seen.usage.waiting_for:
        return ""
    return f"; root {root.view.name} waits until everyone has it: {', '.join(seen.usage.waiting_for)}"


def _source(seen: Hierarchy, now: datetime) -> list[tuple[str, bool, str, str]]:
    """Return the condition about the authority that is kept elsewhere, if one is."""
    source = seen.source
    if not seen.domain.root_is_elsewhere or source is None:
        return []
    if isinstance(source, Held):
        used = seen.is_usable(seen.active(Role.INTERMEDIATE), now)
        kept = "; what is there from before stays in use" if used else ""
        return [(SOURCE_READY, False, source.reason, source.message + kept)]
    if (ends := renewal_is_due(seen, now)) is not None:
        return [(SOURCE_READY, False, "RenewalDue", f"{source.title} ends at {format_time(ends)}; renew it there")]
    remarks = "".join(f"; {remark}" for remark in source.remarks)
    asked = "".join(
        f"; a new {role.lower()} was asked for: it has to come from there"
        for role in Role
        if rotation_asked_for(seen, role)
    )
    return [(SOURCE_READY, True, "Available", f"{source.title} is in order{remarks}{asked}")]


def _to_come(time: datetime | None, now: datetime) -> datetime | None:
    """What is due at once and waits for something else has no time: it would be another one at each look."""
    return time if time is not None and time > now else None


def _authority(seen: Hierarchy, authority: Authority, now: datetime) -> Json:
    state = state_of(seen, authority, now)
    times = {"publishedTime": authority.published_at, "activationTime": authority.activated_at}
    if state is AuthorityState.PREPARED:
        times["activationTime"] = _to_come(activation_of(seen, authority, now), now)
    if state is AuthorityState.ACTIVE:
        times["renewalTime"] = renewal_of(seen.domain, authority)
    if state is AuthorityState.RETIRING:
        times["retirementTime"] = _to_come(retirement_of(seen, authority, now), now)
    root = seen.root_of(authority) if authority.role is Role.INTERMEDIATE else None
    origin = {"issuerFingerprint": root.fingerprint} if root else {}
    if authority.imported_from is not None:
        origin["importedFrom"] = authority.imported_from
    return origin | {
        "role": authority.role.value,
        "generation": authority.generation,
        "state": state.value,
        "secretName": authority.view.name,
        "serialNumber": certificates.serial_number(authority.certificate),
        "fingerprint": authority.fingerprint,
        **({"keyEncryptionKey": authority.kek} if authority.kek else {}),
        "notBefore": format_time(authority.not_before),
        "notAfter": format_time(authority.not_after),
        **{name: format_time(time) for name, time in times.items() if time is not None},
    }
