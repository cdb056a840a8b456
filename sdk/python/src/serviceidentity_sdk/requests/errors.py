"""Why a signed request is refused."""

from enum import StrEnum


class Refusal(StrEnum):
    """The answers to a request whose signature is not accepted: the `error` of a 401."""

    MISSING = "Missing service authentication"
    EXPIRED = "Request expired"
    UNKNOWN = "Unknown service"
    INVALID = "Invalid signature"
    REPLAYED = "Request replayed"


class RefusedError(Exception):
    """The request is not accepted. Its text is the refusal, and quotes nothing of the request."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


class ReplayUnavailableError(Exception):
    """Nobody can say now whether a request was seen before, so it is not accepted; the caller may try again."""
