"""Logins at Vault without a server: when they are made, renewed, dropped and given back. Hours pass at once."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from serviceidentity.adapters.vault.connection import Json
from serviceidentity.adapters.vault.logins import GivenToken, LoginMethod, MethodLogin
from serviceidentity.adapters.vault.session import Session
from serviceidentity.adapters.vault.sessions import IDLE, REVOKE_WITHIN, Sessions
from serviceidentity.app.vault.ports import Login
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.errors import ForbiddenError, RejectedError, RetryableError
from tests.unit.app.virtual_time import run

HOUR = 3600


class Server:
    """Grants logins, for so long and up to an age, and remembers what it was asked when."""

    def __init__(self, granted: int = HOUR, longest: int = 24 * HOUR, *, renewable: bool = True) -> None:
        self.granted, self.longest, self.renewable = granted, longest, renewable
        self.logins: dict[bytes, tuple[float, float]] = {}  # when made, when it ends
        self.asked: Counter[str] = Counter()
        self.away = self.refuses = self.blind = False
        self.slow = 0.0

    async def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: KeyMaterial | None = None
    ) -> Json:
        await asyncio.sleep(self.slow)
        self.asked[path] += 1
        now = asyncio.get_running_loop().time()
        if self.away:
            raise RetryableError("away")
        if path.endswith("/login"):
            if self.refuses:
                raise RejectedError("no")
            made = f"t{len(self.logins)}"
            self.logins[made.encode()] = (now, now + self.granted)
            auth = {"client_token": made, "lease_duration": self.granted, "renewable": self.renewable}
            return {"auth": auth | {"accessor": f"a-{made}"}}
        if token is None or self.logins.get(token.reveal(), (0, 0))[1] <= now:
            raise ForbiddenError("no")
        if path == "forbidden" or (path == "auth/token/lookup-self" and self.blind):
            raise ForbiddenError("no")
        made_at, _ = self.logins[token.reveal()]
        if path == "auth/token/renew-self":
            left = int(min(self.granted, made_at + self.longest - now))
            self.logins[token.reveal()] = (made_at, now + left)
            return {"auth": {"lease_duration": left, "renewable": True}}
        if path == "auth/token/revoke-self":
            del self.logins[token.reveal()]
        return {"data": {}}

    async def close(self) -> None: ...

    def alive(self) -> int:
        now = asyncio.get_running_loop().time()
        return sum(ends > now for _, ends in self.logins.values())


async def proof() -> Json:
    return {}


def method(_: Login) -> LoginMethod:
    return MethodLogin("kubernetes", proof, "refused")


def login(number: int) -> Login:
    return Login("c", "r", "ns", f"sa-{number}")


def test_each_login_is_made_once_for_all_who_want_it():
    async def work() -> None:
        server = Server()
        sessions = Sessions(method, server, 8)
        asked = (sessions.of(login(n % 3)).request("get", "x") for n in range(30))
        await asyncio.gather(*asked)
        assert server.asked["auth/kubernetes/login"] == 3
        await sessions.close(revoke=True)
        assert server.alive() == 0

    run(work())


def test_a_login_in_use_is_renewed_until_its_longest_life_and_then_replaced_and_given_back():
    async def work() -> None:
        server = Server(longest=3 * HOUR)
        sessions = Sessions(method, server, 8)
        for _ in range(12 * 6):  # every ten minutes less a bit, for half a day
            await sessions.of(login(0)).request("get", "x")
            await asyncio.sleep(IDLE - 1)
        assert 4 <= server.asked["auth/kubernetes/login"] <= 6
        assert server.asked["auth/token/renew-self"] >= 12
        assert server.alive() == 1
        await sessions.close(revoke=True)

    run(work())


def test_a_thousand_logins_are_dropped_when_nobody_uses_them():
    async def work() -> None:
        server = Server()
        sessions = Sessions(method, server, 8)
        await asyncio.gather(*(sessions.of(login(n)).request("get", "x") for n in range(1000)))
        await asyncio.sleep(IDLE / 2)
        await sessions.of(login(7)).request("get", "x")
        before = len(asyncio.all_tasks())
        assert before == 2  # this one, and one for all logins
        await asyncio.sleep(IDLE / 2 + 1)
        assert server.alive() == 1
        await asyncio.sleep(IDLE)
        assert server.alive() == 0
        assert server.asked["auth/token/renew-self"] == 0
        await sessions.close(revoke=True)

    run(work())


def test_a_login_that_something_hangs_on_is_neither_dropped_nor_revoked():
    async def work() -> None:
        server = Server()
        sessions = Sessions(method, server, 8)
        session = sessions.of(login(0))
        await session.request("get", "x")
        session.pinned = True
        await asyncio.sleep(12 * HOUR)
        assert server.alive() == 1
        await sessions.close(revoke=True)
        assert server.alive() == 1

    run(work())


def test_a_token_that_was_given_is_never_revoked():
    async def work() -> None:
        server = Server()
        server.logins[b"given"] = (0.0, 1e9)

        async def read() -> KeyMaterial:
            return KeyMaterial(b"given")

        sessions = Sessions(lambda _: GivenToken(read), server, 8)
        await sessions.of(login(0)).request("get", "x")
        await asyncio.sleep(2 * IDLE)
        await sessions.of(login(0)).request("get", "x")
        await sessions.close(revoke=True)
        assert server.alive() == 1

    run(work())


def test_while_the_server_is_away_it_is_asked_seldom_and_an_ended_login_is_forgotten():
    async def work() -> None:
        server = Server()
        sessions = Sessions(method, server, 8)
        kept = sessions.of(login(0))
        await kept.request("get", "x")
        kept.pinned = True
        await asyncio.sleep(0.6 * HOUR)
        server.away = True
        before = server.asked.total()
        await asyncio.sleep(2 * HOUR)
        assert 5 < server.asked.total() - before < 40
        server.away = False
        await kept.request("get", "x")
        assert server.asked["auth/kubernetes/login"] == 2
        await sessions.close(revoke=False)

    run(work())


def test_an_end_takes_no_longer_than_it_may():
    async def work() -> None:
        server = Server()
        sessions = Sessions(method, server, 8)
        await sessions.of(login(0)).request("get", "x")
        server.slow = HOUR
        begun = asyncio.get_running_loop().time()
        await sessions.close(revoke=True)
        assert asyncio.get_running_loop().time() - begun <= REVOKE_WITHIN
        with pytest.raises(RetryableError, match="closed"):
            sessions.of(login(1))

    run(work())


def test_who_does_not_wait_for_a_login_does_not_lose_it():
    async def work() -> None:
        server = Server()
        server.slow = 1.0
        session = Session(method(login(0)), server)
        impatient = asyncio.create_task(session.request("get", "x"))
        await asyncio.sleep(0.5)
        impatient.cancel()
        await session.request("get", "x")
        assert server.asked["auth/kubernetes/login"] == 1
        await session.end()
        assert server.alive() == 0

    run(work())


def test_a_login_under_way_is_given_back_at_the_end():
    async def work() -> None:
        server = Server()
        server.slow = 1.0
        sessions = Sessions(method, server, 8)
        waiting = asyncio.create_task(sessions.of(login(0)).request("get", "x"))
        await asyncio.sleep(0.5)
        waiting.cancel()
        await sessions.close(revoke=True)
        assert server.asked["auth/kubernetes/login"] == 1
        assert server.alive() == 0

    run(work())


def test_a_refused_login_is_not_tried_by_everybody_in_turn():
    async def work() -> None:
        server = Server()
        server.refuses = True
        session = Session(method(login(0)), server)
        for _ in range(50):
            with pytest.raises(RejectedError, match="refused"):
                await session.request("get", "x")
        assert server.asked.total() == 1
        server.refuses = False
        await asyncio.sleep(3)
        await session.request("get", "x")

    run(work())


def test_tokens_that_may_not_ask_about_themselves_leave_no_trail_of_logins():
    async def work() -> None:
        server = Server()
        server.blind = True
        session = Session(method(login(0)), server)
        for _ in range(20):
            with pytest.raises(ForbiddenError):
                await session.request("get", "forbidden")
            await session.remaining()
        assert server.asked["auth/kubernetes/login"] == 2

    run(work())
