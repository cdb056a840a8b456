"""The shop under load while every credential of it is replaced many times: no request fails, and nobody gets in.

Customers log in, order, read and log out through the storefront; thieves go straight to the services, with what they
read in the Secrets. Both make a bounded number of requests: each session has at most 90, from an address of its own.

SHOP_LOAD_SECONDS=600 lets it go on for ten minutes; without it, it ends when each credential was replaced as often as
LEAST says, which takes less than half a minute.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from examples.shop.run import lifetimes, rotation
from examples.shop.run.bed import Bed, shop
from examples.shop.run.customers import Customer
from examples.shop.run.rotation import Outcome
from examples.shop.run.strangers import Thief
from tests.controlplane import redis

pytestmark = pytest.mark.e2e

LEAST: Final = {"certificate": 3, "signature": 2, "token": 2, "database": 2}
LONGEST: Final = 60.0  # seconds after which what was not replaced will not be
ORDERS: Final = 30
LONG: Final = os.environ.get("SHOP_LOAD_SECONDS", "")


@dataclass
class Shop:
    bed: Bed
    outcome: Outcome


@pytest.fixture(scope="module")
def ran() -> Iterator[Shop]:
    if not redis.found():
        pytest.skip("NO REDIS HERE: install redis-server")
    with shop(print) as bed:
        lifetimes.set_hour(bed, lifetimes.NOON)
        storefront = bed.storefront()
        rotation.fill(storefront)
        with Customer(storefront, "alice", "127.1.0.1") as alice:
            alice.log_in()
            assert rotation.noon(alice)
        lifetimes.shorten(bed)
        outcome = rotation.under_load(bed, storefront, enough, customers=3 if LONG else 2)
        print(outcome.told())
        yield Shop(bed, outcome)


def enough(outcome: Outcome, seconds: float) -> bool:
    if LONG:
        return seconds >= float(LONG)
    seen = bool(outcome.rotated) and all(outcome.least(kind) >= number for kind, number in LEAST.items())
    return seen or seconds >= LONGEST


def test_no_request_fails(ran: Shop) -> None:
    assert ran.outcome.tally.failures == []
    assert ran.outcome.faults == []
    assert ran.outcome.tally.orders >= ORDERS


def test_nothing_is_accepted_that_should_not_be(ran: Shop) -> None:
    assert ran.outcome.tally.accepted == []
    assert ran.outcome.tally.refused_as_they_should >= ORDERS


def test_every_credential_was_replaced_in_use(ran: Shop) -> None:
    assert {kind: number for kind, number in LEAST.items() if ran.outcome.least(kind) < number} == {}, (
        ran.outcome.rotated
    )


def test_orders_payments_and_stock_agree(ran: Shop) -> None:
    found = rotation.books(ran.bed)
    assert found.orders >= ran.outcome.tally.orders
    assert found.balanced, found


def test_the_services_restarted_for_none_of_it(ran: Shop) -> None:
    assert {pod.name: pod.restarts for pod in ran.bed.node.pods() if pod.restarts} == {}


def test_nothing_secret_is_in_a_log(ran: Shop) -> None:
    bed = ran.bed
    texts = [path.read_text(errors="replace") for path in bed.logs()] + [bed.operator.log]
    secret = [bed.files("order-service-hmac")["key"].decode(), bed.files("auth-service-database")["password"].decode()]
    secret.append(bed.files("payment-service-provider")["api-key"].decode())
    secret += [Thief(bed, "").jwt["d"], "BEGIN PRIVATE KEY", "correct horse"]
    assert [number for number, one in enumerate(secret) if any(one in text for text in texts)] == []
    assert [text for text in texts if re.search(r"eyJ[\w-]+\.eyJ", text)] == []  # a token


def test_no_lease_outlives_the_identities(ran: Shop) -> None:
    assert rotation.delete_identities(ran.bed) is not None, ran.bed.platform.users()
