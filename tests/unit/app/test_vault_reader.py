"""One request for all who read the same with the same login; nobody is told what another login may read."""

import asyncio
from datetime import timedelta
from functools import wraps

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.adapters.jinja import JinjaTemplates
from serviceidentity.app.vault.breaker import BusyError
from serviceidentity.app.vault.ports import Login
from serviceidentity.app.vault.reader import Reader
from serviceidentity.domain import parse
from serviceidentity.errors import MissingError, RejectedError, RetryableError
from tests.unit.app.vault_in_memory import FakeVault
from tests.unit.domain.builders import T0, identity_body

LOGIN = Login("default")
SECOND = timedelta(seconds=1)
PATH = "secret/shared"


class Desk:
    """A reader with a clock that tests move, and its Vault."""

    def __init__(self):
        self.now = T0
        self.vault = FakeVault(T0)
        self.vault.kv[PATH].append({"key": "1"})
        self.reader = Reader(lambda: self.now)

    def identity(self, number=0, refresh="5m", **meta):
        spec = {"vault": {"secrets": [{"name": "s", "kv": {"path": "shared"}, "refreshEvery": refresh}]}}
        return parse.identity(identity_body(spec, name=f"i-{number}", uid=f"uid-{number}", **meta), JinjaTemplates())

    async def read(self, who, login=LOGIN):
        return await self.reader.read(who, who.vault.secrets[0], self.vault.client_for(login))

    def next_read(self, who):
        return self.reader.next_read(who, who.vault.secrets[0])


def desk(test):
    @wraps(test)
    def run():
        asyncio.run(test(Desk()))

    del run.__wrapped__
    return run


@desk
async def test_a_thousand_at_once_are_one_request(desk):
    desk.vault.hangs = asyncio.Event()
    readers = [asyncio.create_task(desk.read(desk.identity(number))) for number in range(1000)]
    await asyncio.sleep(0.01)
    desk.vault.hangs.set()
    readings = await asyncio.gather(*readers)
    assert {reading.values["key"] for reading in readings} == {"1"}
    assert desk.vault.asked[PATH] == 1


@desk
async def test_another_login_reads_for_itself(desk):
    who = desk.identity()
    await desk.read(who)
    await desk.read(desk.identity(1), Login("default", role="other"))
    await desk.read(desk.identity(2), Login("default", namespace="shop", service_account="i-2"))
    assert desk.vault.asked[PATH] == 3


@desk
async def test_whoever_has_the_shortest_time_reads_for_all(desk):
    slow, fast = desk.identity(1), desk.identity(2, "10s")
    await desk.read(slow)
    await desk.read(fast)
    assert desk.vault.asked[PATH] == 1
    for _ in range(10):
        desk.now += 10 * SECOND
        await desk.read(fast)
        await desk.read(slow)
    assert desk.vault.asked[PATH] == 11


@desk
async def test_identities_with_the_same_time_do_not_come_at_once(desk):
    them = [desk.identity(number) for number in range(200)]
    for one in them:
        await desk.read(one)
    times = {desk.next_read(one) for one in them}
    assert len(times) >= 10
    assert all(T0 + timedelta(seconds=284) <= time <= T0 + timedelta(seconds=300) for time in times)


@desk
async def test_the_rotations_of_many_are_two_requests_at_most(desk):
    them = [desk.identity(number) for number in range(50)]
    for one in them:
        await desk.read(one)
    desk.vault.hangs = asyncio.Event()
    asked = {"serviceidentity.dev/rotate": "1"}
    readers = [asyncio.create_task(desk.read(desk.identity(n, annotations=asked))) for n in range(50)]
    await asyncio.sleep(0.01)
    desk.vault.hangs.set()
    await asyncio.gather(*readers)
    assert desk.vault.asked[PATH] == 3
    for number in range(50):
        await desk.read(desk.identity(number, annotations=asked))
    assert desk.vault.asked[PATH] == 3


@desk
async def test_a_rotation_is_not_served_by_a_request_that_began_before_it(desk):
    desk.vault.hangs = asyncio.Event()
    early = asyncio.create_task(desk.read(desk.identity(1)))
    who = desk.identity(2)
    waiting = asyncio.create_task(desk.read(who))
    await asyncio.sleep(0.01)
    late = asyncio.create_task(desk.read(desk.identity(2, annotations={"serviceidentity.dev/rotate": "1"})))
    await asyncio.sleep(0.01)
    desk.vault.hangs.set()
    await asyncio.gather(early, waiting, late)
    assert desk.vault.asked[PATH] == 2


@desk
async def test_what_vault_said_is_told_to_all_and_not_for_long(desk):
    desk.vault.kv[PATH] = []
    for number in range(100):
        with pytest.raises(MissingError):
            await desk.read(desk.identity(number))
    assert desk.vault.asked[PATH] == 1
    pauses = []
    for _ in range(8):
        again = desk.next_read(desk.identity())
        pauses.append((again - desk.now).total_seconds())
        desk.now = again
        with pytest.raises(MissingError):
            await desk.read(desk.identity())
    assert pauses[0] <= 5
    assert pauses[-1] >= 30
    assert max(pauses) <= 60
    desk.now = desk.next_read(desk.identity())
    desk.vault.kv[PATH] = [{"key": "2"}]
    assert (await desk.read(desk.identity())).values == {"key": "2"}


