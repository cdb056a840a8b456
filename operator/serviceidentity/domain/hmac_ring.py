"""HMAC keys as a ring of keys (domain/key_ring.py): how one is made, identified, written and read."""

import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final

from serviceidentity.domain import key_ring
from serviceidentity.domain.key_ring import KeyState, Ring, RingKey
from serviceidentity.domain.material import KeyMaterial, MalformedError
from serviceidentity.domain.schedule import format_time, parse_time

KEY_BYTES: Final = 32
_CHECK_LABEL: Final = b"serviceidentity.dev/key-id/v1"


def key_id(material: KeyMaterial) -> str:
    """Return a key's ID: 64 bits of HMAC-SHA256 over a fixed label under the key itself, in hex.

    A key check value: it says nothing about a random 256-bit key, and a Secret whose key was edited no longer matches
    its ID, even for an operator that has just started and remembers nothing.
    """
    return hmac.digest(material.reveal(), _CHECK_LABEL, "sha256")[:8].hex()


def make() -> tuple[str, KeyMaterial]:
    """Make a key from the system's random source; return its ID and itself."""
    material = KeyMaterial(secrets.token_bytes(KEY_BYTES))
    return key_id(material), material


def to_jwk(key: RingKey) -> dict[str, str]:
    """One key as a JWK (RFC 7518 6.4) with our members for its state and deadlines; this holds the key itself."""
    jwk = {
        "kid": key.key_id,
        "kty": "oct",
        "alg": "HS256",
        "k": urlsafe_b64encode(key.material.reveal()).rstrip(b"=").decode(),
        "state": key.state.value,
        "changed": format_time(key.changed),
    }
    return jwk | ({"until": format_time(key.until)} if key.until else {})


def _from_jwk(jwk: Mapping[str, Any]) -> RingKey:
    raw = jwk["k"]
    material = KeyMaterial(urlsafe_b64decode(raw + "=" * (-len(raw) % 4)))
    if len(material.reveal()) != KEY_BYTES or not hmac.compare_digest(key_id(material), jwk["kid"]):
        raise MalformedError("a key does not match its ID")
    until = parse_time(jwk["until"]) if "until" in jwk else None
    return RingKey(jwk["kid"], material, KeyState(jwk["state"]), parse_time(jwk["changed"]), until)


def to_json(ring: Ring) -> bytes:
    """Write a ring as a JWK Set (RFC 7517 5)."""
    return json.dumps({"keys": [to_jwk(key) for key in ring.keys]}, separators=(",", ":")).encode()


def from_json(text: bytes) -> Ring:
    """Read what `to_json` wrote. Raises MalformedError on anything else, including a key that is not its ID's."""
    try:
        keys = tuple(_from_jwk(jwk) for jwk in json.loads(text)["keys"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MalformedError("the keys are not a JWK Set of this operator") from None
    return key_ring.checked(keys)
