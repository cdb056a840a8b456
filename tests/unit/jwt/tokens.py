"""Keys and tokens for tests, good ones and forged ones."""

import json
from base64 import urlsafe_b64encode
from functools import cache
from typing import Any

from serviceidentity.domain.jwt import jose
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.material import KeyMaterial


@cache
def _made(algorithm: Algorithm, number: int) -> tuple[str, KeyMaterial]:
    return jose.make_key(algorithm)


def key(algorithm: Algorithm, number: int = 0) -> tuple[str, KeyMaterial]:
    """The same key for the same number, for the whole run."""
    return _made(algorithm, number)


def public(algorithm: Algorithm, number: int = 0) -> dict[str, Any]:
    return jose.public_jwk(key(algorithm, number)[1])


def b64(data: bytes | str | dict | list) -> str:
    raw = data if isinstance(data, bytes) else data.encode() if isinstance(data, str) else json.dumps(data).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(claims: dict[str, Any], algorithm: Algorithm = Algorithm.ES256, number: int = 0, **header: Any) -> str:
    """A token with a right signature over any header."""
    key_id, material = key(algorithm, number)
    if not header:
        return jose.sign(claims, *jose.load_private(material), key_id)
    return signed_text(json.dumps({"alg": algorithm.value, "kid": key_id} | header), json.dumps(claims), algorithm)


def signed_text(header: str, payload: str | bytes, algorithm: Algorithm = Algorithm.ES256) -> str:
    """A token over any texts, with a right signature."""
    private, _ = jose.load_private(key(algorithm)[1])
    content = f"{b64(header)}.{b64(payload)}"
    signer = jose.jws.JWSRegistry.algorithms[algorithm.value]
    return f"{content}.{b64(signer.sign(content.encode(), private))}"
