"""What becomes of a lease: kept, kept for those who still use it, left to run out, or taken back. Pure.

A lease has a record. Whether it is still wanted follows from what there is: its identity, and what the Secrets of that
identity say about which lease is theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from serviceidentity.domain.material import SecretView
from serviceidentity.domain.model import Identity
from serviceidentity.domain.ownership import CREDENTIAL_LABEL
from serviceidentity.domain.vault.records import Bond, LeaseRecord, Replaced, bond_of, replaced_of
from serviceidentity.domain.vault.spec import LeaseSource

# So long another instance may need to read credentials and to store them. A token must not be revoked before: what a
# read under way brings would outlive it. Whoever needs longer makes sure afterwards.
GRACE: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Seen:
    """All that the decision depends on, besides the time.

    `served` says whether identities of that namespace are watched at all. `present` says whether the identity is there;
    `identity` is None also when it is being deleted or can't be understood. `secrets` are those that belong, or
    belonged, to it. `in_flight`: its credentials are being made or stored by this process right now. `first_seen` is
    when this process heard of the record.
    """

    record: LeaseRecord
    served: bool
    present: bool
    identity: Identity | None
    secrets: tuple[SecretView, ...]
    in_flight: bool
    first_seen: datetime


@dataclass(frozen=True, slots=True)
class Keep:
    """Whoever reconciles the identity looks after it. `until` is when to look again, if that is known."""

    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tend:
    """It is in use, and nobody else looks after it: the identity is being deleted, or is no longer understood."""

    bond: Bond


@dataclass(frozen=True, slots=True)
class Drain:
    """Another one took its place: it has to live until then, and no longer."""

    replaced: Replaced


@dataclass(frozen=True, slots=True)
class RunOut:
    """Its Secret was kept on purpose and nobody renews it: it lives as long as it does."""

    bond: Bond


@dataclass(frozen=True, slots=True)
class Revoke:
    """Nobody is to use it any more."""

    why: str


Verdict = Keep | Tend | Drain | RunOut | Revoke
Check = Callable[[Seen, datetime], Verdict | None]


def not_ours(seen: Seen, _now: datetime) -> Verdict | None:
    """Of namespaces that are not watched nothing is known: least of all that an identity is gone."""
    return None if seen.served else Keep()


def being_made(seen: Seen, _now: datetime) -> Verdict | None:
    """Whoever makes it wakes the record afterwards."""
    return Keep() if seen.in_flight else None


def owner_gone(seen: Seen, _now: datetime) -> Verdict | None:
    """With deletion policy Delete the Secret goes, and with it the right to use it; with Retain both run out."""
    if seen.present:
        return None
    for view in seen.secrets:
        bond = _named(seen, view)
        if bond is not None and not _goes_with_its_owner(view):
            return RunOut(bond)
    return Revoke("its identity was deleted")


def in_use(seen: Seen, _now: datetime) -> Verdict | None:
    """A Secret says that it is the one behind it."""
    for view in seen.secrets:
        bond = _named(seen, view)
        if bond is None:
            continue
        if seen.identity is None or seen.identity.vault is None:
            return None if seen.identity is not None else Tend(bond)
        entries = [secret for secret in seen.identity.vault.secrets if secret.secret_name == view.name]
        if any(isinstance(secret.source, LeaseSource) for secret in entries):
            return Keep()
        named = {f"vault.{secret.name}" for secret in seen.identity.vault.secrets}
        if entries or view.labels.get(CREDENTIAL_LABEL) in named:
            return Tend(bond)  # until what is asked for instead is there
    return None


def kept_on_purpose(seen: Seen, _now: datetime) -> Verdict | None:
    """The identity asks for it no longer, and the deletion policy says to leave the Secret."""
    for view in seen.secrets:
        bond = _named(seen, view)
        if bond is not None and not _goes_with_its_owner(view):
            return RunOut(bond)
    return None


def replaced(seen: Seen, now: datetime) -> Verdict | None:
    """Another one took its place: it lives on for as long as the entry's overlap was."""
    for view in seen.secrets:
        for one in replaced_of(view):
            if one.record == seen.record.name:
                return Drain(one) if one.until > now else Revoke("it was replaced, and the overlap is over")
    return None


def no_longer_wanted(seen: Seen, _now: datetime) -> Verdict | None:
    """The Secret is about to be removed, or is gone with the entry."""
    if seen.identity is None:
        return None
    entries = seen.identity.vault.secrets if seen.identity.vault is not None else ()
    if all(secret.name != seen.record.secret for secret in entries):
        return Revoke("the identity does not ask for it any more")
    return None


def too_young(seen: Seen, now: datetime) -> Verdict | None:
    """No Secret names it: it may be another instance that is about to store it, or to be heard of."""
    ends = seen.first_seen + GRACE
    return Keep(ends) if now < ends else None


CHECKS: Final[tuple[Check, ...]] = (
    not_ours,
    being_made,
    owner_gone,
    in_use,
    kept_on_purpose,
    replaced,
    no_longer_wanted,
    too_young,
)


def decide(seen: Seen, now: datetime) -> Verdict:
    """Return what becomes of a lease. One that no Secret names was never stored: whoever made it died before."""
    found = (verdict for check in CHECKS if (verdict := check(seen, now)) is not None)
    return next(found, Revoke("it was never stored, or its Secret is gone"))


def _named(seen: Seen, view: SecretView) -> Bond | None:
    bond = bond_of(view)
    return bond if bond is not None and bond.record == seen.record.name else None


def _goes_with_its_owner(view: SecretView) -> bool:
    """Say whether the garbage collector removes the Secret with its identity: deletion policy Delete."""
    return any(owner.get("controller") for owner in view.owners)
