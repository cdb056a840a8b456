"""What became of publishing a bundle: as a condition, as part of the status, and as what a new root waits for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.domain.bundle.assembly import Bundle
from serviceidentity.domain.bundle.roots import SOURCE_INVALID
from serviceidentity.domain.model import BundleSpec
from serviceidentity.domain.schedule import backoff, format_time

CONDITION: Final = "BundleReady"
PUBLISHED: Final = "Published"
NOT_SELECTED: Final = "NoNamespaces"
CONFLICT: Final = "Conflict"
REJECTED: Final = "Rejected"
UNREACHABLE: Final = "Unreachable"
GONE: Final = "Gone"  # the namespace is on its way out: nobody waits for it, and nothing is reported
TOO_LARGE: Final = "TooLarge"
_NAMED: Final = 5  # namespaces in a message
_LISTED: Final = 32  # namespaces in the status
_RECORDED: Final = 1024  # extra roots in the status
_PASSING_FIRST: Final = timedelta(seconds=1)
_PASSING_LIMIT: Final = timedelta(seconds=30)
_LASTING_LIMIT: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why one copy could not be written, and when it is tried again, unless the spec (its generation) changes."""

    reason: str
    until: datetime
    attempts: int
    generation: int

    def holds(self, generation: int, now: datetime) -> bool:
        """Say whether it is too early to try again."""
        return now < self.until and generation == self.generation


@dataclass(frozen=True, slots=True)
class Publication:
    """What a pass over the namespaces found and did. Namespaces by name; `problem` is of the bundle as a whole."""

    spec: BundleSpec
    bundle: Bundle | None
    selected: int = 0
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    problem: tuple[str, str] | None = None

    def condition(self) -> tuple[str, bool, str, str]:
        """Return the condition: type, whether it holds, reason, message."""
        served = f"{self.selected - len(self.troubles)} of {self.selected} namespaces have the bundle"
        if self.problem is not None:
            return (CONDITION, False, *self.problem)
        for reason in (CONFLICT, REJECTED, UNREACHABLE):
            named = sorted(name for name, trouble in self.troubles.items() if trouble.reason == reason)
            if named:
                return (CONDITION, False, reason, f"{served}; {self._explain(reason)} in {_some(named, _NAMED)}")
        if self.spec.selector is None:
            return (CONDITION, True, NOT_SELECTED, "spec.bundle.target has no namespaceSelector")
        roots = self.bundle.roots if self.bundle else None
        count = len(roots.all) if roots else 0
        expired = f"; {roots.expired} expired left out" if roots and roots.expired else ""
        return (CONDITION, True, PUBLISHED, f"{served}, with {_counted(count, 'root')}{expired}")

    def report(self, previous: Mapping[str, Any]) -> dict[str, Any]:
        """Return `status.bundle`. Without a bundle what was published before stays on record."""
        report: dict[str, Any] = {
            "kind": self.spec.kind.value,
            "name": self.spec.name,
            "namespaces": self.selected,
        }
        foreign = sorted(name for name, trouble in self.troubles.items() if trouble.reason == CONFLICT)
        if foreign:
            report["conflicts"] = foreign[:_LISTED]
        if self.bundle is None:
            kept = ("published", "roots", "sequence", "digest", "extraRoots")
            return report | {name: previous[name] for name in kept if name in previous}
        roots = self.bundle.roots
        report |= {"published": self.selected - len(self.troubles), "roots": len(roots.all)}
        report |= {"sequence": self.bundle.sequence, "digest": self.bundle.digest}
        if roots.extra:
            report["extraRoots"] = [
                {
                    "fingerprint": root.fingerprint,
                    "source": root.source,
                    "notAfter": format_time(root.certificate.not_valid_after_utc),
                }
                for root in roots.extra[:_RECORDED]
            ]
        return report

    def _explain(self, reason: str) -> str:
        what = f"{self.spec.kind} {self.spec.name}"
        match reason:
            case "Conflict":
                return f"{what} belongs to someone else and is left alone"
            case "Rejected":
                return f"the API server does not allow to write {what}"
            case _:
                return f"{what} is not written yet"


def next_attempt(previous: Trouble | None, reason: str, now: datetime, generation: int) -> Trouble:
    """Return the trouble with a pause that doubles: from a second for what passes, from a minute for what lasts."""
    attempts = previous.attempts + 1 if previous is not None and previous.reason == reason else 1
    if reason in (UNREACHABLE, GONE):
        pause = min(_PASSING_FIRST * 2 ** min(attempts - 1, 10), _PASSING_LIMIT)
    else:
        pause = min(backoff(attempts), _LASTING_LIMIT)
    return Trouble(reason, now + pause, attempts, generation)


def source_problem(messages: list[str]) -> tuple[str, str] | None:
    """Return the problem that sources can't be read, if any can't."""
    return (SOURCE_INVALID, "; ".join(messages) + "; what was published from there stays") if messages else None


def _some(names: list[str], limit: int) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
