"""One server that comes and goes, and the many who ask it: never too many, nobody while it is away, all afterwards."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.app.vault import breaker as module
from serviceidentity.app.vault.breaker import AwayError, Breaker, BusyError
from serviceidentity.app.vault.places import Places
from serviceidentity.domain.model import Key, identity_key
from serviceidentity.errors import MissingError, RetryableError
from tests.unit.app import virtual_time
from tests.unit.app.fake_vault import GONE, SEALED, SERVING, STANDBY, FakeServer
from tests.unit.domain.builders import T0


def virtual(test: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> Any:
        return virtual_time.run(test(*args, **kwargs))

    return run


def key(number: int) -> Key:
    return identity_key("shop", f"service-{number}")


class World:
    """A server behind a breaker, and identities that ask again when they are woken."""

    def __init__(self, in_flight: int = 4) -> None:
        self.server = FakeServer(None)  # type: ignore[arg-type]
        self.woken: Counter[Key] = Counter()
        self.changes = 0
        self.asks_again = False
        self.answers: Counter[Key] = Counter()
        self.errors: list[str] = []
        self.last: dict[Key, str] = {}
        self.breaker = Breaker("default", self.server.health, in_flight, lambda: T0, self.wake, self.changed)
        self.tasks: list[asyncio.Task[None]] = []

    def wake(self, keys):
        self.woken.update(keys)
        if self.asks_again:
            for one in keys:
                self.start(one)

    def changed(self) -> None:
        self.changes += 1

    def start(self, one: Key, path: str = "a") -> None:
        self.tasks.append(asyncio.create_task(self.ask(one, path)))

    async def ask(self, one: Key, path: str = "a") -> str:
        try:
            await self.breaker.call(one, lambda: self.server.answer(path))
        except RetryableError as error:
            self.errors.append(type(error).__name__)
            self.last[one] = type(error).__name__
            return type(error).__name__
        self.answers[one] += 1
        self.last[one] = ""
        return ""

    async def ended(self) -> None:
        while self.tasks:
            await self.tasks.pop()

    async def go_away(self, health=SEALED) -> None:
        self.server.health_now = health
        assert await self.ask(key(0)) == "AwayError"


@virtual
async def test_what_answers_is_asked_and_its_refusals_are_told_as_they_are():
    world = World()

    async def nothing_there() -> None:
        raise MissingError("there is nothing")

    assert await world.ask(key(1)) == ""
    with pytest.raises(MissingError):
        await world.breaker.call(key(1), nothing_there)
    assert world.server.probes == []
    assert world.breaker.in_flight == 0


@virtual
async def test_a_path_that_fails_while_the_server_serves_is_the_trouble_of_its_caller_alone():
    world = World()
    world.server.broken = {"database"}
    for _ in range(20):
        assert await world.ask(key(1), "database") == "RetryableError"
        assert await world.ask(key(2), "kv") == ""
    assert not world.breaker.is_open
    assert len(world.server.probes) == 20
    await asyncio.sleep(60)
    assert not world.woken, "it comes back by itself"


@virtual
async def test_many_who_fail_at_once_ask_for_the_health_once():
    world = World(in_flight=50)
    world.server.health_now = GONE
    for number in range(50):
        world.start(key(number))
    await world.ended()
    assert len(world.server.probes) == 1
    assert Counter(world.errors) == {"AwayError": 50}


@virtual
async def test_an_answer_from_before_the_failure_does_not_count():
    world = World()
    world.server.probe_takes = 1
    look = asyncio.create_task(world.breaker.look())
    await asyncio.sleep(0.5)
    world.server.broken = {"a"}
    asked = asyncio.create_task(world.ask(key(1)))
    await asyncio.sleep(0.4)
    world.server.health_now = SERVING
    await look
    world.server.health_now = SEALED
    assert await asked == "AwayError"
    assert len(world.server.probes) == 2


@virtual
async def test_while_it_is_away_nobody_asks_but_the_probe():
    world = World()
    await world.go_away()
    asked, probes = world.server.requests.total(), len(world.server.probes)
    for _ in range(60):
        assert await world.ask(key(1)) == "AwayError"
        await asyncio.sleep(1)
    assert world.server.requests.total() == asked
    assert 25 <= len(world.server.probes) - probes <= 31
    assert not world.woken


@virtual
async def test_when_it_serves_again_whoever_was_turned_away_is_woken_once_and_soon():
    world = World()
    await world.go_away()
    for number in range(1000):
        assert await world.ask(key(number)) == "AwayError"
    await asyncio.sleep(60)
    world.server.health_now = SERVING
    before = asyncio.get_running_loop().time()
    world.asks_again = True
    while sum(world.woken.values()) < 1000:
        await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() < before + 10
    await asyncio.sleep(30)
    await world.ended()
    assert set(world.woken.values()) == {1}
    assert set(world.answers.values()) == {1}
    assert len(world.answers) == 1000
    assert world.server.most_in_flight <= 4


@virtual
async def test_those_who_do_not_ask_again_do_not_keep_the_others_waiting():
    world = World()
    await world.go_away()
    for number in range(100):
        await world.ask(key(number))
    world.server.health_now = SERVING
    await asyncio.sleep(10)
    assert len(world.woken) == 100


@virtual
async def test_who_waits_for_a_place_too_long_goes_on_with_other_work_and_is_called_back():
    world = World(in_flight=2)
    world.server.takes = 5
    for number in range(4):
        world.start(key(number))
    await asyncio.sleep(module.WAIT_FOR_PLACE + 0.1)
    assert world.errors == ["BusyError", "BusyError"]
    assert not world.woken
    await asyncio.sleep(5)
    await world.ended()
    assert world.woken == {key(2): 1, key(3): 1}


@virtual
async def test_a_server_that_hangs_keeps_nobody_waiting_twice_and_is_found_out_before_a_request_fails():
    world = World(in_flight=2)
    world.server.takes = 100
    for number in range(3):
        world.start(key(number))
    await asyncio.sleep(module.WAIT_FOR_PLACE + 0.01)
    assert world.errors == ["BusyError"]
    assert len(world.server.probes) == 1
    begun = asyncio.get_running_loop().time()
    assert await world.ask(key(3)) == "BusyError"
    assert asyncio.get_running_loop().time() == begun
    world.server.health_now = SEALED
    await world.breaker.look()
    assert await world.ask(key(4)) == "AwayError"
    await world.breaker.close()


@virtual
async def test_who_waits_for_a_place_when_the_server_goes_away_does_not_ask_any_more():
    world = World(in_flight=1)
    world.server.health_now = SEALED
    world.server.takes = 1
    for number in range(3):
        world.start(key(number))
    await world.ended()
    assert world.errors == ["AwayError"] * 3
    assert world.server.requests.total() == 1


@virtual
async def test_a_server_that_comes_and_goes_is_asked_more_and_more_seldom():
    world = World()
    pauses = []
    for _ in range(6):
        await world.go_away()
        opened = asyncio.get_running_loop().time()
        world.server.health_now = SERVING
        while world.breaker.is_open:
            await asyncio.sleep(0.1)
        pauses.append(round(asyncio.get_running_loop().time() - opened))
    assert pauses == [2, 4, 8, 10, 10, 10]
    await asyncio.sleep(module.CALM)
    await world.go_away()
    world.server.health_now = SERVING
    await asyncio.sleep(2.5)
    assert not world.breaker.is_open


@virtual
async def test_a_server_that_was_just_unsealed_is_not_believed_until_it_has_been_elected():
    world = World()
    await world.go_away()
    world.server.health_now = STANDBY
    await asyncio.sleep(3)
    assert world.breaker.is_open
    world.server.health_now = SERVING
    await asyncio.sleep(2)
    assert not world.breaker.is_open


@virtual
async def test_a_standby_that_stays_one_is_believed():
    world = World()
    await world.go_away()
    world.server.health_now = STANDBY
    await asyncio.sleep(6.5)
    assert not world.breaker.is_open


@virtual
async def test_a_probe_that_hangs_or_fails_counts_as_no_answer_and_is_not_the_end_of_probing():
    world = World()
    await world.go_away()
    world.server.probe_takes = 1000
    await asyncio.sleep(30)
    world.server.probe_takes = 0.01

    async def fails():
        raise OSError("an adapter's mistake")

    answers, world.breaker._ask = world.breaker._ask, fails
    await asyncio.sleep(30)
    assert world.breaker.health == GONE
    world.breaker._ask = answers
    world.server.health_now = SERVING
    await asyncio.sleep(5)
    assert not world.breaker.is_open


@virtual
async def test_a_look_finds_a_server_that_went_away_though_nobody_asked():
    world = World()
    assert (await world.breaker.look()).serves
    world.server.health_now = SEALED
    assert (await world.breaker.look()).sealed
    assert world.breaker.is_open
    probes, changes = len(world.server.probes), world.changes
    assert (await world.breaker.look()).sealed
    assert len(world.server.probes) == probes, "the breaker looks by itself"
    world.server.health_now = GONE
    await asyncio.sleep(2.5)
    assert world.changes == changes + 1


@virtual
async def test_closing_it_ends_what_goes_on():
    world = World()
    await world.go_away()
    await world.breaker.close()
    probes = len(world.server.probes)
    await asyncio.sleep(60)
    assert len(world.server.probes) == probes
    assert len(asyncio.all_tasks()) == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 30)),
        st.tuples(st.just("wait"), st.floats(0.01, 20)),
        st.tuples(st.just("health"), st.sampled_from([SERVING, SEALED, GONE, STANDBY])),
        st.tuples(st.just("slow"), st.sampled_from([0.01, 0.5, 3.0])),
        st.tuples(st.just("limit"), st.integers(1, 6)),
        st.tuples(st.just("cancel"), st.integers(0, 5)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_happens_the_limit_holds_and_everyone_has_an_answer_in_the_end(steps):
    virtual_time.run(live_through(steps))


def change(world: World, what: str, value: Any) -> None:
    if what == "health":
        world.server.health_now = value
    elif what == "slow":
        world.server.takes = value
    else:
        world.breaker.resize(value)


async def live_through(steps) -> None:
    world = World(in_flight=6)
    world.asks_again = True
    for what, value in steps:
        match what:
            case "ask":
                for number in range(value):
                    world.start(key(number))
            case "wait":
                before, was_open = world.server.requests.total(), world.breaker.is_open
                await asyncio.sleep(min(value, module.PAUSE_FIRST / 2) if was_open else value)
                if was_open and world.breaker.is_open:
                    assert world.server.requests.total() == before, "nobody asks while it is away"
            case "health" | "slow" | "limit":
                change(world, what, value)
            case "cancel":
                for task in world.tasks[:value]:
                    task.cancel()
                await asyncio.gather(*world.tasks[:value], return_exceptions=True)
                del world.tasks[:value]
    world.server.health_now, world.server.takes = SERVING, 0.01
    await asyncio.sleep(120)
    await world.ended()
    assert world.server.most_in_flight <= 6
    assert world.breaker.in_flight == 0
    assert not world.breaker._line
    # Who was turned away was called back, and had an answer; what failed for itself comes back by itself.
    assert set(world.last.values()) <= {"", "RetryableError"}
    await world.breaker.close()


@virtual
async def test_who_waits_for_the_health_of_what_is_closed_is_told_and_not_cancelled():
    """A worker that was cancelled for a connection that somebody edits would be one worker less."""
    world = World()
    world.server.broken, world.server.probe_takes = {"a"}, 5
    world.start(key(1))
    look = asyncio.create_task(world.breaker.look())
    await asyncio.sleep(1)
    await world.breaker.close()
    await asyncio.gather(*world.tasks, look, return_exceptions=True)
    assert not any(task.cancelled() for task in (*world.tasks, look))
    assert world.errors == ["RetryableError"]
    assert world.breaker.in_flight == 0


@virtual
async def test_who_is_cancelled_while_it_waits_for_the_health_is():
    world = World()
    world.server.broken, world.server.probe_takes = {"a"}, 5
    world.start(key(1))
    await asyncio.sleep(1)
    world.tasks[0].cancel()
    await asyncio.wait(world.tasks)
    assert world.tasks[0].cancelled()
    assert world.breaker.in_flight == 0
    await world.breaker.close()


@virtual
async def test_places_are_handed_on_in_order_and_never_lost():
    places = Places(1)
    assert await places.take(1)
    order = []

    async def wait(name, within):
        if await places.take(within):
            order.append(name)
            places.give_back()

    tasks = [asyncio.create_task(wait(name, within)) for name, within in (("a", 9), ("b", 0.5), ("c", 9), ("d", 9))]
    await asyncio.sleep(1)
    tasks[2].cancel()
    await asyncio.sleep(0)
    assert places.free == 0
    places.give_back()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "d"]
    assert (places.taken, places.free) == (0, 1)
    places.resize(3)
    assert places.free == 3


def test_who_was_told_to_wait_may_try_again():
    assert issubclass(AwayError, RetryableError)
    assert issubclass(BusyError, RetryableError)
