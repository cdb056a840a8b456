"""Customers' programs: they know the storefront's address and name, whom to trust, and their own password."""

import itertools
import ssl
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import httpx

PASSWORDS: Final = {
    "alice": "correct horse battery staple",
    "bob": "a cup of tea and two biscuits",
    "admin": "it is the storeman who counts",
}
_TIMEOUT: Final = 20.0  # seconds
_WINDOW: Final = 15 * 60.0  # seconds: the storefront counts requests for so long
QUOTA: Final = 90  # of the 100 requests that it lets an address make in that time


@dataclass(frozen=True)
class Storefront:
    """Where the storefront is, what it is called, and whom its customers trust."""

    address: str  # host:port
    name: str
    trust: ssl.SSLContext = field(repr=False)


class Addresses:
    """Loopback addresses to call from, as limits count requests by address: no address makes more than `QUOTA`."""

    def __init__(self, networks: range = range(1, 3)) -> None:
        self._lock = threading.Lock()
        self._fresh = (f"127.1.{third}.{fourth}" for third in networks for fourth in range(1, 255))
        self._used: deque[tuple[float, str]] = deque()

    def take(self) -> str | None:
        """Return an address that has made no request in the last 15 minutes; None when there is none."""
        with self._lock:
            found = next(self._fresh, None)
            if found is None and self._used and time.monotonic() - self._used[0][0] > _WINDOW:
                found = self._used.popleft()[1]
            return found

    def give_back(self, address: str) -> None:
        """Say that its last request was made now."""
        with self._lock:
            self._used.append((time.monotonic(), address))


class RefusedError(Exception):
    """An answer that the customer did not hope for: its status and text."""

    def __init__(self, what: str, answer: httpx.Response) -> None:
        super().__init__(f"{what}: {answer.status_code} {reason(answer)}")
        self.status = answer.status_code


