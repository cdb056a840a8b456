"""Who should not get in: callers with no credential, with somebody else's, with stolen or forged ones.

They go past the storefront, straight to the services. What they stole is read with the admin's rights: certificates,
HMAC keys and signing keys as they are in the Secrets at that moment.
"""

import json
import random
import secrets
import ssl
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from joserfc import jwk, jwt

from examples.demo import stranger
from examples.shop.run.bed import Bed
from examples.shop.run.customers import reason
from serviceidentity_sdk.requests.signature import sign

Files = Mapping[str, bytes]
NO_CONNECTION: Final = "no connection"
REPLAYED: Final = "401 Request replayed"
_TIMEOUT: Final = 20.0  # seconds
_TOO_OLD: Final = 360_000  # milliseconds


@dataclass(frozen=True)
class Attempt:
    """What somebody tried, what has to come of it, and what did: `401 Invalid token`, or no connection."""

    what: str
    expected: str
    answer: str

    @property
    def as_expected(self) -> bool:
        """Whether it was refused, for the right reason."""
        return self.answer.startswith(self.expected)

    @property
    def accepted(self) -> bool:
        """Whether it was let in."""
        return self.answer.startswith("2")


def signed(service: str, key: str, body: bytes = b"", *, ahead_ms: int | None = None) -> dict[str, str]:
    """Return the headers of a signed request; the key is in hex as it is in the Secret.

    It is of some seconds from now, which verifiers bear: who has the key signs in none of those milliseconds yet, and
    the request is not taken for a copy.
    """
    at = str(int(time.time() * 1000) + (random.randint(20_000, 80_000) if ahead_ms is None else ahead_ms))
    signature = sign(bytes.fromhex(key), service, at, body or b"{}")
    return {"X-Service-ID": service, "X-Timestamp": at, "X-Signature": signature}


