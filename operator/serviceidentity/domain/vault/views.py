"""What is known of the secrets that an identity asks of Vault, as far as decisions about them depend on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from serviceidentity.domain.material import Held
from serviceidentity.domain.vault.spec import VaultSecretSpec, VaultSpec

if TYPE_CHECKING:
    from serviceidentity.domain.credentials.remote_leaf import LeafRequest
    from serviceidentity.domain.pki.keys import PrivateKey


@dataclass(frozen=True, slots=True)
class Reading:
    """What is under a path that is only read: a KV secret, the password of a static role. Values are JSON."""

    values: Mapping[str, Any] = field(repr=False)
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it was last granted: for `duration`, counted from `granted`, which is before Vault was asked.

    `first` is what was granted when it began; `lost` says why it is no more, and `trouble` why it could not be looked
    after when it was to be.
    """

    lease_id: str
    issued: datetime
    granted: datetime
    duration: timedelta
    first: timedelta
    renewable: bool
    lost: str | None = None
    trouble: Held | None = None

    @property
    def ends(self) -> datetime:
        """When the credentials stop working, if it is not renewed."""
        return self.granted + self.duration


@dataclass(frozen=True, slots=True)
class Open:
    """Vault may be asked for the secret; there is nothing to be known of it beforehand."""


# Held: Vault can't be asked now, or not by this identity; for a lease also that nothing is known of it.
VaultView = Reading | Lease | Open | Held


@dataclass(frozen=True, slots=True)
class VaultOrder:
    """What Vault is to make: for a certificate with its request and its key, which stays here."""

    vault: VaultSpec
    secret: VaultSecretSpec
    request: "LeafRequest | None" = None
    key: "PrivateKey | None" = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What Vault made: the fields of its answer, with the lease that it has and the name of that lease's record.

    What has no lease has the time it was made, and a certificate its key.
    """

    values: Mapping[str, Any] = field(repr=False)
    lease: Lease | None = None
    record: str = ""
    key: "PrivateKey | None" = field(default=None, repr=False)
    made: datetime | None = None