@desk
async def test_that_vault_can_not_be_reached_is_told_only_to_those_who_wait(desk):
    desk.vault.fails, desk.vault.hangs = RetryableError("away"), asyncio.Event()
    readers = [asyncio.create_task(desk.read(desk.identity(number))) for number in range(20)]
    await asyncio.sleep(0.01)
    desk.vault.hangs.set()
    outcomes = await asyncio.gather(*readers, return_exceptions=True)
    assert all(isinstance(one, RetryableError) for one in outcomes)
    assert desk.vault.asked[PATH] == 1
    with pytest.raises(RetryableError):
        await desk.read(desk.identity())
    assert desk.vault.asked[PATH] == 2
    desk.vault.fails = None
    assert (await desk.read(desk.identity())).values == {"key": "1"}


@desk
async def test_a_reader_that_is_stopped_leaves_the_others_with_an_answer(desk):
    desk.vault.hangs = asyncio.Event()
    first = asyncio.create_task(desk.read(desk.identity(1)))
    second = asyncio.create_task(desk.read(desk.identity(2)))
    await asyncio.sleep(0.01)
    first.cancel()
    desk.vault.hangs.set()
    assert (await second).values == {"key": "1"}
    with pytest.raises(asyncio.CancelledError):
        await first


@desk
async def test_a_clock_that_is_put_back_does_not_keep_an_old_reading_alive(desk):
    await desk.read(desk.identity())
    desk.now -= timedelta(hours=3)
    await desk.read(desk.identity())
    assert desk.vault.asked[PATH] == 2


@desk
async def test_a_reading_after_an_error_is_good_for_its_whole_time(desk):
    desk.vault.fails = RejectedError("no")
    with pytest.raises(RejectedError):
        await desk.read(desk.identity())
    desk.now = desk.next_read(desk.identity())
    desk.vault.fails = None
    await desk.read(desk.identity())
    assert desk.next_read(desk.identity()) >= desk.now + timedelta(seconds=284)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.sampled_from(["read", "forget", "wait", "break", "mend", "restore"]),
            st.integers(1, 400),
        ),
        max_size=60,
    ),
    st.lists(st.sampled_from(["5s", "30s", "5m"]), min_size=5, max_size=5),
)
@settings(max_examples=150, deadline=None)
def test_nobody_has_what_is_older_than_it_wants_and_nothing_is_kept_for_nobody(steps, refreshes):
    async def inside():
        desk = Desk()
        them = [desk.identity(number, refreshes[number]) for number in range(5)]
        asking = set()
        for number, step, seconds in steps:
            who = them[number]
            if step == "wait":
                desk.now += seconds * SECOND
                desk.vault.kv[PATH].append({"key": desk.now})
            elif step == "break":
                desk.vault.fails = RejectedError("no")
            elif step == "restore":
                desk.vault.fails = RetryableError("no")
            elif step == "mend":
                desk.vault.fails = None
            elif step == "forget":
                desk.reader.forget(who.key)
                asking.discard(number)
            else:
                asking.add(number)
                try:
                    reading = await desk.read(who)
                except (RejectedError, RetryableError):
                    assert desk.now < desk.next_read(who) <= desk.now + timedelta(minutes=1)
                else:
                    since = reading.values["key"]
                    assert since == "1" or desk.now - since < who.vault.secrets[0].refresh_every + 400 * SECOND
                    assert desk.now < desk.next_read(who) <= desk.now + who.vault.secrets[0].refresh_every
        assert len(desk.reader._entries) == (1 if asking else 0)
        assert {key.name for key in desk.reader._asks} == {f"i-{number}" for number in asking}

    asyncio.run(inside())


@desk
async def test_that_too_much_is_asked_at_once_is_nothing_to_tell_until_it_lasts(desk):
    who = desk.identity(refresh="10s")
    first = await desk.read(who)
    desk.vault.fails = BusyError("too much is asked")
    for _ in range(2):
        desk.now += 10 * SECOND
        assert await desk.read(who) == first
        assert desk.next_read(who) == desk.now + 5 * SECOND
    desk.now += 10 * SECOND
    with pytest.raises(BusyError):
        await desk.read(who)
    with pytest.raises(BusyError):  # nothing is known of what was never read
        await desk.read(desk.identity(1), Login("default", role="other"))


@desk
async def test_who_asks_for_a_rotation_is_told_that_it_can_not_be_had_now(desk):
    await desk.read(desk.identity())
    desk.vault.fails = BusyError("too much is asked")
    with pytest.raises(BusyError):
        await desk.read(desk.identity(annotations={"serviceidentity.dev/rotate": "1"}))
