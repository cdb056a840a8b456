"""Restarting the workloads that use an identity's Secrets: once for new content, batched, and not too often.

A Secret's content has an ID (ADR 10). Which IDs the Pods of a target have read, or read when they start, is on record
in two places: the annotation on its Pod template, which is written in one step with the restart, and the identity's
status. A target is out of date only when *neither* of them has the ID that a Secret has now. So a lost status, a crash
between restart and status, and an annotation that somebody took off or rolled back restart nothing. What neither
record knows (a new target, a new credential) is taken as read: its Pods could not start without it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from serviceidentity.domain import ownership
from serviceidentity.domain.credentials import credentials_of
from serviceidentity.domain.credentials.base import Observed
from serviceidentity.domain.model import GROUP, RolloutSpec, Target, WorkloadKind
from serviceidentity.domain.schedule import format_time, parse_time, upcoming

CONDITION: Final = "RolloutTargetsReady"
STATUS_FIELD: Final = "rollout"
RETRY_FIRST: Final = timedelta(seconds=10)
RETRY_LIMIT: Final = timedelta(minutes=10)
_ANNOTATION: Final = f".{GROUP}/restarted-for"

Contents = Mapping[str, str | None]  # the ID by a Secret's name; None: it has no content yet, or one without ID


class Problem(StrEnum):
    """Why a target can't be looked at or restarted; reasons of the condition."""

    NOT_FOUND = "TargetNotFound"
    FORBIDDEN = "TargetForbidden"
    REJECTED = "RestartRejected"


@dataclass(frozen=True, slots=True)
class Workload:
    """A target as it was read: exactly which version, and its Pod template's annotations."""

    uid: str
    version: str
    annotations: Mapping[str, str]
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one target: the contents that its Pods have, when it was restarted, since when it has to be."""

    contents: Mapping[str, str]
    restarted: datetime | None = None
    pending: datetime | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Restart:
    """The restart of one target that is due now: the annotation to set, and the record before and after it."""

    annotation: str
    value: str
    secrets: tuple[str, ...]
    before: Record
    after: Record


@dataclass(frozen=True, slots=True)
class Report:
    """The part of an identity's status that is about its targets."""

    entries: list[dict[str, Any]]
    condition: tuple[str, bool, str, str]
    deadline: datetime | None


def contents_of(seen: Observed, spec: RolloutSpec) -> dict[str, str | None]:
    """Return the content IDs of the Secrets that the targets follow. An edit that is being undone is no content."""
    followed = (
        credential.secret_name(seen.identity)
        for credential in credentials_of(seen.identity)
        if credential.status_field in spec.credentials
    )
    return {
        name: ownership.consumed_id(seen.contents[name]) if name in seen.contents else None for name in sorted(followed)
    }


def annotation_of(identity: str) -> str:
    """Return the name of the annotation of one identity: several of them may restart one workload.

    The identity is in the prefix, where a name of 63 characters has room (a DNS subdomain of up to 253).
    """
    return identity + _ANNOTATION


def refreshed(spec: RolloutSpec, record: Record | None, contents: Contents, now: datetime) -> Record:
    """Return a target's record as the contents are now, without looking at the target."""
    known = record.contents if record else {}
    restarted = _latest((record.restarted if record else None,), now + spec.min_interval)
    problem = record.problem if record else None
    if not _outdated(contents, known):
        return Record(_merged(contents, known), restarted, None, problem)
    pending = min(record.pending, now) if record and record.pending else now
    return Record(_kept(contents, known), restarted, pending, problem)


def restart_time(spec: RolloutSpec, record: Record) -> datetime | None:
    """When the target is restarted: changes have settled, and the last restart is long enough ago."""
    if record.pending is None:
        return None
    settled = record.pending + spec.settle
    return settled if record.restarted is None else max(settled, record.restarted + spec.min_interval)


def must_look(spec: RolloutSpec, record: Record | None, contents: Contents, now: datetime) -> bool:
    """Say whether the target itself has to be read: it is new, something was wrong with it, or its restart is due."""
    if record is None or record.problem is not None:
        return True
    due = restart_time(spec, refreshed(spec, record, contents, now))
    return due is not None and now >= due


def decide(
    spec: RolloutSpec, identity: str, record: Record | None, contents: Contents, found: Workload | None, now: datetime
) -> Record | Restart:
    """Return what to do about a target that was looked at: restart it now, or put this on record."""
    if found is None:
        # Nothing runs that could have read anything; who comes later reads what is there then.
        restarted = record.restarted if record else None
        return Record(_merged(contents, {}), restarted, None, Problem.NOT_FOUND)
    known = record.contents if record else {}
    own, own_time = _read(found.annotations.get(annotation_of(identity), ""))
    times = [record.restarted if record else None, *(_read(value)[1] for value in _restarts(found))]
    last = _latest(times, now + spec.min_interval)
    outdated = _outdated(contents, known, own)
    if not outdated:
        return Record(_merged(contents, {**own, **known}), last)
    pending = min(record.pending, now) if record and record.pending else now
    if own_time is not None and pending < own_time <= now:
        pending = now  # what had been waiting went out with that restart; this came afterwards
    before = Record(_kept(contents, {**own, **known}), last, pending)
    due = restart_time(spec, before)
    if due is not None and now < due:
        return before
    after = Record(_merged(contents, {**own, **known}), now)
    value = json.dumps({"at": format_time(now), "for": after.contents}, separators=(",", ":"), sort_keys=True)
    return Restart(annotation_of(identity), value, tuple(outdated), before, after)


