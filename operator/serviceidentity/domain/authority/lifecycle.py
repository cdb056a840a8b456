"""The life of authorities: Prepared -> Active -> Retiring -> gone, and the way out for one that is tainted.

A root is *Prepared* while it is in every trust bundle and signs nothing. It becomes *Active* when everyone has had it
for the propagation time, so nobody ever meets a certificate whose root is new to them. The one before is *Retiring*
until the last certificate under it has ended. Intermediates go the same way. Every step is one write to one Secret,
decided from what the Secrets say, so a step that was lost is taken by whoever looks next.

`plan(seen, now)` gives the one next step. Each check below is one reason to take one.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from serviceidentity.domain.authority.hierarchy import (
    BROUGHT_LEAD,
    Hierarchy,
    in_time,
    propagation_of,
    renewal_of,
    state_of,
)
from serviceidentity.domain.authority.imports import (
    import_step,
    intermediate_elsewhere_changed,
    root_elsewhere_changed,
)
from serviceidentity.domain.authority.records import (
    ACTIVATED_ANNOTATION,
    AUTHORITY_MISSING,
    AUTHORITY_UNREADABLE,
    PUBLISHED_ANNOTATION,
    UNUSED_ANNOTATION,
    Authority,
    AuthorityState,
    Locked,
    Role,
    authority_name,
    made_for,
    newest,
)
from serviceidentity.domain.authority.signing import (
    ACTIVATE_ANNOTATION,
    ACTIVATE_SEEN_ANNOTATION,
    ROTATIONS,
    validity_of,
)
from serviceidentity.domain.authority.sources import Source, imported_role
from serviceidentity.domain.authority.steps import MakeAuthority, MarkAuthority, RetireAuthority, Verdict
from serviceidentity.domain.authority.upstream import Upstream
from serviceidentity.domain.material import Held
from serviceidentity.domain.schedule import upcoming


def made_for_another(seen: Hierarchy, _now: datetime) -> Verdict | None:
    """A Secret left by a TrustDomain of the same name that had another SPIFFE trust domain: never signed with."""
    for authority in seen.authorities:
        other = made_for(authority.view, seen.domain)
        if other != seen.domain.trust_domain:
            return Held("Conflict", f"Secret {authority.view.name} was made for trust domain {other}")
    return None


def root_lost(seen: Hierarchy, _now: datetime) -> Verdict | None:
    """A root that was there is gone. A new one would be a CA that nobody trusts yet: that is for people to decide."""
    lost = seen.recorded - {authority.view.name for authority in seen.authorities}
    if lost:
        return Held(AUTHORITY_MISSING, f"Secret {min(lost)} is gone; put it back, or make the TrustDomain anew")
    return None


def key_unreadable(seen: Hierarchy, now: datetime) -> Verdict | None:
    """A key that signs or will sign is encrypted and can't be read. Another authority in its place is no answer.

    One that signs nothing any more holds nothing up, and neither does a tainted one: that is the way out for people
    who have lost a key-encryption key for good.
    """
    for authority in seen.authorities:
        needed = state_of(seen, authority, now) in (AuthorityState.PREPARED, AuthorityState.ACTIVE)
        if needed and isinstance(authority.key, Locked):
            return Held(AUTHORITY_UNREADABLE, f"the key in Secret {authority.view.name}: {authority.key.message}")
    return None


def root_missing(seen: Hierarchy, now: datetime) -> Verdict | None:
    """There is nothing to trust yet; or nothing that was ever used, nor can be."""
    if not seen.of(Role.ROOT) and seen.is_elsewhere(Role.ROOT):
        return import_step(seen, Role.ROOT, "the trust domain has no root yet", activate=True)
    if not seen.of(Role.ROOT):
        return _make(seen, Role.ROOT, "DoesNotExist", "the trust domain has no root yet", activate=True)
    latest = newest(seen.authorities, Role.ROOT)
    if latest is not None and seen.active(Role.ROOT) is None and seen.prepared(Role.ROOT, now) is None:
        return MarkAuthority(latest.view.name, ACTIVATED_ANNOTATION, "Activated", "there is no other root")
    return None


def root_needs_successor(seen: Hierarchy, now: datetime) -> Verdict | None:
    """The active root is over, not to be trusted, or due; or a new one was asked for."""
    active = seen.active(Role.ROOT)
    if active is None or seen.prepared(Role.ROOT, now) is not None or seen.is_elsewhere(Role.ROOT):
        return None
    reasons = (
        (now >= active.not_after, "Expired", f"root {active.view.name} has expired"),
        (seen.is_tainted(active), "Tainted", f"root {active.view.name} is tainted"),
        (active.imported_from is not None, "SourceChanged", "roots are made here from now on"),
        (_asked_for(seen, Role.ROOT), "RotationRequested", "rotation asked for by annotation"),
    )
    for applies, reason, message in reasons:
        if applies:
            return _make(seen, Role.ROOT, reason, message)
    outlives = validity_of(seen.domain.root, seen.domain, None, now).not_after > active.not_after
    if now >= renewal_of(seen.domain, active) and outlives:
        return _make(seen, Role.ROOT, "Renewing", f"the renewal time of root {active.view.name} has passed")
    return None


def prepared_root_signs_its_intermediate(seen: Hierarchy, now: datetime) -> Verdict | None:
    """A prepared root's only signature: so that both become active together."""
    root = seen.prepared(Role.ROOT, now)
    if root is None or not seen.can_sign(root, now):
        return None
    active = seen.active(Role.INTERMEDIATE)
    if any(root.signed(a) and (a.activated_at is None or a == active) for a in seen.of(Role.INTERMEDIATE)):
        return None
    return _make(seen, Role.INTERMEDIATE, "RootPrepared", f"for root {root.view.name}", signer=root)


