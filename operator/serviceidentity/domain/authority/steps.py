"""What can be done next for the authorities of a trust domain."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from serviceidentity.domain.authority.records import Role
from serviceidentity.domain.material import Held

if TYPE_CHECKING:
    from serviceidentity.domain.authority.sources import Source


@dataclass(frozen=True, slots=True)
class MakeAuthority:
    """Make an authority and store it under `secret_name`; `signer` names the Secret of the root that signs it."""

    role: Role
    generation: int
    secret_name: str
    reason: str
    message: str
    signer: str | None = None
    activate: bool = False


@dataclass(frozen=True, slots=True)
class ImportAuthority:
    """Copy an authority that was not made here, or the root above it, into a Secret of our own."""

    source: "Source"
    role: Role
    generation: int
    secret_name: str
    reason: str
    message: str
    signer: str | None = None
    activate: bool = False


@dataclass(frozen=True, slots=True)
class MarkAuthority:
    """Write down that an authority has reached a point of its life: `annotation` gets the time."""

    secret_name: str
    annotation: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RetireAuthority:
    """Delete an authority that nothing in use depends on any more."""

    secret_name: str
    reason: str
    message: str


Step = MakeAuthority | ImportAuthority | MarkAuthority | RetireAuthority
Verdict = Step | Held