def failed(spec: RolloutSpec, record: Record | None, contents: Contents, problem: Problem, now: datetime) -> Record:
    """Return the record of a target that could not be looked at or restarted; what is due stays due."""
    return replace(refreshed(spec, record, contents, now), problem=problem)


def retry_time(since: datetime | None, now: datetime) -> datetime:
    """When to look again at a target that something is wrong with `since` then: seldom, the longer it lasts."""
    lasted = now - since if since is not None else RETRY_FIRST
    return now + min(max(lasted, RETRY_FIRST), RETRY_LIMIT)


def records_of(status: Mapping[str, Any]) -> dict[Target, Record]:
    """Read the records in an identity's status. One that can't be read is as good as none."""
    records = {}
    for entry in status.get(STATUS_FIELD) or ():
        try:
            target = Target(WorkloadKind(entry["kind"]), str(entry["name"]))
            contents = {str(name): str(content) for name, content in (entry.get("contentIDs") or {}).items()}
            times = {name: parse_time(entry[name]) for name in ("lastRestartTime", "pendingSince") if name in entry}
            problem = Problem(entry["problem"]) if "problem" in entry else None
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        records[target] = Record(contents, times.get("lastRestartTime"), times.get("pendingSince"), problem)
    return records


def report(spec: RolloutSpec, records: Mapping[Target, Record], now: datetime, *, suspended: bool) -> Report:
    """Return what the status says about the targets, in the order in which the spec names them."""
    entries, waiting, broken = [], [], []
    for target in (target for target in spec.targets if target in records):
        record = records[target]
        at = None if suspended or record.problem else restart_time(spec, record)
        times = {"lastRestartTime": record.restarted, "pendingSince": record.pending, "restartTime": at}
        entries.append(
            {"kind": target.kind.value, "name": target.name, "contentIDs": dict(record.contents)}
            | {name: format_time(time) for name, time in times.items() if time is not None}
            | ({"problem": record.problem.value} if record.problem else {})
        )
        if record.problem:
            broken.append((target, record.problem))
        elif at is not None:
            waiting.append((target, at))
    return Report(entries, _condition(waiting, broken, suspended), upcoming(now, *(at for _, at in waiting)))


def _condition(
    waiting: list[tuple[Target, datetime]], broken: list[tuple[Target, Problem]], suspended: bool
) -> tuple[str, bool, str, str]:
    if suspended:
        return CONDITION, True, "Suspended", "suspended: nothing is restarted"
    if broken:
        return CONDITION, False, broken[0][1].value, "; ".join(_MESSAGES[problem].format(t) for t, problem in broken)
    if waiting:
        message = "; ".join(f"{target} is restarted at {format_time(at)}" for target, at in waiting)
        return CONDITION, True, "RestartPending", message
    return CONDITION, True, "UpToDate", "no content is newer than the last restart"


_MESSAGES: Final = {
    Problem.NOT_FOUND: "{} does not exist",
    Problem.FORBIDDEN: "the operator may not read or restart {}: grant it deploy/rollout",
    Problem.REJECTED: "the API server refused the restart of {}: an admission policy, or a missing permission",
}


def _outdated(contents: Contents, *known: Mapping[str, str]) -> list[str]:
    """Return the Secrets of which some record has a content and none has the present one."""
    ids = {name: {record[name] for record in known if name in record} for name in contents}
    return [
        name for name, content in contents.items() if content is not None and ids[name] and content not in ids[name]
    ]


def _merged(contents: Contents, known: Mapping[str, str]) -> dict[str, str]:
    """Return the present contents; of a Secret that is missing for now, the last one."""
    merged = {name: content or known.get(name) for name, content in contents.items()}
    return {name: content for name, content in merged.items() if content is not None}


def _kept(contents: Contents, known: Mapping[str, str]) -> dict[str, str]:
    """Return the known contents; of a Secret that none was known of, the present one."""
    kept = {name: known.get(name) or content for name, content in contents.items()}
    return {name: content for name, content in kept.items() if content is not None}


def _restarts(found: Workload) -> list[str]:
    return [value for name, value in found.annotations.items() if name.endswith(_ANNOTATION)]


def _read(value: str) -> tuple[dict[str, str], datetime | None]:
    """Read the annotation: contents by Secret, and when; nothing from a text that is not ours."""
    try:
        recorded = json.loads(value)
        contents = {str(name): str(content) for name, content in recorded["for"].items()}
        return contents, parse_time(recorded["at"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, None


def _latest(times: Iterable[datetime | None], limit: datetime) -> datetime | None:
    """Return the last of the times; one far in the future was written by a clock that was wrong."""
    return max((time for time in times if time is not None and time <= limit), default=None)