def prepared_root_is_published(seen: Hierarchy, now: datetime) -> Verdict | None:
    """Everyone has it: from now on the propagation time runs."""
    root = seen.prepared(Role.ROOT, now)
    if root is None or _has_been(root.published_at, now) or not seen.usage.published:
        return None
    return MarkAuthority(root.view.name, PUBLISHED_ANNOTATION, "Published", "everyone who gets the bundle has it")


def prepared_root_is_propagated(seen: Hierarchy, now: datetime) -> Verdict | None:
    """Everyone has had it for long enough; or the one before can't be used anyway."""
    root = seen.prepared(Role.ROOT, now)
    due = activation_of(seen, root, now) if root is not None else None
    if root is None or due is None or now < due:
        return None
    if not any(root.signed(a) for a in seen.of(Role.INTERMEDIATE)):
        return None  # it would have nobody to sign with
    return MarkAuthority(root.view.name, ACTIVATED_ANNOTATION, "Activated", "it has been published for its time")


def activation_of(seen: Hierarchy, authority: Authority, now: datetime) -> datetime | None:
    """When a prepared authority becomes active; None while that depends on others having its root."""
    root = seen.root_of(authority)
    if root is not None and seen.waits(root):
        return activation_of(seen, root, now)  # they become active together
    if root is None and not _has_been(authority.published_at, now):
        return None
    return max(_propagated(seen, authority, now), authority.not_before)


def _propagated(seen: Hierarchy, authority: Authority, now: datetime) -> datetime:
    if _activation_asked_for(seen, authority) or not seen.is_usable(seen.active(authority.role), now):
        return now
    if authority.role is Role.ROOT:
        return (authority.published_at or now) + propagation_of(seen.domain, authority)
    due = authority.prepared_at + propagation_of(seen.domain, authority)
    active = seen.active(Role.INTERMEDIATE)
    cut = active.not_after - seen.domain.max_leaf_duration if active else due
    return max(min(due, cut), authority.prepared_at)  # from `cut` on, waiting would only make leaves shorter


def intermediate_missing(seen: Hierarchy, now: datetime) -> Verdict | None:
    """The active root has none that may sign, now or later."""
    root, active = seen.active(Role.ROOT), seen.active(Role.INTERMEDIATE)
    if root is None or not seen.is_usable(root, now) or _under(seen, root, now):
        return None
    if not seen.can_sign(root, now):
        return None  # people have to bring it along
    reason = "DoesNotExist" if active is None else "IncorrectIssuer"
    message = f"root {root.view.name} has no intermediate that may sign"
    activate = not seen.is_usable(active, now)
    return _make(seen, Role.INTERMEDIATE, reason, message, root, activate=activate)


def intermediate_is_propagated(seen: Hierarchy, now: datetime) -> Verdict | None:
    """A prepared one has waited long enough; or its root became active, and it goes along."""
    root, active = seen.active(Role.ROOT), seen.active(Role.INTERMEDIATE)
    if root is None or not seen.is_usable(root, now):
        return None
    waiting = [a for a in _under(seen, root, now) if a.activated_at is None]
    if not waiting:
        return None
    latest, another_root = waiting[-1], active is None or not root.signed(active)
    due = activation_of(seen, latest, now)
    if another_root or (due is not None and now >= due):
        return MarkAuthority(latest.view.name, ACTIVATED_ANNOTATION, "Activated", f"under {root.view.name}")
    return None


