"""Tokens (JWT, RFC 7519): verifying, signing, and taking them along to the next service (`exchange`)."""

from serviceidentity_sdk.jwt.claims import DEFAULT_AUDIENCE, DEFAULT_ISSUER
from serviceidentity_sdk.jwt.errors import ExchangeError, Refusal, TokenError, UnavailableError
from serviceidentity_sdk.jwt.jose import Algorithm, Key, KeySet, read_key_set
from serviceidentity_sdk.jwt.jwks import MountedKeys, RemoteKeys, read_jwks
from serviceidentity_sdk.jwt.middleware import BearerMiddleware, current_token
from serviceidentity_sdk.jwt.signer import TokenSigner, read_token_key
from serviceidentity_sdk.jwt.verifier import KeySource, Revocations, TokenVerifier, Verified
from serviceidentity_sdk.source import Fixed, Source

__all__ = [
    "DEFAULT_AUDIENCE",
    "DEFAULT_ISSUER",
    "Algorithm",
    "BearerMiddleware",
    "ExchangeError",
    "Fixed",
    "Key",
    "KeySet",
    "KeySource",
    "MountedKeys",
    "Refusal",
    "RemoteKeys",
    "Revocations",
    "Source",
    "TokenError",
    "TokenSigner",
    "TokenVerifier",
    "UnavailableError",
    "Verified",
    "current_token",
    "read_jwks",
    "read_key_set",
    "read_token_key",
]
