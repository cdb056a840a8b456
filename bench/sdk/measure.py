"""Taking turns with a clock: each round runs every variant of a case once, so that a busy machine hurts all of them."""

import statistics
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]
Call = Callable[[], object]
FLOOR: Final = "floor"
SHORTEST_NS: Final = 20_000  # of a sample of the floor: below it the clock itself counts


@dataclass(frozen=True)
class Case:
    """One thing in several ways, the first of them the floor. `prepare` runs before each sample, unmeasured."""

    name: str
    variants: Mapping[str, Call]
    prepare: Callable[[], object] | None = None


class WrongAnswerError(AssertionError):
    """What is measured does not do what it should: a refusal is quick, and its figure would mean nothing."""


def measured(case: Case, count: int) -> Json:
    """Return the figures of a case: `count` samples a variant, each of as many calls as make the floor measurable."""
    for call in case.variants.values():  # once, for what it raises when its answer is wrong
        _sample(call, 1, case.prepare)
    calls = _calls(case)
    samples: dict[str, list[float]] = {name: [] for name in case.variants}
    for _ in range(count):
        for name, call in case.variants.items():
            samples[name].append(_sample(call, calls, case.prepare))
    found = {name: _figures(taken) for name, taken in samples.items()}
    floor = found[FLOOR]["p50_us"]
    for figures in found.values():
        figures["x_floor"] = round(figures["p50_us"] / floor, 2)
    return {"calls_a_sample": calls, "variants": found}


def _calls(case: Case) -> int:
    if case.prepare is not None:
        return 1
    quickest = min(_sample(case.variants[FLOOR], 1, None) for _ in range(20))
    return max(1, round(SHORTEST_NS / 1000 / quickest))


def _sample(call: Call, calls: int, prepare: Callable[[], object] | None) -> float:
    """Return microseconds a call."""
    if prepare is not None:
        prepare()
    turns = range(calls)
    begun = time.perf_counter_ns()
    for _ in turns:
        call()
    return (time.perf_counter_ns() - begun) / 1000 / calls


def _figures(samples: list[float]) -> Json:
    samples.sort()
    return {
        "p50_us": round(statistics.median(samples), 3),
        "p99_us": round(samples[min(len(samples) - 1, len(samples) * 99 // 100)], 3),
        "least_us": round(samples[0], 3),
    }


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never has to wait, without an event loop, whose own cost is not asked for here."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise WrongAnswerError("it waits for something")
