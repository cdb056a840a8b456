"""What verifying a credential comes to: a chain of small checks, and why something is refused."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something is refused: a CamelCase reason that stays the same, and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It is not accepted: every problem that was found, in the order of the checks, so the first one decides."""

    problems: tuple[Problem, ...]

    @property
    def first(self) -> Problem:
        """The problem that decides."""
        return self.problems[0]


Check = Callable[[S], Problem | None]


def refusal(checks: Iterable[Check[S]], seen: S) -> Refused | None:
    """Carry the checks out in their order; None when there is no problem."""
    problems = tuple(problem for check in checks if (problem := check(seen)) is not None)
    return Refused(problems) if problems else None
