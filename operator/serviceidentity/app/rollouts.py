"""Restarting an identity's targets: look where something is due, restart once, and put it on record."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serviceidentity.app.ports import Clock, Events, Workloads
from serviceidentity.domain import rollout
from serviceidentity.domain.credentials.base import Observed
from serviceidentity.domain.model import Key, RolloutSpec, Target
from serviceidentity.domain.rollout import Problem, Record, Report, Restart
from serviceidentity.domain.schedule import parse_time
from serviceidentity.errors import ForbiddenError, MissingError, PortError, RejectedError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one target: its record (none: it could not be made yet), and what is to be told."""

    record: Record | None
    told: str | None = None
    problem: Problem | None = None
    error: PortError | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of all targets."""

    report: Report
    steps: Mapping[Target, Step]
    retry: datetime | None


class Rollouts:
    """Carries out `spec.rollout`. Reads a target only when it is new, its restart is due, or something is wrong."""

    def __init__(self, workloads: Workloads, events: Events, clock: Clock) -> None:
        self._workloads = workloads
        self._events = events
        self._clock = clock

    async def advance(self, seen: Observed, status: Mapping[str, Any]) -> Outcome | None:
        """Restart what is due, given what was observed and the status that is stored. None: nothing is asked for."""
        spec = seen.identity.rollout
        if spec is None:
            return None
        now = self._clock()  # read after the Secrets were written: what is pending is pending since then
        records = rollout.records_of(status)
        if seen.identity.suspend:
            return Outcome(rollout.report(spec, records, now, suspended=True), {}, None)
        contents = rollout.contents_of(seen, spec)
        found = await asyncio.gather(
            *(self._step(seen, spec, target, records.get(target), contents, now) for target in spec.targets)
        )
        steps = dict(zip(spec.targets, found, strict=True))
        made = {target: step.record for target, step in steps.items() if step.record is not None}
        broken = any(record.problem for record in made.values())
        retry = rollout.retry_time(_broken_since(status), now) if broken else None
        return Outcome(rollout.report(spec, made, now, suspended=False), steps, retry)

    def conclude(self, key: Key, uid: str, outcome: Outcome) -> datetime | None:
        """Tell what was done, and return when to look again at what can't be.

        One Event for each restart, and one when a restart that is due is refused. Raises the PortError, if any, that
        may not come again: the status is written by now, and another pass goes on from it.
        """
        for target, step in outcome.steps.items():
            if step.told is not None:
                logger.info("%s: %s", key, step.told)
                self._events.emit(key, uid, "Restarted", step.told)
            if step.problem is not None:
                message = f"{target} can't be restarted: {step.problem.value}"
                logger.warning("%s: %s", key, message)
                self._events.emit(key, uid, step.problem.value, message, warning=True)
        for step in outcome.steps.values():
            if step.error is not None:
                raise step.error
        return outcome.retry

    async def _step(
        self,
        seen: Observed,
        spec: RolloutSpec,
        target: Target,
        record: Record | None,
        contents: rollout.Contents,
        now: datetime,
    ) -> Step:
        if not rollout.must_look(spec, record, contents, now):
            return Step(rollout.refreshed(spec, record, contents, now))
        identity = seen.identity.meta
        verdict: Record | Restart | None = None
        try:
            found = await self._workloads.read(identity.namespace, target)
            verdict = rollout.decide(spec, identity.name, record, contents, found, now)
            if found is None or isinstance(verdict, Record):
                return Step(verdict if isinstance(verdict, Record) else verdict.before)
            await self._workloads.annotate(identity.namespace, target, found, verdict.annotation, verdict.value)
        except RejectedError as error:
            # Refused to be read, it is a right that is missing; after that, an admission policy may be in the way too.
            unread = verdict is None and isinstance(error, ForbiddenError)
            return _stuck(
                rollout.failed(spec, record, contents, Problem.FORBIDDEN if unread else Problem.REJECTED, now), record
            )
        except MissingError:  # gone between the two
            return Step(rollout.failed(spec, record, contents, Problem.NOT_FOUND, now))
        except PortError as error:
            return Step(rollout.refreshed(spec, record, contents, now) if record else None, error=error)
        return Step(verdict.after, told=_sentence(target, verdict, paused=found.paused))


def _stuck(made: Record, before: Record | None) -> Step:
    """A restart that is due and can't be done is told once."""
    news = made.pending is not None and (before is None or before.problem is not made.problem)
    return Step(made, problem=made.problem if news else None)


def _sentence(target: Target, restart: Restart, *, paused: bool) -> str:
    what = f"{target} restarted" if not paused else f"{target} is paused and restarts when it is resumed"
    return f"{what}: new content in {', '.join(restart.secrets)}"


def _broken_since(status: Mapping[str, Any]) -> datetime | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == rollout.CONDITION and condition.get("status") == "False":
            try:
                return parse_time(condition["lastTransitionTime"])
            except (KeyError, TypeError, ValueError):
                return None
    return None
