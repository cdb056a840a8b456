"""Rotation in fast motion: connections and signed requests without pause while everything under them changes."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from examples.demo import mtls, signing
from examples.demo.mtls import Files

REFRESH: Final = 0.5
PAUSE: Final = 0.02

Read = Callable[[str], Files]


class Mount:
    """A Secret as a mounted volume shows it: all its files change at once, and a while after the Secret did."""

    def __init__(self, read: Read, secret: str) -> None:
        self._read, self._secret = read, secret
        self._files, self._next = read(secret), time.monotonic() + REFRESH

    @property
    def files(self) -> Files:
        """What is in the volume now."""
        if time.monotonic() >= self._next:
            self._files, self._next = self._read(self._secret), time.monotonic() + REFRESH
        return self._files


@dataclass
class Tally:
    """What happened while it ran. `serials` and `signers` are those seen, each once, in the order they came."""

    connections: int = 0
    requests: int = 0
    failures: list[str] = field(default_factory=list)
    serials: list[str] = field(default_factory=list)
    signers: list[str] = field(default_factory=list)


def run(read: Read, seconds: float, tell: Callable[[str], None]) -> Tally:
    """Connect order-service to payment-service and send it signed requests for so long; tell of every change.

    `read` returns what is in a Secret as it is now.
    """
    tally, started, states = Tally(), time.monotonic(), ""

    def change(what: str, old: str, new: str) -> None:
        if old != new:
            arrow = f"{old} -> {new}" if old else new
            tell(f"{time.monotonic() - started:5.1f} s  {what}: {arrow}")

    certificate, server = Mount(read, "order-service-tls"), Mount(read, "payment-service-tls")
    signer, keyring = Mount(read, "order-service-hmac"), Mount(read, "payment-service-hmac-keyring")
    while time.monotonic() - started < seconds:
        serial = _connect(certificate.files, server.files, tally)
        if serial and serial not in tally.serials:
            change("certificate", _short(tally.serials[-1]) if tally.serials else "", _short(serial))
            tally.serials.append(serial)
        _request(signer.files, keyring.files, tally)
        change("HMAC keys", states, states := _states(signer.files))
        time.sleep(PAUSE)
    return tally


def _connect(client: Files, server: Files, tally: Tally) -> str | None:
    """Return the serial number that the server saw, if all went well."""
    tally.connections += 1
    seen = mtls.connect(server, client, "payment-service.shop.svc", roots=client["ca.crt"])
    if seen.caller is None or not seen.established or seen.caller.common_name != "order-service":
        tally.failures.append(f"connection: {seen.server_refused or seen.client_refused or 'not as order-service'}")
        return None
    return seen.caller.serial


def _request(signer: Files, keyring: Files, tally: Tally) -> None:
    tally.requests += 1
    body, now = {"order": tally.requests, "article": "Käse"}, int(time.time() * 1000)
    headers = signing.sign("order-service", bytes.fromhex(signer["key"].decode()), body, now)
    answer = signing.verdict(keyring["keyring.json"], headers, body, now)
    if answer != "from order-service":
        tally.failures.append(f"request: {answer}")
    key_id = signer["key-id"].decode()
    if key_id not in tally.signers:
        tally.signers.append(key_id)


def _states(signer: Files) -> str:
    return ", ".join(f"{_short(key['kid'])} {key['state']}" for key in json.loads(signer["keys.json"])["keys"])


def _short(number: str) -> str:
    return number[:12]
