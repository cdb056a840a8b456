"""Accounts: their names, and what a token says about them."""

import re
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from auth_service.errors import RejectedError

NAME: Final = r"^[A-Za-z0-9._@+-]{1,254}$"
SHORTEST_PASSWORD: Final = 15  # characters; NIST SP 800-63B-4, 3.1.1.2, where there is no second factor
LONGEST_PASSWORD: Final = 1024


@dataclass(frozen=True, slots=True)
class Account:
    """A user as stored, with the permissions of all its roles."""

    id: UUID
    name: str
    password_hash: str = field(repr=False)
    disabled: bool
    roles: frozenset[str]
    permissions: frozenset[str]


def normalised(name: str) -> str:
    """Return a name as it is stored and counted: names that differ in case are one account."""
    return name.lower()


def check_new(name: str, password: str) -> None:
    """Raise RejectedError for a name or a password that an account can't have."""
    if not re.fullmatch(NAME, name):
        raise RejectedError("a name has 1 to 254 letters, digits and any of . _ @ + -")
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise RejectedError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
