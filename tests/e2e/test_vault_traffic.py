"""Services that log in to PostgreSQL without pause, while their users are renewed and replaced."""

import json
import random
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from datetime import datetime
from types import TracebackType
from typing import Final, Self

import psycopg
import pytest

from tests.controlplane.databases import TABLE
from tests.controlplane.operator import running_operator
from tests.e2e.leases import Bed, User, database, lease_bed
from tests.e2e.support import Space, new_space

pytestmark = pytest.mark.e2e

# Who logs in: the operator with a token, and the services themselves, with and without the right to make tokens.
SERVICES: Final = {f"s{number}": ("default", "make-tokens", "read")[number % 3] for number in range(6)}
MOUNT_DELAY: Final = 0.6  # seconds; a service is at most about twice that behind its Secret
LEAST: Final = 6.0  # seconds that Vault has to grant if a lease is not to be replaced: half of what it was at first
RENEWALS, REPLACEMENTS = 9, 5  # to be seen
LONGEST: Final = 70.0
BEHIND: Final = (
    1.8  # seconds that a service may be behind its Secret, for the old user to serve it; more is the machine's
)


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with lease_bed() as made:
        # Renewed after 8 or 9 seconds; after 16 to 18 Vault grants 3 to 5 only, which is what the old user has left.
        made.role("short", "12s", "21s")
        yield made


class Service:
    """Opens a connection and queries, again and again, as the user whom its mounted Secret names."""

    def __init__(self, bed: Bed, space: Space, name: str) -> None:
        self.bed, self.space, self.name = bed, space, name
        self.user = self._read()
        self.as_of = time.monotonic()
        self.users = {self.user}
        self.connections = self.late = 0
        self.failures: list[str] = []

    def _read(self) -> User:
        path = f"/api/v1/namespaces/{self.space.name}/secrets/{self.name}-db"
        data = json.loads(self.space.plane.raw(path))["data"]
        return User(b64decode(data["username"]).decode(), b64decode(data["password"]).decode())

    def mount(self, stop: threading.Event) -> None:
        while not stop.is_set():
            as_of = time.monotonic()
            found = self._read()
            stop.wait(random.uniform(MOUNT_DELAY / 2, MOUNT_DELAY))
            self.user, self.as_of = found, as_of
            self.users.add(found)

    def connect(self, stop: threading.Event) -> None:
        while not stop.is_set():
            user, as_of = self.user, self.as_of
            try:
                with self.bed.postgres.connect(user.name, user.password) as connection:
                    connection.execute(f"SELECT id FROM {TABLE}").fetchall()
            except psycopg.Error as error:
                if time.monotonic() - as_of <= BEHIND:
                    self.failures.append(f"{time.time():.1f} {self.name}: {error}")
                self.late += 1
            self.connections += 1
            time.sleep(0.02)


class Observer:
    """Follows every lease in OpenBao: when it was granted, for how long, and when it was renewed."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.grants: dict[str, list[tuple[float, float]]] = {}  # by lease: granted at, until
        self.renewed_at: list[tuple[float, float]] = []  # fraction of the duration that was over, the duration

    def look(self) -> None:
        for lease in self.bed.leases():
            found = self.bed.looked_up(lease)
            if found is None or found["expire_time"] is None:
                continue
            granted = _time(found["last_renewal"] or found["issue_time"])
            grants = self.grants.setdefault(lease, [])
            if not grants or granted > grants[-1][0]:
                if grants:
                    before, ends = grants[-1]
                    if ends - before >= LEAST:  # else it is that of a user who was replaced
                        self.renewed_at.append(((granted - before) / (ends - before), ends - before))
                grants.append((granted, _time(found["expire_time"])))

    def watch(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.look()
            stop.wait(0.2)


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class Threads:
    """Runs what is given for as long as the block lasts."""

    def __init__(self, *runs: object) -> None:
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=run, args=(self.stop,)) for run in runs]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()


def test_no_login_fails_through_renewals_and_new_users(bed: Bed) -> None:
    with running_operator(bed.plane) as operator:
        space = new_space(bed.plane)
        for name, connection in SERVICES.items():
            space.kubectl("create", "serviceaccount", name)
            space.apply(name, database("short", connection, overlap="4s"))
        space.ready(timeout=20)
        services = [Service(bed, space, name) for name in SERVICES]
        observer = Observer(bed)
        began = time.monotonic()

        def replacements() -> int:
            return sum(len(service.users) - 1 for service in services)

        runs = [run for service in services for run in (service.mount, service.connect)]
        with Threads(observer.watch, *runs):
            while time.monotonic() < began + LONGEST:
                if len(observer.renewed_at) >= RENEWALS and replacements() >= REPLACEMENTS:
                    break
                time.sleep(0.5)
        fractions = sorted(fraction for fraction, _ in observer.renewed_at)
        print(
            f"{sum(service.connections for service in services)} connections, {len(fractions)} renewals at "
            f"{fractions[0]:.3f} to {fractions[-1]:.3f} of what was granted, {replacements()} new users, "
            f"{sum(len(service.failures) for service in services)} failures, "
            f"{sum(service.late for service in services)} with those that were too late to count, in {time.monotonic() - began:.0f} s"
        )
        assert [failure for service in services for failure in service.failures] == []
        assert len(fractions) >= RENEWALS
        assert replacements() >= REPLACEMENTS
        # Of 12 seconds, there are some to spare. What is cut by max_ttl has less, which a busy machine may use up.
        assert all(fraction <= 0.75 for fraction, duration in observer.renewed_at if duration > 7.5)
        assert "Traceback" not in operator.log
