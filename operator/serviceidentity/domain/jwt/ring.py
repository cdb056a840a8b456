"""Signing keys as a ring of keys (domain/key_ring.py): how they are written and read, and their public JWK Set."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Final

from serviceidentity.domain import key_ring
from serviceidentity.domain.jwt import jose
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.key_ring import KeyState, Make, Ring, RingKey
from serviceidentity.domain.material import KeyMaterial, MalformedError
from serviceidentity.domain.schedule import format_time, parse_time

LONGEST: Final = 128 * 1024  # in bytes; MOST_KEYS of the longest keys take half of that
_LONGEST_KEY: Final = 2048  # in bytes; a private RSA key of 2048 bits takes 1.7 KB. Larger ones take long to check


def maker(algorithm: Algorithm) -> Make:
    """Return what makes keys of this algorithm for a ring."""
    return partial(jose.make_key, algorithm)


def algorithm_of(key: RingKey) -> Algorithm:
    """Return the algorithm that a key of a ring signs with."""
    return Algorithm(json.loads(key.material.reveal())["alg"])


def to_json(ring: Ring) -> bytes:
    """Write a ring as a JWK Set (RFC 7517 5) with its private keys, and our members for their states and deadlines."""
    return json.dumps({"keys": [_to_jwk(key) for key in ring.keys]}, separators=(",", ":")).encode()


def from_json(text: bytes, *, public: bool = False) -> Ring:
    """Read what `to_json` wrote; with `public`, the public halves alone.

    Raises MalformedError on anything else, including a key that is not its ID's. Who may edit a Secret in his namespace
    writes what is read here: how much work and memory that costs is limited before it is done.
    """
    if len(text) > LONGEST:
        raise MalformedError(f"the keys are longer than {LONGEST} bytes")
    try:
        given = _counted(json.loads(text)["keys"])
        keys = tuple(_from_jwk(jwk, _check_public if public else _check) for jwk in given)
    except MalformedError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MalformedError("the keys are not a JWK Set of this operator") from None
    return key_ring.checked(keys)


def public(ring: Ring) -> Ring:
    """Return the ring of the public halves: it signs nothing, and holds no secret."""
    halves = ((key, json.dumps(jose.public_jwk(key.material), separators=(",", ":"))) for key in ring.keys)
    return Ring(tuple(replace(key, material=KeyMaterial(half.encode())) for key, half in halves))


def jwks(ring: Ring) -> bytes:
    """Return the public JWK Set of a ring: every key of it, in whichever state. The same bytes for the same keys."""
    keys = sorted((jose.public_jwk(key.material) for key in ring.keys), key=lambda jwk: jwk["kid"])
    return (json.dumps({"keys": keys}, indent=2) + "\n").encode()


def _counted(jwks: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if len(jwks) > key_ring.MOST_KEYS or len({jwk["kid"] for jwk in jwks}) < len(jwks):
        raise MalformedError(f"there are more than {key_ring.MOST_KEYS} keys, or one of them is there twice")
    return jwks


def _to_jwk(key: RingKey) -> dict[str, Any]:
    jwk = {**json.loads(key.material.reveal()), "state": key.state.value, "changed": format_time(key.changed)}
    return jwk | ({"until": format_time(key.until)} if key.until else {})


def _from_jwk(jwk: Mapping[str, Any], check: Callable[[KeyMaterial], None]) -> RingKey:
    half = {name: value for name, value in jwk.items() if name in jose.MEMBERS}
    text = json.dumps(half, separators=(",", ":"), sort_keys=True).encode()
    if len(text) > _LONGEST_KEY:
        raise MalformedError("a key is larger than those of this operator")
    material = KeyMaterial(text)
    check(material)
    until = parse_time(jwk["until"]) if "until" in jwk else None
    return RingKey(jwk["kid"], material, KeyState(jwk["state"]), parse_time(jwk["changed"]), until)


@lru_cache(maxsize=4096)  # checking a private RSA key takes 30 ms; a ring is read at each look at its identity
def _check(material: KeyMaterial) -> None:
    jose.load_private(material)


@lru_cache(maxsize=4096)
def _check_public(material: KeyMaterial) -> None:
    jwk = json.loads(material.reveal())
    if jose.read_public(jwk)[0].thumbprint() != jwk["kid"]:
        raise MalformedError("a key does not match its ID")
