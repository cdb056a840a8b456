"""What can go wrong, as far as callers are told. No text quotes a secret, a token or another server."""

from collections.abc import Mapping
from typing import Any


class ShopError(Exception):
    """Anything that the shop raises itself."""


class SettingsError(ShopError):
    """Environment variables are missing or wrong; the text names them."""


class UnavailableError(ShopError):
    """The next service or the database does not answer as it should: 503, try again in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: str = "1") -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RefusedError(ShopError):
    """The answer is no, and whoever asked gets to know why: status, JSON body and headers."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(body.get("error", "refused")))
        self.status = status
        self.body = body
        self.headers = dict(headers or {})
