"""Importing authorities that were not made here: when there is another one, and what that step is."""

from datetime import datetime

from serviceidentity.domain.authority.hierarchy import Hierarchy
from serviceidentity.domain.authority.records import Role, authority_name, newest
from serviceidentity.domain.authority.sources import Source
from serviceidentity.domain.authority.steps import ImportAuthority, Verdict
from serviceidentity.domain.material import Held


def import_step(seen: Hierarchy, role: Role, message: str, *, activate: bool = False) -> Verdict:
    """Return the step that copies what was brought along, or why that can't be done."""
    if not isinstance(seen.source, Source):
        return seen.source or Held("NotRead", "the authority that is kept elsewhere has not been read yet")
    latest = newest(seen.authorities, role)
    generation = latest.generation + 1 if latest else 1
    name = authority_name(seen.domain.meta.name, role, generation)
    root = newest(seen.authorities, Role.ROOT) if role is Role.INTERMEDIATE else None
    signer = root.view.name if root else None
    return ImportAuthority(seen.source, role, generation, name, "Imported", message, signer, activate)


def root_elsewhere_changed(seen: Hierarchy, _now: datetime) -> Verdict | None:
    """There is another root, or one of the same key with other dates: it is published first, as any."""
    source = seen.source
    if not isinstance(source, Source) or source.is_copied_to(newest(seen.authorities, Role.ROOT)):
        return None
    return import_step(seen, Role.ROOT, f"{source.title} has another root")


def intermediate_elsewhere_changed(seen: Hierarchy, now: datetime) -> Verdict | None:
    """There is another intermediate where they come from; its root is here by now."""
    brought, active = seen.source, seen.active(Role.INTERMEDIATE)
    if not isinstance(brought, Source) or not brought.has_intermediate:
        return None
    if brought.is_copied_to(newest(seen.authorities, Role.INTERMEDIATE)):
        return None
    root = seen.active(Role.ROOT)
    can_sign = root is not None and root.certificate == brought.root and seen.is_usable(root, now)
    message = f"{brought.title} has another intermediate"
    return import_step(seen, Role.INTERMEDIATE, message, activate=can_sign and not seen.is_usable(active, now))
