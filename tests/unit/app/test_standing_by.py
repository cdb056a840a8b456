"""A standby knows what is there, so that it can serve it, and does not work."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from serviceidentity.app import operator as operators
from serviceidentity.app.operator import Lists, Operator
from serviceidentity.errors import RetryableError
from tests.unit.app.fake_api import World
from tests.unit.domain.builders import identity_body, trust_domain_body


class Elsewhere:
    """Another process leads, for ever."""

    async def acquire(self) -> None:
        await asyncio.Event().wait()

    async def hold(self) -> None:
        raise AssertionError

    async def release(self) -> None:
        return


class Lister:
    """Fails as often as it is told to."""

    def __init__(self, failures: int) -> None:
        self.failures, self.asked = failures, 0

    async def __call__(self) -> Lists:
        self.asked += 1
        if self.asked <= self.failures:
            raise RetryableError("away")
        namespaces = [{"metadata": {"name": "shop", "resourceVersion": "1"}}]
        nothing: Any = ([], 1)
        return Lists((namespaces, 1), ([identity_body()], 1), ([trust_domain_body()], 1), *[nothing] * 4)


async def _nothing() -> None:
    return


def standing_by(lister: Lister, check: Callable[[Operator, World], None], resync: float = 600) -> None:
    async def run() -> None:
        world = World()
        served = asyncio.Event()

        async def serve() -> None:
            served.set()
            await asyncio.Event().wait()

        operator = Operator(
            world.engine, lister, lambda: world.now, resync=timedelta(seconds=resync), background=_nothing, close=_nothing,
            leadership=Elsewhere(), serve=serve,
        )  # fmt: skip
        operator.start()
        try:
            async with asyncio.timeout(20):
                await served.wait()
                while not operator.complete or lister.asked < 3:
                    assert lister.asked > lister.failures or not operator.complete
                    await asyncio.sleep(0.01)
            check(operator, world)
        finally:
            await operator.stop()

    asyncio.run(run())


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "STANDING_BY_AFTER", 0.0)
    monkeypatch.setattr(operators, "RETRY_EVERY", 0.01)


def knows_all_and_works_not(operator: Operator, world: World) -> None:
    assert len(operator.engine.inventory.identities) == len(operator.engine.inventory.domains) == 1
    assert not world.api.writes
    assert operator.engine.counters.passes == 0


def test_a_standby_reads_everything_as_soon_as_that_goes():
    standing_by(Lister(failures=2), knows_all_and_works_not)


def test_a_standby_compares_again_and_again():
    standing_by(Lister(failures=0), knows_all_and_works_not, resync=0.01)