class Customer:
    """One session of one customer. Tokens are renewed when half of their time is over, as a good client does."""

    def __init__(self, storefront: Storefront, name: str, address: str = "127.1.0.1") -> None:
        transport = httpx.HTTPTransport(verify=storefront.trust, local_address=address, trust_env=False)
        self.http = httpx.Client(base_url=f"https://{storefront.address}", transport=transport, timeout=_TIMEOUT)
        self._extensions = {"sni_hostname": storefront.name}
        self._headers = {"host": storefront.name}
        self.name = name
        self.requests = 0
        self.access = ""
        self._refresh = ""
        self._renew_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.http.close()

    def send(self, method: str, path: str, *, token: str | None = None, **options: Any) -> httpx.Response:
        """Send one request and return its answer, whatever it is. Raises httpx.HTTPError when there is none."""
        headers = self._headers | options.pop("headers", {})
        if token:
            headers["authorization"] = f"Bearer {token}"
        self.requests += 1
        return self.http.request(method, path, headers=headers, extensions=self._extensions, **options)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request as the customer, with a token that is fresh."""
        if time.monotonic() >= self._renew_at:
            self.renew()
        return self.send(method, path, token=self.access, **options)

    def log_in(self, password: str | None = None) -> None:
        """Open a session. Raises RefusedError."""
        body = {"username": self.name, "password": password or PASSWORDS[self.name]}
        self._take(self.send("POST", "/login", json=body), "login")

    def renew(self) -> None:
        """Exchange the refresh token. Raises RefusedError."""
        self._take(self.send("POST", "/refresh", json={"refresh_token": self._refresh}), "refresh")

    def log_out(self) -> None:
        """End the session; its tokens are good for nothing from now on. Raises RefusedError."""
        answer = self.ask("POST", "/logout")
        if answer.status_code != httpx.codes.NO_CONTENT:
            raise RefusedError("logout", answer)

    def order(self, item: str, quantity: int, key: str | None = None) -> httpx.Response:
        """Order something; the key says which orders are one and the same."""
        headers = {"idempotency-key": key or uuid.uuid4().hex}
        return self.ask("POST", "/orders", json={"item": item, "quantity": quantity}, headers=headers)

    def read(self, order: str) -> httpx.Response:
        """Read an order."""
        return self.ask("GET", f"/orders/{order}")

    def stock(self) -> httpx.Response:
        """Read what there is in store."""
        return self.ask("GET", "/stock")

    def put_in_stock(self, item: str, quantity: int, price: int) -> httpx.Response:
        """Say how much there is of something, and what it costs."""
        return self.ask("PUT", f"/stock/{item}", json={"quantity": quantity, "price": price})

    def _take(self, answer: httpx.Response, what: str) -> None:
        if answer.status_code != httpx.codes.OK:
            raise RefusedError(what, answer)
        found = answer.json()
        self.access, self._refresh = found["access_token"], found["refresh_token"]
        self._renew_at = time.monotonic() + found["expires_in"] / 2


def reason(answer: httpx.Response) -> str:
    """Return what an answer says, in words."""
    try:
        found = answer.json()
    except ValueError:
        return answer.text[:80]
    return str(found.get("reason") or found.get("error") or "") if isinstance(found, dict) else ""


@dataclass
class Tally:
    """What came of a load. `failures` are requests that should have gone well, `accepted` those that should not."""

    orders: int = 0
    refused_as_they_should: int = 0
    replayed: int = 0  # those of them that were copies
    failures: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    requests: int = 0
    sessions: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **numbers: int) -> None:
        """Add to the numbers."""
        with self._lock:
            for name, number in numbers.items():
                setattr(self, name, getattr(self, name) + number)

    def failed(self, what: str) -> None:
        """Note a request that should have gone well."""
        self.failures.append(f"{time.strftime('%H:%M:%S')} {what}")

    def expect(self, what: str, answer: httpx.Response, *statuses: int) -> bool:
        """Note an answer that is none of those expected, as a failure; return whether it is one."""
        if answer.status_code not in statuses:
            self.failed(f"{what}: {answer.status_code} {reason(answer)}")
        return answer.status_code in statuses

    def refused(self, what: str, answer: httpx.Response, *statuses: int) -> None:
        """Note the answer to a request that must be refused."""
        if answer.is_success:
            self.accepted.append(f"{what}: {answer.status_code}")
        elif self.expect(what, answer, *statuses):
            self.add(refused_as_they_should=1)


class Load:
    """Customers who order without pause, each session from an address of its own, for as long as the block lasts."""

    def __init__(self, storefront: Storefront, items: list[str], *, customers: int = 4, pause: float = 0.05) -> None:
        self.tally = Tally()
        self.addresses = Addresses()
        self._storefront = storefront
        self._items = items
        self._pause = pause
        self._stop = threading.Event()
        names = itertools.cycle(("alice", "bob"))
        self._threads = [
            threading.Thread(target=self._run, args=(next(names),), name=f"customer-{number}", daemon=True)
            for number in range(customers)
        ]

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Run it."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _run(self, name: str) -> None:
        others: deque[str] = deque(maxlen=5)
        while not self._stop.is_set():
            address = self.addresses.take()
            if address is None:
                self._stop.wait(1)
                continue
            with Customer(self._storefront, name, address) as customer:
                try:
                    self._session(customer, others)
                except Exception as error:  # noqa: BLE001  # whatever ends a session early is a failure
                    self.tally.failed(f"{name} at {address}: {type(error).__name__}: {error}")
                self.tally.add(requests=customer.requests, sessions=1)
            self.addresses.give_back(address)

    def _session(self, customer: Customer, orders: deque[str]) -> None:
        """Log in, order and read for a while, log out; then the session's token must be good for nothing."""
        tally = self.tally
        customer.log_in()
        for item in itertools.islice(itertools.cycle(self._items), 12):
            if self._stop.is_set() or customer.requests > QUOTA - 10:
                break
            key = uuid.uuid4().hex
            answer = customer.order(item, 1, key)
            if tally.expect("order", answer, httpx.codes.CREATED):
                tally.add(orders=1)
                orders.append(answer.json()["id"])
                tally.expect("read", customer.read(orders[0]), httpx.codes.OK)
                again = customer.order(item, 1, key)
                if tally.expect("order again", again, httpx.codes.OK, httpx.codes.CREATED):
                    same = again.json()["id"] == orders[-1]
                    if not same:
                        tally.accepted.append("order again: it is another one")
            self._stop.wait(self._pause)
        customer.log_out()
        tally.refused("token after logout", customer.send("GET", "/stock", token=customer.access), 401)
