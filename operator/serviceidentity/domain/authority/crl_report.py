"""What the status of a trust domain says of its revocation lists."""

from collections.abc import Mapping, Sequence
from typing import Any

from serviceidentity.domain.authority import crls, fingerprints
from serviceidentity.domain.authority.crls import Lists
from serviceidentity.domain.authority.records import Authority
from serviceidentity.domain.schedule import format_time

Json = dict[str, Any]


def entry(lists: Lists | None, authority: Authority, previous: Mapping[str, Any]) -> Json:
    """Return what is known of an authority's list; of one that was lost, what was known, so that its number goes on."""
    crl = lists.found.get(authority.view.name) if lists is not None else None
    if crl is None:
        old: Sequence[Json] = previous.get("authorities") or ()
        known = (item for item in old if item.get("fingerprint") == authority.fingerprint and "crl" in item)
        return next(({"crl": item["crl"]} for item in known), {})
    return {
        "crl": {
            "number": crl.number,
            "revoked": len(crl.entries),
            "thisUpdate": format_time(crl.this_update),
            "nextUpdate": format_time(crl.next_update),
        }
    }


def summary(lists: Lists) -> tuple[bool, str, str]:
    """Say whether all is well with the lists as they are, with reason and message."""
    lost = sorted(name for name, crl in lists.found.items() if crl.incomplete)
    if lost:
        message = f"the list of {lost[0]} was lost, and so may be some of what it revoked; replace that authority"
        return False, "RevocationsLost", message
    full = sorted(name for name, crl in lists.found.items() if len(crl.entries) >= crls.MOST_ENTRIES)
    if full:
        message = f"the list of {full[0]} is full: what identities ask for is not added; rotate that authority"
        return False, "ListFull", message
    misplaced = crls.not_certificates(lists)
    if misplaced:
        message = f"spec.revokedCertificates names {misplaced[0]}: put it in spec.taintedAuthorities instead"
        return False, "AuthorityNotTainted", message
    if not any(one.key_is_here for one in lists.hierarchy.authorities):
        return True, "Elsewhere", "no authority's key is here: their revocation lists are where their keys are"
    number = len({serial for crl in lists.found.values() for serial in crl.entries})
    seen = lists.hierarchy
    signers = [entry.issuer for entry in seen.domain.revoked if entry.issuer is not None]
    unknown = fingerprints.remark(seen, "spec.revokedCertificates", signers)
    return True, "Issued", f"every authority has a revocation list; {number} are revoked{unknown}"
