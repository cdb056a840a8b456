"""Rotation in fast motion: connections and signed requests without pause while everything under them changes."""

import json
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from examples.demo import mtls, signing

Data = dict[str, str]


@dataclass
class Tally:
    """What happened while it ran."""

    connections: int = 0
    requests: int = 0
    failures: list[str] = field(default_factory=list)
    certificates: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


def run(read: Callable[[str], Data], seconds: float, tell: Callable[[str], None]) -> Tally:
    """Connect order-service to payment-service and send it signed requests for so long.

    `read` returns the data of a Secret as it is now, as a mounted volume would.
    """
    tally, end, number = Tally(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        client, server = read("order-service-tls"), read("payment-service-tls")
        outcome = mtls.connect(server, client, "payment-service")
        tally.connections += 1
        if outcome.caller is None or outcome.caller.common_name != "order-service":
            tally.failures.append(f"connection: {outcome.refused}")
        else:
            _note(tally.certificates, outcome.caller.serial, "certificate", tell)
        signer, keyring = read("order-service-hmac"), read("payment-service-hmac-keyring")
        body, now = {"order": number, "article": "Käse"}, int(time.time() * 1000)
        headers = signing.sign("order-service", bytes.fromhex(b64decode(signer["key"]).decode()), body, now)
        tally.requests += 1
        try:
            signing.verify(b64decode(keyring["keyring.json"]), headers, body, now)
        except signing.RefusedError as error:
            tally.failures.append(f"request: {error}")
        _note(tally.keys, _states(json.loads(b64decode(signer["keys.json"]))), "HMAC keys", tell)
        time.sleep(0.05)
    return tally


def _states(ring: dict[str, Any]) -> str:
    return ", ".join(f"{key['kid']} {key['state']}" for key in ring["keys"])


def _note(seen: list[str], value: str, what: str, tell: Callable[[str], None]) -> None:
    if not seen or seen[-1] != value:
        seen.append(value)
        tell(f"{what}: {value}")