def intermediate_needs_successor(seen: Hierarchy, now: datetime) -> Verdict | None:
    """The newest one is due; or a new one was asked for."""
    root = seen.active(Role.ROOT)
    under = _under(seen, root, now) if root is not None and seen.is_usable(root, now) else []
    if root is None or not under or under[-1].activated_at is None:
        return None
    if not seen.can_sign(root, now):
        return None
    latest = under[-1]
    if latest.imported_from is not None:
        return _make(seen, Role.INTERMEDIATE, "SourceChanged", "intermediates are made here from now on", root)
    if _asked_for(seen, Role.INTERMEDIATE):
        return _make(seen, Role.INTERMEDIATE, "RotationRequested", "rotation asked for by annotation", root)
    if now >= renewal_of(seen.domain, latest) and _would_outlive(seen, root, latest, now):
        message = f"the renewal time of {latest.view.name} has passed"
        return _make(seen, Role.INTERMEDIATE, "Renewing", message, root)
    return None


def _would_outlive(seen: Hierarchy, root: Authority, latest: Authority, now: datetime) -> bool:
    """Say whether an intermediate made now would live longer than the latest, so that making it is of any use."""
    ends = validity_of(seen.domain.intermediate, seen.domain, root, now).not_after
    if isinstance(seen.source, Upstream):
        # Whoever signs elsewhere has its own clock and its own limits: it has to be worth the while.
        lifetime: timedelta = latest.not_after - latest.not_before
        ends = min(ends, seen.source.signs_until) - lifetime / 10
    return ends > latest.not_after


def tainted_is_unused(seen: Hierarchy, now: datetime) -> Verdict | None:
    """The last certificate under a tainted authority was replaced: from now on Pods have time to notice."""
    for authority in _replaced(seen, now):
        if authority.role is Role.ROOT or not seen.is_tainted(authority) or authority.activated_at is None:
            continue
        if not _has_been(authority.unused_since, now) and not _in_use(seen, authority):
            return MarkAuthority(authority.view.name, UNUSED_ANNOTATION, "Unused", "nothing it signed is in use")
    return None


def finished(seen: Hierarchy, now: datetime) -> Verdict | None:
    """Nothing that is in use depends on it any more."""
    for authority in _replaced(seen, now):
        if authority.view.name in seen.recorded:
            continue  # the status still says that it is active; gone, it would be taken for lost
        if now >= retirement_of(seen, authority, now):
            return RetireAuthority(authority.view.name, "Retired", "nothing it signed is in use")
    return None


def retirement_of(seen: Hierarchy, authority: Authority, now: datetime) -> datetime:
    """When a replaced authority goes, as far as that is known now."""
    if authority.role is Role.ROOT:
        below = [
            retirement_of(seen, item, now) for item in seen.of(Role.INTERMEDIATE) if seen.root_of(item) == authority
        ]
        return min(authority.not_after, max(below, default=now))
    if authority.activated_at is None:
        return min(authority.not_after, seen.usage.leaves.get(authority.fingerprint, now))  # as a rule it never signed
    if seen.is_tainted(authority):
        if authority.unused_since is None or _in_use(seen, authority):
            return authority.not_after
        return min(authority.not_after, authority.unused_since + propagation_of(seen.domain, authority))
    return _superseded_end(seen, authority)


def _superseded_end(seen: Hierarchy, authority: Authority) -> datetime:
    """When the last certificate ends that an intermediate signed before another one took its place."""
    later = [a for a in seen.of(authority.role) if a.activated_at and seen.order(a) > seen.order(authority)]
    if not later:
        return authority.not_after  # it signs
    superseded = min(_took_over(seen, a) for a in later)
    if any(a.fingerprint == authority.fingerprint for a in later):
        return superseded  # another copy of the same authority, as when only the chain above it was renewed
    last_leaf = seen.usage.leaves.get(authority.fingerprint, superseded)
    # What is known to be in use, and what may be: nothing it signed before it was superseded lives longer.
    return min(authority.not_after, max(superseded + seen.domain.max_leaf_duration, last_leaf))


def _took_over(seen: Hierarchy, authority: Authority) -> datetime:
    """When an authority came to sign: it was activated, and so was the root above it."""
    root = seen.root_of(authority)
    times = [authority.activated_at, root.activated_at if root else None]
    return max((at for at in times if at is not None), default=authority.prepared_at)


def _replaced(seen: Hierarchy, now: datetime) -> list[Authority]:
    """Return the authorities that sign nothing any more and never will; intermediates first."""
    kept = [seen.active(role) for role in Role] + [seen.prepared(Role.ROOT, now)]
    roots = [root for root in kept if root is not None and root.role is Role.ROOT]
    waiting = [a for root in roots for a in _under(seen, root, now) if a.activated_at is None]
    ordered = [*seen.of(Role.INTERMEDIATE), *seen.of(Role.ROOT)]
    return [a for a in ordered if a not in kept and a not in waiting]


