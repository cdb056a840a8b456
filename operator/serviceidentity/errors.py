"""What can go wrong, said in terms of what to do next.

Adapters translate every third-party exception into one of these at their edge. A message is fixed text chosen here or
by the adapter: it never echoes what a server answered, so it can go into a status or an Event as it is.
"""


class ServiceIdentityError(Exception):
    """Base of everything the operator raises on purpose."""


class InvalidSpecError(ServiceIdentityError):
    """A user's object says something that can't be done, at `path`; only a change of the object helps."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class PortError(ServiceIdentityError):
    """A server did not do what was asked of it."""


class RetryableError(PortError):
    """It may work in a moment: time-out, connection lost, 429, 5xx."""


class UnansweredError(RetryableError):
    """Nobody waits for the answer any more, and the server may still be at it."""


class RejectedError(PortError):
    """The server understood and refused (403, 422): trying again soon won't help."""


class ForbiddenError(RejectedError):
    """The server does not let the operator do that (403): a right is missing, or an admission policy refused."""


class ConflictError(PortError):
    """The object is not in the state that the write expected (409): observe again, then decide again."""


class AlreadyExistsError(ConflictError):
    """The object to create is already there."""


class MissingError(PortError):
    """The object (or its namespace) is not there (404)."""


class SettingsError(PortError):
    """What the operator was started with can't be used (a file, an address, a key): only a change of it helps."""
