"""What every credential is: content of one Secret, with a reason to write it and a deadline to look again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from serviceidentity.domain.authority import Trust
from serviceidentity.domain.credentials.leaf import Leaf, Order
from serviceidentity.domain.encryption.opening import Opened
from serviceidentity.domain.jwt.issuer import TokenIssuer
from serviceidentity.domain.key_ring import Ring
from serviceidentity.domain.material import Held, SecretContent, SecretView
from serviceidentity.domain.model import Identity, Key, SecretTemplate
from serviceidentity.domain.policy.checks import Denial
from serviceidentity.domain.vault.views import Answer, VaultOrder, VaultView


class Reason(StrEnum):
    """Stable reasons, in conditions and Events. cert-manager's names where it has one."""

    DOES_NOT_EXIST = "DoesNotExist"
    MISSING_DATA = "MissingData"
    INVALID_KEY_PAIR = "InvalidKeyPair"
    SECRET_MISMATCH = "SecretMismatch"  # noqa: S105  # not a password
    INCORRECT_ISSUER = "IncorrectIssuer"
    ISSUER_TAINTED = "IssuerTainted"
    REQUEST_CHANGED = "RequestChanged"
    ROTATION_REQUESTED = "RotationRequested"
    REVOKED = "Revoked"
    EXPIRED = "Expired"
    RENEWING = "Renewing"
    ROTATING = "Rotating"
    TRUST_BUNDLE_CHANGED = "TrustBundleChanged"
    OUTPUT_CHANGED = "OutputChanged"
    CALLERS_CHANGED = "CallersChanged"
    VALUES_CHANGED = "ValuesChanged"
    METADATA_CHANGED = "MetadataChanged"
    DRIFTED = "Drifted"
    NOT_REQUESTED = "NotRequested"
    CONFLICT = "Conflict"
    ISSUED = "Issued"
    READY = "Ready"
    SUSPENDED = "Suspended"
    INVALID_SPEC = "InvalidSpec"
    SOURCE_CHANGED = "SourceChanged"
    LEASE_LOST = "LeaseLost"
    LEASE_ENDING = "LeaseEnding"


@dataclass(frozen=True, slots=True)
class Due:
    """A Secret has to be written, and why. `fresh` means with new key material, not only in a new form.

    `routine` is what happens to every token every few minutes: nobody is told.
    """

    reason: Reason
    message: str
    fresh: bool = True
    routine: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """An identity that named this service as a verifier and that this service admits, with the keys it has."""

    key: Key
    service_id: str
    spiffe_id: str
    ring: Ring | None


NO_VALUES: Final = Opened({})
NO_ISSUER: Final = Held("TokenIssuerNotReady", "the trust domain can't sign tokens yet")


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that decisions about one identity depend on, besides the time.

    `contents` is what each Secret should still hold: as remembered from the last good look, else as found. Those in
    `known_good` were written or examined by this process. `found` is what is there, and `drifted` says how that
    differs from `contents`.
    `published` says since when each consenting verifier's keyring has which key. `revoked` has the certificates of the
    trust domain that are revoked: fingerprint of the issuer ("" when that is not known) and serial number. `denied`
    says of what nothing new may be issued, and why. `vault` has what is known of each of the identity's secrets of
    Vault, by name. `decrypted` are the values of `spec.encrypted`, or why there are none. `token_issuer` signs the
    tokens of the trust domain, unless it says why nobody does. `jwks` has the identity's own ConfigMaps as they are, by
    name.
    """

    identity: Identity
    trust: Trust | Held
    contents: Mapping[str, SecretView] = field(default_factory=dict)
    known_good: frozenset[str] = frozenset()
    found: Mapping[str, SecretView] = field(default_factory=dict)
    drifted: Mapping[str, str] = field(default_factory=dict)
    callers: tuple[Caller, ...] = ()
    published: Mapping[Key, Mapping[str, datetime]] = field(default_factory=dict)
    revoked: frozenset[tuple[str, str]] = frozenset()
    denied: tuple[Denial, ...] = ()
    vault: Mapping[str, VaultView] = field(default_factory=dict)
    decrypted: Opened | Held = NO_VALUES
    token_issuer: TokenIssuer | Held = NO_ISSUER
    jwks: Mapping[str, SecretView] = field(default_factory=dict)

    def denial_of(self, credential: str) -> Denial | None:
        """Return why nothing new may be issued of the credential, which the policy is about."""
        return next((denial for denial in self.denied if denial.concerns(credential)), None)


Check = Callable[[Observed, SecretView, datetime], Due | None]


def first_due(checks: tuple[Check, ...], seen: Observed, view: SecretView, now: datetime) -> Due | None:
    """Return the first verdict of a chain of checks."""
    return next((verdict for check in checks if (verdict := check(seen, view, now)) is not None), None)


Made = Leaf | Answer


class Credential(Protocol):
    """One kind of credential. Everything here is pure but `order` and `render`, which draw random numbers."""

    name: str
    condition: str
    status_field: str
    listed: bool  # there may be several under the same field of the status
    governed: bool  # by the policy of the trust domain

    def requested(self, identity: Identity) -> bool:
        """Say whether the identity asks for it."""
        ...

    def secret_name(self, identity: Identity) -> str:
        """Name of its Secret."""
        ...

    def template(self, identity: Identity) -> SecretTemplate:
        """Return the labels and annotations that the user wants on its Secret."""
        ...

    def decide(self, seen: Observed, now: datetime) -> Due | Held | None:
        """Say whether its Secret has to be written now, can't be, or is as it should be."""
        ...

    def meanwhile(self, seen: Observed, now: datetime) -> Due | None:
        """Return what can be done for it all the same while it has to wait."""
        ...

    def order(self, seen: Observed, due: Due, now: datetime) -> Order | VaultOrder | None:
        """Return what others have to do before the content can be made; None when it can be made here."""
        ...

    def render(
        self, seen: Observed, due: Due, now: datetime, password: bytes | None, made: Made | None = None
    ) -> SecretContent:
        """Make the content to write; `made` is what came of the order."""
        ...

    def consumed(self, content: SecretContent | SecretView) -> object:
        """Return what a running service has read of it and has to read anew when that is no longer equal."""
        ...

    def deadline(self, seen: Observed, now: datetime) -> datetime | None:
        """When it needs attention next, if nothing changes before."""
        ...

    def ends(self, seen: Observed) -> datetime | None:
        """When what is there stops being of use by itself; None when it does not."""
        ...

    def report(self, seen: Observed, now: datetime) -> dict[str, Any]:
        """Return its part of the status. No key material."""
        ...

    def summary(self, seen: Observed, now: datetime) -> str:
        """One line about what is there, for conditions and Events. No key material."""
        ...


class MadeHere:
    """A credential that needs nobody else: its content is made here, at once or not at all."""

    def meanwhile(self, seen: Observed, now: datetime) -> Due | None:
        """Nothing is done for it while it has to wait."""
        return None

    def order(self, seen: Observed, due: Due, now: datetime) -> Order | None:
        """Nothing has to be had from others."""
        return None