def _under(seen: Hierarchy, root: Authority, now: datetime) -> list[Authority]:
    """Return the root's intermediates that sign or may sign some day, oldest first; a retiring one never will."""
    able = [a for a in seen.of(Role.INTERMEDIATE) if root.signed(a) and now < a.not_after and not seen.is_tainted(a)]
    active = seen.active(Role.INTERMEDIATE)
    return [a for a in able if a == active or (seen.waits(a) and in_time(a, now))]


def _has_been(at: datetime | None, now: datetime) -> bool:
    """Say whether something is on record that has really been: a time to come was written by a clock that was ahead."""
    return at is not None and at <= now


def _in_use(seen: Hierarchy, authority: Authority) -> bool:
    return authority.fingerprint in seen.usage.leaves


def _make(
    seen: Hierarchy, role: Role, reason: str, message: str, signer: Authority | None = None, *, activate: bool = False
) -> MakeAuthority:
    latest = newest(seen.authorities, role)
    generation = latest.generation + 1 if latest else 1
    name = authority_name(seen.domain.meta.name, role, generation)
    return MakeAuthority(role, generation, name, reason, message, signer.view.name if signer else None, activate)


def renewal_is_due(seen: Hierarchy, now: datetime) -> datetime | None:
    """Return when the authority that is kept elsewhere ends, if it has to be renewed there by now."""
    if isinstance(seen.source, Upstream):
        path = seen.source.path
        lead = min((path.not_after - path.not_before) / 3, BROUGHT_LEAD)
        return path.not_after if now >= path.not_after - lead else None
    for latest in _newest_brought(seen):
        if isinstance(seen.source, Source) and seen.source.is_copied_to(latest):
            return latest.not_after if now >= renewal_of(seen.domain, latest) else None
    return None


def _newest_brought(seen: Hierarchy) -> list[Authority]:
    """Return the copy of what was brought along last, or of the authority that signs elsewhere."""
    role = imported_role(seen.domain)
    latest = None if role is None else newest(seen.authorities, role)
    return [] if latest is None or latest.imported_from is None else [latest]


def rotation_asked_for(seen: Hierarchy, role: Role) -> bool:
    """Say whether a rotation was asked for that only people can serve."""
    return seen.is_elsewhere(role) and _asked_for(seen, role)


def _asked_for(seen: Hierarchy, role: Role) -> bool:
    """Say whether the rotate annotation has a value that the newest authority of the role was not made for."""
    asked, served = ROTATIONS[role]
    latest, wanted = newest(seen.authorities, role), seen.domain.meta.annotations.get(asked)
    return latest is not None and wanted is not None and wanted != latest.view.annotations.get(served)


def _activation_asked_for(seen: Hierarchy, authority: Authority) -> bool:
    """Say whether the activate annotation got its value after the authority was made."""
    wanted = seen.domain.meta.annotations.get(ACTIVATE_ANNOTATION)
    return wanted is not None and wanted != authority.view.annotations.get(ACTIVATE_SEEN_ANNOTATION)


CHECKS: Final[tuple[Callable[[Hierarchy, datetime], Verdict | None], ...]] = (
    made_for_another,
    root_lost,
    key_unreadable,
    root_missing,
    root_elsewhere_changed,
    intermediate_elsewhere_changed,
    root_needs_successor,
    prepared_root_signs_its_intermediate,
    prepared_root_is_published,
    prepared_root_is_propagated,
    intermediate_missing,
    intermediate_is_propagated,
    intermediate_needs_successor,
    tainted_is_unused,
    finished,
)


def plan(seen: Hierarchy, now: datetime) -> Verdict | None:
    """Return the one next thing to do for a trust domain's authorities, or None."""
    return next((verdict for check in CHECKS if (verdict := check(seen, now)) is not None), None)


def deadline(seen: Hierarchy, now: datetime) -> datetime | None:
    """When the trust domain needs attention next, if nothing changes before."""
    due: list[datetime | None] = []
    for active in filter(None, map(seen.active, Role)):
        due += [active.not_before, renewal_of(seen.domain, active), active.not_after]
    for waiting in filter(seen.waits, seen.authorities):
        due += [activation_of(seen, waiting, now), waiting.not_after]
    due += [retirement_of(seen, authority, now) for authority in _replaced(seen, now)]
    due += [renewal_of(seen.domain, brought) for brought in _newest_brought(seen)]
    return upcoming(now, *due)


def last_use(seen: Hierarchy, now: datetime) -> datetime | None:
    """When the last certificate under a tainted authority ends, if it is not replaced before: the first of these."""
    tainted = (authority.fingerprint for authority in seen.authorities if seen.is_tainted(authority))
    return upcoming(now, *(seen.usage.leaves.get(fingerprint) for fingerprint in tainted))
