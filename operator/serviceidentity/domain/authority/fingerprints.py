"""What a spec says of authorities that are not there: a mistyped fingerprint must not pass in silence."""

from collections.abc import Iterable
from typing import Final

from serviceidentity.domain.authority.hierarchy import Hierarchy
from serviceidentity.domain.authority.sources import Source
from serviceidentity.domain.material import Held
from serviceidentity.domain.pki import certificates

_SHOWN: Final = 16  # hexadecimal digits: enough to find it in the spec


def unknown(seen: Hierarchy, listed: Iterable[str]) -> list[str]:
    """Return those of the fingerprints that no authority has, nor one above it or where it is kept, in order.

    None while what is kept elsewhere can't be used: it may be meant.
    """
    if isinstance(seen.source, Held):
        return []
    there = [certificate for authority in seen.authorities for certificate in (authority.certificate, *authority.chain)]
    there += seen.source.path.certificates if isinstance(seen.source, Source) else ()
    return sorted(set(listed) - {certificates.fingerprint(certificate) for certificate in there})


def remark(seen: Hierarchy, field: str, listed: Iterable[str]) -> str:
    """Return what to add to a condition's message about the fingerprints in `field`; empty when all are known."""
    names = [f"{fingerprint[:_SHOWN]}..." for fingerprint in unknown(seen, listed)]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"; {field}: there is no authority (any more) with fingerprint {names[0]}{more}" if names else ""
