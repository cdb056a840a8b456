"""Why a token is refused."""

from enum import StrEnum


class Refusal(StrEnum):
    """The answers to a request without an accepted token: the `error` of a 401."""

    MISSING = "Missing authorization header"
    EXPIRED = "Token expired"
    REVOKED = "Token revoked"
    INVALID = "Invalid token"


class TokenError(Exception):
    """The token is not accepted. Its text is the refusal and quotes nothing of the token; `detail` is for the log."""

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
        self.detail = detail


class UnavailableError(Exception):
    """Nobody can say now whether a token is good: no signing keys, or no answer about its revocation."""


class ExchangeError(Exception):
    """A token was not exchanged. `code` is the error code of RFC 6749 5.2 or RFC 8693 2.2.2, where there is one."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code
