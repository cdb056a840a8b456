"""Database users with a lease, from birth to end, against OpenBao and PostgreSQL."""

import time
from collections.abc import Iterator

import pytest

from tests.controlplane.operator import OperatorProcess
from tests.e2e.leases import Bed, User, churn, database, lease, lease_bed, record_of, user
from tests.e2e.support import Space, eventually, new_space

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with lease_bed() as made:
        made.role("steady", "10m", "1h")
        made.role("other", "10m", "1h")
        made.role("short", "8s", "14s")
        yield made


@pytest.fixture(scope="module")
def operator(bed: Bed) -> Iterator[OperatorProcess]:
    process = OperatorProcess(bed.plane)
    yield process
    process.stop()


def known(space: Space, name: str) -> User:
    found = user(space, name)
    assert found is not None
    return found


def replaced(space: Space, name: str, old: User, timeout: float = 20) -> User:
    eventually(lambda: known(space, name) != old, timeout)
    return known(space, name)


def test_a_lease_from_birth_to_end(bed: Bed, operator: OperatorProcess) -> None:
    operator.start()
    space = new_space(bed.plane)
    space.apply("short", database("short", overlap="4s"))
    for name in ("calm", "lost", "rotated", "moved"):
        space.apply(name, database("steady", overlap="5s"))
    # As themselves: with the right to make tokens, and without.
    for name in ("read", "make-tokens"):
        space.kubectl("create", "serviceaccount", f"as-{name}")
        space.apply(f"as-{name}", database("steady", name, overlap="0s"))
    space.ready(timeout=20)
    names = [item["metadata"]["name"] for item in bed.plane.get("sid", f"-n={space.name}")["items"]]
    began = {name: known(space, name) for name in names}
    assert all(one.logs_in(bed) for one in began.values())
    assert count(bed) == 6

    revoked(bed, space, began["lost"])
    asked_for(bed, space, began["rotated"], began["moved"])
    renewed_then_replaced(bed, space)
    assert {name: known(space, name) for name in ("calm", "as-read", "as-make-tokens")} == {
        name: began[name] for name in ("calm", "as-read", "as-make-tokens")
    }
    sealed(bed, space)
    deleted(bed, space)


def count(bed: Bed) -> int:
    """Count the leases that nothing but the tests' own doing ends."""
    return sum("/short/" not in one for one in bed.leases())


def revoked(bed: Bed, space: Space, old: User) -> None:
    """Somebody revokes a lease: it is noticed at the next look."""
    bed.bao.request("PUT", "sys/leases/revoke", {"lease_id": lease(space, "lost")["id"]})
    new = replaced(space, "lost", old, 10)
    assert new.logs_in(bed)
    assert not old.logs_in(bed)
    assert count(bed) == 6


def asked_for(bed: Bed, space: Space, rotated: User, moved: User) -> None:
    """A rotation, and another role: the old users live on for the overlap, and no longer."""
    space.kubectl("annotate", "sid", "rotated", "serviceidentity.dev/rotate=now")
    space.apply("moved", database("other", overlap="5s"))
    new = [replaced(space, "rotated", rotated), replaced(space, "moved", moved)]
    assert all(one.logs_in(bed) for one in (*new, rotated, moved))
    eventually(lambda: not rotated.logs_in(bed) and not moved.logs_in(bed), 10)
    assert lease(space, "moved")["id"].startswith("database/creds/other/")
    assert all(one.logs_in(bed) for one in new)


def renewed_then_replaced(bed: Bed, space: Space) -> None:
    """Renewed without a change of the Secret, and replaced by another one before the longest life is over."""
    before, version = lease(space, "short"), space.secret("short-db")
    eventually(lambda: lease(space, "short")["lastRenewalTime"] > before["lastRenewalTime"])
    if lease(space, "short")["id"] == before["id"]:
        assert space.secret("short-db") == version
    old = known(space, "short")
    new = replaced(space, "short", old, 25)
    assert old.logs_in(bed)
    assert new.logs_in(bed)
    eventually(lambda: not old.logs_in(bed), 10)
    assert new.logs_in(bed)


def sealed(bed: Bed, space: Space) -> None:
    """OpenBao is sealed while an identity goes: it goes at once, and its lease when OpenBao serves again."""
    record, gone = record_of(space, "calm"), known(space, "calm")
    bed.bao.seal()
    began = time.monotonic()
    space.kubectl("delete", "sid", "calm", "--timeout=10s")
    assert time.monotonic() - began < 5
    eventually(lambda: "LeaseRevocationPending" in reasons(space), 20)
    assert record in bed.records()
    assert gone.logs_in(bed)
    bed.bao.unseal()
    eventually(lambda: record not in bed.records() and gone.name not in bed.postgres.users(), 20)
    eventually(lambda: "LeaseRevoked" in reasons(space))
    eventually(lambda: space.secret("calm-db") is None, 30)  # the garbage collector of a new cluster takes its time


def deleted(bed: Bed, space: Space) -> None:
    """An identity goes, and then its namespace: nothing is left of its leases."""
    space.ready("rotated", timeout=20)
    record, gone = record_of(space, "rotated"), known(space, "rotated")
    space.kubectl("delete", "sid", "rotated")
    eventually(lambda: record not in bed.records() and gone.name not in bed.postgres.users())
    assert not gone.logs_in(bed)
    bed.plane.kubectl("delete", "namespace", space.name, "--wait=false")
    eventually(lambda: bed.left() == (0, 0, 0), 30)


def reasons(space: Space) -> set[str]:
    return {event["reason"] for event in space.plane.get("events", f"--namespace={space.name}")["items"]}


def test_killed_again_and_again_it_leaves_nothing_behind(bed: Bed, operator: OperatorProcess) -> None:
    print(churn(bed, new_space(bed.plane), operator, identities=30, kills=5))
