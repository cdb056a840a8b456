"""When an authority issues a new revocation list, and what is on it (RFC 5280 section 5).

A trust domain has lists as soon as its spec asks for them or something is revoked, and from then on for good: whoever
checks lists refuses every certificate whose authority has none. So every authority that is trusted has one: a prepared
one before it signs its first certificate, a tainted one for as long as it is in the bundle. Signing a list gives nobody
any trust; certificates are signed by usable authorities only.

`plan(seen, now)` gives everything that is to be done. Each check below is one reason to issue an authority's list anew.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from serviceidentity.domain.authority.crl_records import Crl, Revocation, crl_name, write_crl
from serviceidentity.domain.authority.hierarchy import Hierarchy
from serviceidentity.domain.authority.lifecycle import made_for_another, retirement_of
from serviceidentity.domain.authority.records import AUTHORITY_UNREADABLE, Authority, Locked, Role
from serviceidentity.domain.material import Held, SecretContent
from serviceidentity.domain.model import TrustDomain
from serviceidentity.domain.pki.crl import serial_of
from serviceidentity.domain.schedule import renewal_time, upcoming

# As many fit, several times, into the ConfigMap that lists are published in. What identities ask for stops here, so
# that nobody who may annotate one can make the list of all too large to be written. The spec's are always listed.
MOST_ENTRIES: Final = 4000


@dataclass(frozen=True, slots=True)
class Lists:
    """Everything that decisions about a trust domain's lists depend on, besides the time.

    `found` has the current lists by the name of their authority's Secret, `broken` the names of those that can't be
    read. `asked` is what has to be on a list. `recorded` is what the status says of an authority's list, by the
    authority's fingerprint: its number, and how many certificates are on it.
    """

    hierarchy: Hierarchy
    found: Mapping[str, Crl] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    asked: tuple[Revocation, ...] = ()
    recorded: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IssueCrl:
    """Sign a list with `entries`, by serial number. `added` says how many of them are new."""

    authority: Authority
    secret_name: str
    number: int
    entries: Mapping[str, Revocation]
    reason: str
    message: str
    added: int = 0
    incomplete: bool = False


@dataclass(frozen=True, slots=True)
class RemoveCrl:
    """Delete a list whose authority is gone, and that counts no more."""

    secret_name: str
    reason: str
    message: str


CrlStep = IssueCrl | RemoveCrl


def issues_lists(seen: Hierarchy, authority: Authority, now: datetime) -> bool:
    """Say whether the authority has a list here: while it lives and its root is in the trust bundle.

    One whose key is elsewhere has its list there.
    """
    if not authority.key_is_here:
        return False
    root = authority if authority.role is Role.ROOT else seen.root_of(authority)
    if root is None or not authority.not_before <= now < min(authority.not_after, root.not_after):
        return False
    return not seen.domain.tainted.get(root.fingerprint, False)


def refresh_of(domain: TrustDomain, crl: Crl) -> datetime:
    """When the list is followed by another one: renewBefore before its end, spread by jitter that is only earlier."""
    return renewal_time(crl.issued_at, crl.next_update, domain.crl.renew_before, f"{crl.view.name}/{crl.number}")


def revoked_authorities(seen: Hierarchy, now: datetime) -> tuple[Revocation, ...]:
    """Return the intermediates that go on the list of their root: tainted ones, at once or when they are removed.

    One whose root is tainted as well is left out: the root leaves the bundle, and its list with it.
    """
    found = []
    for authority in seen.of(Role.INTERMEDIATE):
        root, tainted = seen.root_of(authority), seen.domain.tainted.get(authority.fingerprint)
        if root is None or tainted is None or root.fingerprint in seen.domain.tainted or now >= authority.not_after:
            continue
        if tainted or now >= retirement_of(seen, authority, now):
            found.append(Revocation(_serial(authority), now, "cACompromise", root.fingerprint, authority.not_after))
    return tuple(found)


def has_lists(seen: Lists, now: datetime) -> bool:
    """Say whether the trust domain has revocation lists: asked for, or begun earlier, or needed now."""
    begun = seen.found or seen.broken or seen.recorded
    return bool(seen.hierarchy.domain.crl.always or begun or seen.asked or revoked_authorities(seen.hierarchy, now))


@dataclass(frozen=True, slots=True)
class Case:
    """One authority's list as it is (None: not there, or not readable), and the entries that it should have now."""

    domain: TrustDomain
    authority: Authority
    crl: Crl | None
    recorded_number: int
    entries: Mapping[str, Revocation]
    now: datetime


Why = tuple[str, str]


