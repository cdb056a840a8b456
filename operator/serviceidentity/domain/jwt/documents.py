"""What verifiers read at a URL: JWK Sets (RFC 7517), OpenID Connect discovery, and SPIFFE bundles.

Each document is a function of the keys, byte for byte, so that its hash is its ETag.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final

from cryptography import x509

from serviceidentity.domain.bundle.assembly import spiffe_bundle
from serviceidentity.domain.jwt import jose
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.material import MalformedError

Json = Mapping[str, Any]

JWKS_KEY: Final = "jwks.json"
LONGEST_SET: Final = 64 * 1024  # in bytes
LONGEST_AGE: Final = timedelta(minutes=5)
CLAIMS: Final = ("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "permissions", "roles")


@lru_cache(maxsize=1024)  # checking keys takes longer than everything else about an answer
def read_jwks(text: bytes) -> tuple[Json, ...]:
    """Read a published JWK Set: public keys for signatures, each with its ID. Raises MalformedError on anything else.

    A set with one wrong key is not served in part: a verifier would refuse tokens that it should take. One in a
    namespace may have been edited there: what is kept of it is small.
    """
    if len(text) > LONGEST_SET:
        raise MalformedError(f"it is longer than {LONGEST_SET} bytes")
    try:
        keys = json.loads(text)["keys"]
        return tuple(_checked(key) for key in keys)
    except MalformedError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MalformedError("it is not a JWK Set") from None


def jwks(keys: Iterable[Json]) -> bytes:
    """Write a JWK Set."""
    return _text({"keys": [dict(key) for key in keys]})


def issuer_of(issuer: str | None, base_url: str, name: str) -> str:
    """Return the `iss` of a trust domain's tokens: the one that its spec names, else the operator's address for it."""
    return issuer or f"{base_url.rstrip('/')}/{name}"


def discovery(issuer: str, keys: Iterable[Json]) -> bytes:
    """Return the OpenID Connect Discovery 1.0 document of an issuer, as far as an issuer of service tokens has one.

    Like the API server's own: nobody logs in here, so there are no endpoints but the keys.
    """
    algorithms = sorted({_algorithm(key) for key in keys})
    return _text(
        {
            "issuer": issuer,
            "jwks_uri": f"{issuer}/jwks.json",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
            "claims_supported": list(CLAIMS),
        }
    )


def bundle(roots: Iterable[x509.Certificate], keys: Iterable[Json], sequence: int | None, refresh: int) -> bytes:
    """Return the SPIFFE bundle of a trust domain: its roots, and the keys of its tokens as jwt-svid keys.

    SPIFFE Trust Domain and Bundle 4.2: a jwt-svid key has a kid; alg may be left out, and readers ignore it.
    `sequence` None says that nobody counts the bundle's states; the parameter is left out then, which 4.1.1 allows.
    """
    document = json.loads(spiffe_bundle(roots, sequence or 0, refresh))
    if sequence is None:
        del document["spiffe_sequence"]
    document["keys"] += [{**key, "use": "jwt-svid"} for key in keys]
    return _text(document)


def etag(body: bytes) -> str:
    """Return a strong entity tag (RFC 9110 8.8.3)."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def is_known(tag: str, if_none_match: str | None) -> bool:
    """Say whether a request's If-None-Match names the tag, by weak comparison (RFC 9110 13.1.2)."""
    given = {one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")}
    return bool(tag) and bool({tag, "*"} & given)


def max_age(cache_time: timedelta) -> int:
    """Return for how many seconds a copy may be used: never longer than a next key is published before its use."""
    return max(1, int(min(LONGEST_AGE, cache_time).total_seconds()))


def _checked(key: Json) -> Json:
    jose.read_public(key)
    if not isinstance(key.get("kid"), str):
        raise MalformedError("a published key has no ID")
    return jose.published_members(key)


def _algorithm(key: Json) -> Algorithm:
    return jose.read_public(key)[1]


def _text(document: Json) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()
