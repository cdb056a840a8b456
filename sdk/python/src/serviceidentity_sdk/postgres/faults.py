"""What an error of PostgreSQL means for the work that met it. Codes: PostgreSQL's appendix A."""

from enum import Enum, auto
from typing import Final

_GONE: Final = frozenset({"25006", "25P03"})  # read-only after a failover; cut off for idling in a transaction
# A user that was dropped while it was connected: its rights are gone, and with them the sight of anything in a schema.
_RIGHTS: Final = frozenset({"42501", "42P01", "42883", "42704", "3F000"})
_COLLIDED: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_BUSY: Final = frozenset({"57014", "55P03"})  # statement_timeout, lock_timeout


class Fault(Enum):
    """What to do next."""

    LOST = auto()  # the connection is of no use: again with another
    RIGHTS = auto()  # the same; with the newest user it is the work that is wrong
    COLLIDED = auto()  # again, on any connection
    BUSY = auto()  # not now
    REFUSED = auto()  # never


def fault(sqlstate: str | None, *, operational: bool) -> Fault:
    """Judge an error by its SQLSTATE; without one, `operational` says whether the connection was the cause."""
    if sqlstate is None:
        return Fault.LOST if operational else Fault.REFUSED
    if sqlstate in _RIGHTS:
        return Fault.RIGHTS
    if sqlstate in _COLLIDED:
        return Fault.COLLIDED
    if sqlstate in _BUSY or sqlstate.startswith("53"):  # insufficient resources
        return Fault.BUSY
    return Fault.LOST if sqlstate in _GONE or sqlstate.startswith(("08", "57P")) else Fault.REFUSED