def missing(case: Case) -> Why | None:
    """There is none, or none that can be read."""
    return ("DoesNotExist", "there is no readable list") if case.crl is None else None


def out_of_date(case: Case) -> Why | None:
    """A later one has been issued: this is an old copy."""
    if case.crl is not None and case.crl.number < case.recorded_number:
        return ("OutOfDate", f"the list is number {case.crl.number}, number {case.recorded_number} was issued")
    return None


def revoked(case: Case) -> Why | None:
    """A certificate is revoked and not on it yet."""
    new = _added(case)
    return ("Revoked", f"{new} more") if new else None


def taken_back(case: Case) -> Why | None:
    """An intermediate on it is not tainted any more."""
    listed = case.crl.entries if case.crl is not None else {}
    gone = [serial for serial in listed if serial not in case.entries and not _is_over(listed[serial], case.crl)]
    return ("TakenBack", f"{len(gone)} fewer") if gone else None


def duration_changed(case: Case) -> Why | None:
    """The spec asks for lists that are valid for longer, or less long."""
    if case.crl is not None and case.crl.next_update - case.crl.issued_at != case.domain.crl.duration:
        return ("DurationChanged", "spec.crl.duration changed")
    return None


def from_the_future(case: Case) -> Why | None:
    """It was issued while the clock was ahead: nobody accepts it yet."""
    return ("NotYetValid", "thisUpdate is to come") if case.crl and case.now < case.crl.this_update else None


def ends_soon(case: Case) -> Why | None:
    """Its time to be followed by another one has come."""
    due = case.crl is not None and case.now >= refresh_of(case.domain, case.crl)
    return ("Renewing", "the time to issue the next one has passed") if due else None


CHECKS: Final[tuple[Callable[[Case], Why | None], ...]] = (
    missing,
    out_of_date,
    revoked,
    taken_back,
    duration_changed,
    from_the_future,
    ends_soon,
)


def plan(seen: Lists, now: datetime) -> tuple[CrlStep, ...]:
    """Return what to do now for the lists of a trust domain; empty when all is as it should be, or has to wait."""
    if made_for_another(seen.hierarchy, now) is not None or not has_lists(seen, now):
        return ()
    issued = (step for step in _due(seen, now) if not isinstance(step.authority.key, Locked))
    return (*issued, *_removals(seen, now))


def waiting(seen: Lists, now: datetime) -> Held | None:
    """Say which list is due and waits for its authority's key, which can't be read now; the others do not wait."""
    if made_for_another(seen.hierarchy, now) is not None or not has_lists(seen, now):
        return None
    for step in _due(seen, now):
        if isinstance(step.authority.key, Locked):
            name, why = step.authority.view.name, step.authority.key.message
            return Held(AUTHORITY_UNREADABLE, f"a list is due, and the key in Secret {name} can't be read: {why}")
    return None


def unlisted(seen: Lists, now: datetime) -> bool:
    """Say whether an intermediate that belongs on the list of its root is not on it yet."""
    for entry in revoked_authorities(seen.hierarchy, now):
        for root in seen.hierarchy.of(Role.ROOT):
            if root.fingerprint != entry.issuer or not issues_lists(seen.hierarchy, root, now):
                continue
            crl = seen.found.get(root.view.name)
            if crl is None or entry.serial_number not in crl.entries:
                return True
    return False


def _due(seen: Lists, now: datetime) -> list[IssueCrl]:
    authorities = sorted(seen.hierarchy.authorities, key=lambda a: (a.role is not Role.ROOT, a.generation))
    issued = (_issue(seen, a, now) for a in authorities if issues_lists(seen.hierarchy, a, now))
    return [step for step in issued if step is not None]


def deadline(seen: Lists, now: datetime) -> datetime | None:
    """When one of the lists needs attention next, if nothing changes before."""
    domain, authorities = seen.hierarchy.domain, {a.view.name: a for a in seen.hierarchy.authorities}
    due = []
    for name, crl in seen.found.items():
        authority = authorities.get(name)
        if authority is None:
            due.append(crl.next_update)
        elif issues_lists(seen.hierarchy, authority, now):
            due.append(refresh_of(domain, crl))
    return upcoming(now, *due)


def not_certificates(seen: Lists) -> list[str]:
    """Return the names of authorities that are not tainted, but asked to be revoked as if they were certificates."""
    asked = {entry.serial_number for entry in seen.asked}
    live = (a for a in seen.hierarchy.authorities if not seen.hierarchy.is_tainted(a))
    return sorted(a.view.name for a in live if _serial(a) in asked)


