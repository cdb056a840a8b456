"""Tokens: one that order-service signs itself, one that the operator signs for it. A JOSE library verifies both."""

import http.client
import json
import socket
import ssl
import time
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

from joserfc import jwk, jwt
from joserfc.errors import JoseError

from examples.demo import stranger
from examples.demo.screen import Screen
from examples.demo.shop import Shop, reached_after
from tests.controlplane.binaries import ROOT

ISSUER: Final = "https://serviceidentity-jwks.serviceidentity-system.svc/default"
DISCOVERY: Final = f"{ISSUER}/.well-known/openid-configuration"
OWN, MINTED = "order-service-jwt", "order-service-payments-token"
PAYMENTS: Final = {"name": "payments", "audiences": ["payment-service"]}


class Verifier:
    """What payment-service insists on: a key of the issuer's, one algorithm, and the claims."""

    def __init__(self, keys: bytes, issuer: str, audience: str = "payment-service") -> None:
        self._keys = jwk.KeySet.import_key_set(json.loads(keys))
        self._claims = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
        )

    def verdict(self, token: str) -> str:
        """Return from whom a token is, or why it is refused."""
        try:
            claims = jwt.decode(token, self._keys, algorithms=["ES256"]).claims
            self._claims.validate(claims)
        except JoseError as error:
            return f"{type(error).__name__}: {error.description}"
        return f"from {claims['sub']}"


def tokens(shop: Shop, screen: Screen) -> None:
    """Both kinds of token, and what is refused."""
    shop.plane.kubectl("apply", f"--filename={ROOT / 'deploy/jwks/service-identity.yaml'}")
    shop.patch("order-service", {"jwt": {"tokens": [PAYMENTS]}})
    reached_after(lambda: shop.files_or_none(MINTED) is not None)
    shop.kubectl("wait", "--for=condition=Ready", "sid/order-service", "--timeout=15s")
    signed(shop, screen)
    minted(shop, screen)


def sign(key: bytes, issuer: str = "order-service") -> str:
    """Sign a token as order-service does, with `key.jwk` of its Secret."""
    own, now = json.loads(key), int(time.time())
    claims = {"iss": issuer, "sub": "order-service", "aud": "payment-service", "iat": now, "exp": now + 300}
    return jwt.encode({"alg": own["alg"], "kid": own["kid"]}, claims, jwk.import_key(own), algorithms=[own["alg"]])


def signed(shop: Shop, screen: Screen) -> None:
    """A token of order-service's own key; payment-service has the public half from the ConfigMap."""
    token, keys = sign(shop.files(OWN)["key.jwk"]), shop.public_keys("order-service")
    right, other = (Verifier(keys, "order-service", audience) for audience in ("payment-service", "inventory-service"))
    cases = (
        ("signed by order-service: accepted", right, token, "from order-service"),
        ("for somebody else: refused", other, token, "InvalidClaimError"),
        ("alg none: refused", right, stranger.unsigned(token), "UnsupportedAlgorithmError"),
        ("public key as HMAC secret: refused", right, stranger.confused(token, keys), "UnsupportedAlgorithmError"),
    )
    for what, verifier, given, expected in cases:
        answer = verifier.verdict(given)
        screen.step(what, answer.startswith(expected), answer)


def minted(shop: Shop, screen: Screen) -> None:
    """A token that the operator signs; payment-service knows nothing but the issuer's URL and the trust bundle."""
    roots = shop.files("payment-service-tls")["ca.crt"].decode()
    took = reached_after(lambda: fetched(shop.port, DISCOVERY, roots) is not None)
    served = json.loads(fetched(shop.port, DISCOVERY, roots) or b"{}")
    screen.step("keys are served with the operator's own certificate", took is not None, served.get("jwks_uri", ""))

    def verdict(token: str) -> str:
        return Verifier(fetched(shop.port, served["jwks_uri"], roots) or b"", ISSUER).verdict(token)

    token, own = shop.files(MINTED)["token"].decode(), sign(shop.files(OWN)["key.jwk"], ISSUER)
    for what, given, expected in (
        ("signed by the operator: accepted, by the URL", token, "from shop/order-service"),
        ("signed by order-service as the issuer: refused", own, "InvalidKeyIdError"),
    ):
        answer = verdict(given)
        screen.step(what, answer.startswith(expected), answer)
    shop.plane.kubectl("annotate", "td", "default", "serviceidentity.dev/revoke-jwt=demo")
    changed = reached_after(lambda: verdict(token).startswith("InvalidKeyIdError"))
    screen.step("its key revoked: refused", changed is not None, verdict(token))
    renewed = reached_after(lambda: verdict(shop.files(MINTED)["token"].decode()) == "from shop/order-service")
    detail = (
        "never" if changed is None or renewed is None else f"{changed + renewed:.1f} s after kubectl annotate returned"
    )
    screen.step("its successor: accepted", renewed is not None, detail)


def fetched(port: int, url: str, roots: str) -> bytes | None:
    """Return what the operator answers at a URL, verified as a Pod does; None while it does not serve that.

    There is no cluster DNS here: its name is found at `port` of this machine.
    """
    name, path = urlsplit(url).hostname, urlsplit(url).path
    context = ssl.create_default_context(cadata=roots)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname=name)
        with closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.read() if answer.status == http.client.OK else None
    except (OSError, http.client.HTTPException):
        return None
