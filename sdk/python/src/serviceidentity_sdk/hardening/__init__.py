"""Hardening: validation, bounds, sanitising, rate limits, security headers, answers to faults. Each is one line.

The counts in Redis are in `serviceidentity_sdk.hardening.redis`, which needs the extra `redis`.
"""

from serviceidentity_sdk.hardening.bodies import BodyLimit
from serviceidentity_sdk.hardening.clients import by_address, by_principal
from serviceidentity_sdk.hardening.faults import Faults
from serviceidentity_sdk.hardening.headers import CSP_API, CSP_PAGES, HSTS, SecurityHeaders
from serviceidentity_sdk.hardening.limits import API, LOGIN, Away, AwayError, Counts, Limit, MemoryCounts, Take
from serviceidentity_sdk.hardening.ratelimit import Attempt, LimitedError, Limiter, RateLimit
from serviceidentity_sdk.hardening.sanitising import PlainText, RichText, sanitise, sanitise_html, sanitise_text
from serviceidentity_sdk.hardening.validation import (
    InvalidRequestError,
    body_of,
    query_of,
    validate,
    validation_errors,
)

__all__ = [
    "API",
    "CSP_API",
    "CSP_PAGES",
    "HSTS",
    "LOGIN",
    "Attempt",
    "Away",
    "AwayError",
    "BodyLimit",
    "Counts",
    "Faults",
    "InvalidRequestError",
    "Limit",
    "LimitedError",
    "Limiter",
    "MemoryCounts",
    "PlainText",
    "RateLimit",
    "RichText",
    "SecurityHeaders",
    "Take",
    "body_of",
    "by_address",
    "by_principal",
    "query_of",
    "sanitise",
    "sanitise_html",
    "sanitise_text",
    "validate",
    "validation_errors",
]
