"""The parts of the demo, in order. Each shows something, checks it, and says in one line how it went."""

import json
import uuid
from collections.abc import Callable
from typing import Final

import httpx

from examples.demo.screen import Screen
from examples.shop.run import lifetimes, rotation
from examples.shop.run.bed import Bed
from examples.shop.run.customers import Customer, reason
from examples.shop.run.rotation import IN_STOCK, ITEM, NIGHT
from examples.shop.run.strangers import Thief
from examples.shop.run.table import live

SECONDS: Final = 30.0
LEAST: Final = {"certificate": 3, "signature": 2, "token": 2, "database": 2}  # replaced in use, in that time
_WORDS: Final = {
    "certificate": "certificates",
    "signature": "HMAC keys",
    "token": "JWT keys",
    "database": "database users",
}


def customers(bed: Bed, screen: Screen) -> None:
    """A customer logs in, orders, and reads what was ordered."""
    storefront = bed.storefront()
    lifetimes.set_hour(bed, lifetimes.NOON)
    rotation.fill(storefront)
    screen.step("admin puts tea in stock", True, f"{IN_STOCK} at 5 euros")
    with Customer(storefront, "alice", "127.1.0.1") as alice:
        alice.log_in()
        screen.step("alice logs in", True, "over TLS, with the trust bundle; her token lives for 10 s")
        rotation.noon(alice)
        key = uuid.uuid4().hex
        placed = alice.order(ITEM, 2, key)
        screen.step("she orders 2 tea", _is(placed, 201), _told(placed))
        again = alice.order(ITEM, 2, key)
        same = _is(again, 200) and again.json()["id"] == placed.json()["id"]
        screen.step("her program sends it again: the same order", same, _told(again))
        read = alice.read(placed.json()["id"])
        screen.step("she reads it", _is(read, 200), _told(read))
        refused(bed, screen, alice, placed.json()["id"])
        alice.log_out()
        late = alice.send("GET", "/stock", token=alice.access)
        screen.step("after logout: token refused", _is(late, 401), _told(late))


def refused(bed: Bed, screen: Screen, alice: Customer, order: str) -> None:
    """What policy refuses, and says why."""
    storefront = bed.storefront()
    with Customer(storefront, "bob", "127.1.0.2") as bob:
        bob.log_in()
        _refused(screen, "bob reads alice's order", bob.read(order), "No matching policy")
    _refused(screen, "alice sets the stock", alice.put_in_stock(ITEM, 1, 1), "No matching policy")
    _refused(screen, "alice orders a samovar", alice.order("samovar", 1), "at most 1000 euros an order")
    lifetimes.set_hour(bed, lifetimes.MIDNIGHT)
    rotation.eventually(lambda: _is(alice.order(ITEM, 1), 403))
    _refused(screen, "alice orders at midnight", alice.order(ITEM, 1), NIGHT)
    with Customer(storefront, "admin", "127.1.0.9") as admin:
        admin.log_in()
        answer = admin.order(ITEM, 1)
        screen.step("an admin orders at midnight", _is(answer, 201), _told(answer))
    lifetimes.set_hour(bed, lifetimes.NOON)
    rotation.noon(alice)


def strangers(bed: Bed, screen: Screen) -> None:
    """Past the storefront, straight to the services: without credentials, and with stolen ones."""
    with Customer(bed.storefront(), "bob", "127.1.0.4") as bob:
        bob.log_in()
        for attempt in Thief(bed, bob.access).attempts():
            screen.step(f"{attempt.what}: refused", attempt.as_expected, attempt.answer)


def rotations(bed: Bed, screen: Screen) -> None:
    """Lifetimes of seconds, for everything, under customers and thieves; then what the books say."""
    lifetimes.shorten(bed)
    storefront = bed.storefront()
    with live(bed.table, screen.say):
        outcome = rotation.under_load(bed, storefront, lambda _, seconds: seconds >= SECONDS)
    screen.columns(bed.table.columns())
    for line in [*outcome.tally.failures, *outcome.tally.accepted, *outcome.faults][:10]:
        screen.say(line)
    screen.say("")
    tally = outcome.tally
    failed = f"{tally.requests} requests of customers, {tally.orders} orders, {len(tally.failures)} failed"
    good = not tally.failures and not outcome.faults and tally.orders > 0
    screen.step("no request failed", good, f"{failed}; retries: {outcome.again()}")
    refusals = f"{tally.refused_as_they_should} refused, {len(tally.accepted)} accepted"
    screen.step("nothing was accepted that should not be", not tally.accepted, refusals)
    for kind, least in LEAST.items():
        seen = outcome.least(kind)
        screen.step(f"{_WORDS[kind]} replaced in use", seen >= least, f"each at least {seen} times")


def accounts(bed: Bed, screen: Screen) -> None:
    """What is in the databases, and what is left when the identities go."""
    found = rotation.books(bed)
    screen.step("orders, payments and stock agree", found.balanced, found.told())
    before = len(bed.platform.users())
    took = rotation.delete_identities(bed)
    detail = "some are left" if took is None else f"of {before} users none is left, {took:.1f} s after kubectl delete"
    screen.step("identities deleted: no lease, no database user", took is not None, detail)


PARTS: Final[tuple[tuple[str, Callable[[Bed, Screen], None]], ...]] = (
    ("A customer, and what policy refuses", customers),
    ("Strangers and thieves, at the services themselves", strangers),
    (f"Everything rotates underneath, for {SECONDS:.0f} seconds", rotations),
    ("The books, and what is left", accounts),
)


def _refused(screen: Screen, what: str, answer: httpx.Response, why: str) -> None:
    screen.step(f"{what}: refused", _is(answer, 403) and reason(answer) == why, _told(answer))


def _is(answer: httpx.Response, status: int) -> bool:
    return answer.status_code == status


def _told(answer: httpx.Response) -> str:
    """Return status and content of an answer in a few words."""
    if not answer.is_success:
        return f"{answer.status_code} {reason(answer)}"
    found = json.loads(answer.text)
    shown = f"{found['quantity']} {found['item']} for {found['amount']} euros, order {found['id'][:8]}"
    return f"{answer.status_code} {shown}"