def issue(domain: TrustDomain, step: IssueCrl, now: datetime) -> SecretContent:
    """Sign the list that `step` names. Raises PkiError.

    thisUpdate is backdated for clocks that are behind. It may end after its authority: it is no certificate.
    """
    this_update = max(now - domain.backdate, step.authority.not_before)
    span = (now, this_update, now + domain.crl.duration)
    return write_crl(step.authority, step.number, step.entries, span, incomplete=step.incomplete)


def published(seen: Lists, now: datetime) -> bytes:
    """Return all lists that count, as one PEM text: of roots, then of intermediates; empty when there are none."""
    authorities = {a.view.name: a for a in seen.hierarchy.authorities}
    listed = []
    for name, crl in seen.found.items():
        authority = authorities.get(name)
        if authority is None:
            if now >= crl.next_update:
                continue
            rank = (2, 0)  # its authority is gone, what it signed may not be
        elif issues_lists(seen.hierarchy, authority, now):
            rank = (int(authority.role is not Role.ROOT), authority.generation)
        else:
            continue
        listed.append((rank, name, crl.pem))
    return b"".join(pem for _, _, pem in sorted(listed))


def _issue(seen: Lists, authority: Authority, now: datetime) -> IssueCrl | None:
    crl = seen.found.get(authority.view.name)
    number, count = seen.recorded.get(authority.fingerprint, (0, 0))
    entries = _entries(seen, authority, crl, now)
    case = Case(seen.hierarchy.domain, authority, crl, number, entries, now)
    why = next((why for check in CHECKS if (why := check(case)) is not None), None)
    if why is None:
        return None
    # RFC 5280 5.2.3: the number only ever grows. The status knows it even if the list was lost.
    number = max(number, crl.number if crl else 0) + 1
    lost = (crl is None or crl.number < number - 1) and count > len(entries)
    incomplete = lost or (crl is not None and crl.incomplete)
    return IssueCrl(authority, crl_name(authority.view.name), number, entries, *why, _added(case), incomplete)


def _entries(seen: Lists, authority: Authority, crl: Crl | None, now: datetime) -> dict[str, Revocation]:
    """Return what has to be on the authority's list. An entry that was there keeps its time and reason."""
    below: set[str] = set()
    tainted: list[Revocation] = []
    if authority.role is Role.ROOT:
        below = {_serial(a) for a in seen.hierarchy.of(Role.INTERMEDIATE)}
        tainted = [e for e in revoked_authorities(seen.hierarchy, now) if e.issuer == authority.fingerprint]
    # Of an authority that is still there, the spec's taintedAuthorities alone say whether it is revoked.
    known = below - {entry.serial_number for entry in tainted}
    asked = [entry for entry in seen.asked if _concerns(entry, authority) and entry.serial_number not in known]
    listed = crl.entries if crl is not None else {}
    entries = {serial: e for serial, e in listed.items() if serial not in known and not _is_over(e, crl)}
    for entry in (*asked, *tainted):
        if entry.not_after is not None and now >= entry.not_after:
            continue
        if entry.not_after is not None and entry.serial_number not in entries and len(entries) >= MOST_ENTRIES:
            continue
        before = entries.get(entry.serial_number, replace(entry, revoked_at=min(entry.revoked_at, now)))
        entries[entry.serial_number] = replace(before, not_after=before.not_after or entry.not_after)
    return entries


def _concerns(entry: Revocation, authority: Authority) -> bool:
    if entry.issuer is None:
        return authority.role is Role.INTERMEDIATE  # a service's certificate; which one signed it is not known
    return entry.issuer == authority.fingerprint


def _is_over(entry: Revocation, crl: Crl | None) -> bool:
    """Say whether an entry may go: the list that it is on was issued after the certificate's end (RFC 5280 3.3)."""
    return crl is not None and entry.not_after is not None and crl.this_update > entry.not_after


def _added(case: Case) -> int:
    return len(case.entries.keys() - (case.crl.entries.keys() if case.crl is not None else set()))


def _removals(seen: Lists, now: datetime) -> list[RemoveCrl]:
    there = {a.view.name for a in seen.hierarchy.authorities}
    if seen.hierarchy.recorded - there:
        return []  # an authority is lost, and may be put back
    over = [crl.view.name for name, crl in seen.found.items() if name not in there and now >= crl.next_update]
    broken = [crl_name(name) for name in seen.broken if name not in there]
    return [RemoveCrl(name, "Retired", "its authority is gone") for name in sorted([*over, *broken])]


def _serial(authority: Authority) -> str:
    return serial_of(f"{authority.certificate.serial_number:x}")
