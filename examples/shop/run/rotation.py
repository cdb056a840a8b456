"""Everything rotates, under load: customers who must notice nothing, and thieves who must get nowhere."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from examples.shop.run import lifetimes
from examples.shop.run.bed import Bed
from examples.shop.run.customers import Customer, Load, RefusedError, Storefront, Tally, reason
from examples.shop.run.strangers import REPLAYED, Thief, signed
from examples.shop.run.table import Table

ITEM: Final = "tea"
IN_STOCK: Final = 100_000
NIGHT: Final = "no payments outside of 9 to 17"
_EXPIRED_AFTER: Final = 12.0  # seconds: auth-service's tokens live for 10
# By who called whom, and the kind of credential: whose rotation it shows.
WATCHED: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("storefront", "auth-service"): ("certificate", "token", "database"),
    ("storefront", "order-service"): ("certificate", "signature", "token", "database"),
    ("order-service", "payment-service"): ("certificate", "signature", "token", "database"),
    ("order-service", "inventory-service"): ("certificate", "signature", "token", "database"),
}


@dataclass
class Outcome:
    """What came of it. `rotated` says for each row and kind how often the credential was replaced in use."""

    tally: Tally
    rotated: dict[tuple[str, str, str], int] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)  # by what had to be done again
    faults: list[str] = field(default_factory=list)

    def least(self, kind: str) -> int:
        """How often each credential of a kind was replaced at least."""
        return min(number for (_, _, one), number in self.rotated.items() if one == kind)

    def again(self) -> str:
        """Return what had to be done again, and how often."""
        return ", ".join(f"{number} {what}" for what, number in self.retries.items())

    def told(self) -> str:
        """Return it in one line."""
        tally = self.tally
        return (
            f"{tally.requests} requests of customers in {tally.sessions} sessions, {tally.orders} orders, "
            f"{len(tally.failures)} failed; {tally.refused_as_they_should} refused as they should be, "
            f"{len(tally.accepted)} accepted that should not be; retries: {self.again()}"
        )


def fill(storefront: Storefront) -> None:
    """Put something in stock, as the admin. Raises RefusedError."""
    with Customer(storefront, "admin", "127.1.0.9") as admin:
        admin.log_in()
        for item, price in ((ITEM, 5), ("samovar", 1200)):
            answer = admin.put_in_stock(item, IN_STOCK, price)
            if not answer.is_success:
                raise RefusedError("stock", answer)
        admin.log_out()


def under_load(
    bed: Bed, storefront: Storefront, enough: Callable[[Outcome, float], bool], *, customers: int = 3
) -> Outcome:
    """Let customers and thieves loose until `enough` says so, by what was seen and the seconds that it went on.

    Then the policy's clock is moved to midnight, where customers can't pay, and back.
    """
    load, table = Load(storefront, [ITEM], customers=customers), bed.table
    outcome, first = Outcome(load.tally), bed.files("order-service-hmac")["key"].decode()
    table.begin()
    started, stop = time.monotonic(), threading.Event()
    thief = threading.Thread(target=_steal, args=(bed, storefront, load, stop), name="thief", daemon=True)
    with load.running():
        thief.start()
        try:
            while not enough(outcome, time.monotonic() - started):
                time.sleep(0.5)
                table.read()
                outcome.rotated = _rotated(table)
        finally:
            stop.set()
            thief.join()
    try:
        night(bed, storefront, load.tally)
    except (httpx.HTTPError, RefusedError) as error:
        load.tally.failed(f"at midnight: {type(error).__name__}: {error}")
    _first_key(bed, first, load.tally)
    table.read()
    outcome.rotated = _rotated(table)
    outcome.retries = {
        "calls": table.retries,
        "database": table.database_retries,
        "signatures": table.replayed - load.tally.replayed,  # two callers signed the same in the same millisecond
    }
    outcome.faults = [str(line) for line in table.errors]
    return outcome


def night(bed: Bed, storefront: Storefront, tally: Tally) -> None:
    """Make it midnight for payments: nobody but the admin can pay. Then it is noon again."""
    with Customer(storefront, "alice", "127.1.0.3") as alice:
        alice.log_in()
        lifetimes.set_hour(bed, lifetimes.MIDNIGHT)
        if not eventually(lambda: alice.order(ITEM, 1).status_code == httpx.codes.FORBIDDEN):
            tally.accepted.append("payments at midnight")
        for _ in range(5):
            answer = alice.order(ITEM, 1)
            tally.refused("order at midnight", answer, 403)
            if reason(answer) != NIGHT:
                tally.failed(f"order at midnight: {reason(answer)}")
        lifetimes.set_hour(bed, lifetimes.NOON)
        if not noon(alice):
            tally.failed("order at noon: still refused")


def _steal(bed: Bed, storefront: Storefront, load: Load, stop: threading.Event) -> None:
    """Try everything over and over, with what is in the Secrets at that time, and with tokens of before."""
    tally, old = load.tally, [(time.monotonic(), "")]
    while not stop.is_set():
        address = load.addresses.take()
        if address is None:
            return
        try:
            with Customer(storefront, "bob", address) as bob:
                bob.log_in()
                thief = Thief(bed, bob.access)
                old.append((time.monotonic(), bob.access))
                past = [token for at, token in old if token and time.monotonic() - at > _EXPIRED_AFTER]
                thief.expired = past[-1] if past else ""
                for attempt in thief.attempts():
                    tally.add(replayed=attempt.answer == REPLAYED)
                    if attempt.as_expected:
                        tally.add(refused_as_they_should=1)
                    elif attempt.accepted:
                        tally.accepted.append(f"{attempt.what}: {attempt.answer}")
                    else:
                        tally.failed(f"{attempt.what}: {attempt.answer}, not {attempt.expected}")
                bob.log_out()
        except Exception as error:  # noqa: BLE001  # a thief who gives up tries nothing
            tally.failed(f"thief: {type(error).__name__}: {error}")
        load.addresses.give_back(address)
        stop.wait(0.5)


def _first_key(bed: Bed, first: str, tally: Tally) -> None:
    """The HMAC key that order-service signed with at the start has been replaced: what it signs is refused."""
    thief = Thief(bed, "")
    answer = thief.send("payment-service", thief.order, signed("order-service", first), "GET", "/payments")
    if answer.startswith("401 Invalid signature"):
        tally.add(refused_as_they_should=1)
    else:
        tally.accepted.append(f"first HMAC key, after its overlap: {answer}")


def _rotated(table: Table) -> dict[tuple[str, str, str], int]:
    return {(*row, kind): max(table.number(*row, kind) - 1, 0) for row, kinds in WATCHED.items() for kind in kinds}


def noon(customer: Customer) -> bool:
    """Order until it is noon for payments; say whether it came."""
    return eventually(lambda: customer.order(ITEM, 1).is_success)


def eventually(reached: Callable[[], bool], limit: float = 15) -> bool:
    """Ask again and again, for so many seconds at most, whether something was reached."""
    deadline = time.monotonic() + limit
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


@dataclass(frozen=True)
class Books:
    """What the three databases say of the orders that were placed."""

    orders: int
    ordered: int
    paid_for: int
    payments: int
    paid: int
    reservations: int
    reserved: int
    missing_in_stock: int

    @property
    def balanced(self) -> bool:
        """Whether each order was paid, its goods are reserved, and nothing else was."""
        same = self.orders == self.payments == self.reservations and self.ordered == self.reserved
        return same and self.paid_for == self.paid and self.missing_in_stock == self.reserved

    def told(self) -> str:
        """Return it in one line."""
        return (
            f"{self.orders} orders, {self.payments} payments of {self.paid} euros, {self.reserved} reserved, "
            f"{self.missing_in_stock} less in stock"
        )


def books(bed: Bed) -> Books:
    """Read the books, as the owners of the databases."""
    ((orders, ordered, paid_for),) = bed.platform.rows(
        "orders",
        "SELECT count(*), coalesce(sum(quantity), 0), coalesce(sum(amount), 0) FROM orders.orders"
        " WHERE placed_at IS NOT NULL",
    )
    ((payments, paid),) = bed.platform.rows(
        "payments", "SELECT count(*), coalesce(sum(amount), 0) FROM payments.payments"
    )
    ((reservations, reserved),) = bed.platform.rows(
        "inventory", "SELECT count(*), coalesce(sum(quantity), 0) FROM inventory.reservations"
    )
    ((left,),) = bed.platform.rows("inventory", f"SELECT quantity FROM inventory.stock WHERE item = '{ITEM}'")
    numbers = (orders, ordered, paid_for, payments, paid, reservations, reserved, IN_STOCK - left)
    return Books(*map(int, numbers))


def delete_identities(bed: Bed) -> float | None:
    """Delete all identities; return the seconds until no lease and no leased user is left, None if some are."""
    bed.kubectl("delete", "sid", "--all")
    started = time.monotonic()
    gone = eventually(lambda: not bed.platform.leases() and not bed.platform.users())
    return time.monotonic() - started if gone else None