class Thief:
    """Somebody who has read the Secrets of storefront and order-service, and one customer's token."""

    def __init__(self, bed: Bed, token: str) -> None:
        self._bed = bed
        self.token = token
        self.roots = bed.files("storefront-tls")["ca.crt"].decode()
        self.storefront, self.order = bed.files("storefront-tls"), bed.files("order-service-tls")
        self.inventory = bed.files("inventory-service-tls")
        self.storefront_key = bed.files("storefront-hmac")["key"].decode()
        self.order_key = bed.files("order-service-hmac")["key"].decode()
        self.jwt = json.loads(bed.files("order-service-jwt")["key.jwk"])
        self.expired = ""

    def send(
        self,
        service: str,
        certificate: Files | None,
        headers: Mapping[str, str],
        method: str = "GET",
        path: str = "/orders/00000000-0000-4000-8000-000000000000",
        body: bytes = b"",
    ) -> str:
        """Send one request on a connection of its own; return its status and reason."""
        context = ssl.create_default_context(cadata=self.roots)
        context.check_hostname = False
        if certificate is not None:
            with tempfile.TemporaryDirectory() as directory:
                for name in ("tls.crt", "tls.key"):
                    (Path(directory) / name).write_bytes(certificate[name])
                context.load_cert_chain(Path(directory) / "tls.crt", Path(directory) / "tls.key")
        address = self._bed.address(service)
        more = {"content-type": "application/json"} if body else {}
        with httpx.Client(verify=context, trust_env=False, timeout=_TIMEOUT) as http:
            try:
                answer = http.request(method, f"https://{address}{path}", headers={**headers, **more}, content=body)
            except httpx.TransportError as error:
                return f"{NO_CONNECTION}: {_words(error)}"
        return f"{answer.status_code} {reason(answer)}".strip()

    def attempts(self) -> Iterator[Attempt]:
        """Try everything once."""
        yield from self._without_rights()
        yield from self._signatures()
        yield from self._tokens()

    def _without_rights(self) -> Iterator[Attempt]:
        good = self._good()
        other = stranger.files("storefront", "spiffe://shop.example/ns/shop/sa/storefront")
        yield Attempt("no certificate", "401 Client certificate required", self.send("order-service", None, good))
        yield Attempt(
            "storefront's names, certificate of another CA", NO_CONNECTION, self.send("order-service", other, good)
        )
        yield Attempt(
            "inventory-service's certificate",
            "403 Caller not allowed",
            self.send("order-service", self.inventory, good),
        )
        yield Attempt(
            "storefront's certificate at payment-service",
            "403 Caller not allowed",
            self.send("payment-service", self.storefront, good, "POST", "/payments"),
        )

    def _signatures(self) -> Iterator[Attempt]:
        bearer = _bearer(self.token)

        def at_order(what: str, expected: str, headers: Mapping[str, str]) -> Attempt:
            return Attempt(what, expected, self.send("order-service", self.storefront, {**headers, **bearer}))

        yield at_order("unsigned", "401 Missing service authentication", {})
        forged = signed("storefront", secrets.token_hex(32))
        yield at_order("signed with a key of one's own", "401 Invalid signature", forged)
        old = signed("storefront", self.storefront_key, ahead_ms=-_TOO_OLD)
        yield at_order("signed six minutes ago", "401 Request expired", old)
        yield at_order("signed as nobody knows whom", "401 Unknown service", signed("nobody", self.storefront_key))
        again = signed("storefront", self.storefront_key)
        self.send("order-service", self.storefront, {**again, **bearer})
        yield at_order("the same signature again", REPLAYED, again)

    def _tokens(self) -> Iterator[Attempt]:
        keys = json.dumps({"keys": [{name: self.jwt[name] for name in ("kty", "crv", "x", "y", "kid")}]}).encode()
        own = self._own_token(["payments:create", "payments:unlimited"])
        cases = [
            ("no token", "401 Missing authorization header", ""),
            ("token without a signature (alg none)", "401 Invalid token", stranger.unsigned(self.token)),
            ("public key as an HMAC secret", "401 Invalid token", stranger.confused(self.token, keys)),
            ("token for payment-service, at order-service", "401 Invalid token", own),
        ]
        if self.expired:
            cases.append(("token of before", "401", self.expired))
        for what, expected, token in cases:
            headers = signed("storefront", self.storefront_key) | (_bearer(token) if token else {})
            yield Attempt(what, expected, self.send("order-service", self.storefront, headers))
        body = json.dumps(
            {"order": str(uuid.uuid4()), "customer": "alice", "amount": 1}, separators=(",", ":")
        ).encode()
        for what, expected, token in (
            ("a customer's token at payment-service", "401 Invalid token", self.token),
            ("order-service's token, but nobody acts in it", "403 only order-service pays", own),
        ):
            headers = signed("order-service", self.order_key, body) | _bearer(token)
            answer = self.send("payment-service", self.order, headers, "POST", "/payments", body)
            yield Attempt(what, expected, answer)

    def _good(self) -> dict[str, str]:
        return signed("storefront", self.storefront_key) | _bearer(self.token)

    def _own_token(self, permissions: list[str]) -> str:
        """Sign a token with the stolen key of order-service, for payment-service."""
        now = int(time.time())
        claims: dict[str, Any] = {"iss": "order-service", "sub": "alice", "aud": "payment-service"}
        claims |= {"iat": now, "nbf": now, "exp": now + 10, "jti": uuid.uuid4().hex, "permissions": permissions}
        header = {"alg": self.jwt["alg"], "kid": self.jwt["kid"]}
        return jwt.encode(header, claims, jwk.import_key(self.jwt), algorithms=[self.jwt["alg"]])


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _words(error: Exception) -> str:
    """Return OpenSSL's words for it, if there are any."""
    text = str(error)
    return text.partition("] ")[2].partition(" (_ssl")[0] or text or type(error).__name__
