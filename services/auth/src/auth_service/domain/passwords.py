"""Passwords as argon2id hashes (RFC 9106)."""

import secrets
from dataclasses import dataclass
from typing import Final

import argon2
from argon2.exceptions import InvalidHashError, VerificationError


@dataclass(frozen=True, slots=True)
class Cost:
    """What one hash costs: KiB of memory, passes over it, lanes."""

    memory: int = 19 * 1024
    passes: int = 2
    lanes: int = 1


OWASP: Final = Cost()  # Password Storage Cheat Sheet: m=19456, t=2, p=1


class Passwords:
    """Makes and verifies hashes of one cost. Each verification is one run of argon2, also without an account.

    The methods take tens of milliseconds and the cost's memory: call them in a thread, not too many at once.
    """

    def __init__(self, cost: Cost = OWASP) -> None:
        self._hasher = argon2.PasswordHasher(cost.passes, cost.memory, cost.lanes, type=argon2.Type.ID)
        self._nobody = self._hasher.hash(secrets.token_urlsafe(32))

    def hash(self, password: str) -> str:
        """Return the hash in PHC form, with a salt of its own."""
        return self._hasher.hash(password)

    def verify(self, stored: str | None, password: str) -> bool:
        """Say whether the password is the one of this hash. None, for an account that is not there, takes as long."""
        try:
            return self._hasher.verify(stored or self._nobody, password) and stored is not None
        except (VerificationError, InvalidHashError):
            return False

    def outdated(self, stored: str) -> bool:
        """Say whether a hash was made with another cost."""
        return self._hasher.check_needs_rehash(stored)
