"""Signed requests between services: X-Service-ID, X-Timestamp, X-Signature; or RFC 9421 (`message_signatures`)."""

from serviceidentity_sdk.requests.authenticator import Accepted, Authenticator, Received, ServiceAuthenticator
from serviceidentity_sdk.requests.errors import Refusal, RefusedError, ReplayUnavailableError
from serviceidentity_sdk.requests.keys import Caller, HmacKey, Keyring, read_keyring, read_signing_key
from serviceidentity_sdk.requests.middleware import SignedRequestMiddleware
from serviceidentity_sdk.requests.replay import MemoryReplayCache, ReplayCache
from serviceidentity_sdk.requests.signature import WINDOW_MS, EmptyBody
from serviceidentity_sdk.requests.signer import ServiceSigner, UnsignableError
from serviceidentity_sdk.source import Fixed, Source

__all__ = [
    "WINDOW_MS",
    "Accepted",
    "Authenticator",
    "Caller",
    "EmptyBody",
    "Fixed",
    "HmacKey",
    "Keyring",
    "MemoryReplayCache",
    "Received",
    "Refusal",
    "RefusedError",
    "ReplayCache",
    "ReplayUnavailableError",
    "ServiceAuthenticator",
    "ServiceSigner",
    "SignedRequestMiddleware",
    "Source",
    "UnsignableError",
    "read_keyring",
    "read_signing_key",
]
