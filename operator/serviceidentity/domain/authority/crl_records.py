"""Revocation lists as they are kept: one Secret for each authority, `<its Secret>-crl`, in the operator's namespace.

`ca.crl` is the list, and the record of what is revoked since when and why. What it can't say, when a certificate ends
and its entry may go, is beside it in `expiries.json`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509

from serviceidentity.domain.authority.records import Authority
from serviceidentity.domain.material import MalformedError, SecretContent, SecretView
from serviceidentity.domain.pki import crl as pki
from serviceidentity.domain.pki.crl import RevocationList, RevokedCertificate
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import format_time, parse_time

SECRET_TYPE: Final = "serviceidentity.dev/crl"  # noqa: S105  # a Secret's type, not a secret
LIST_KEY: Final = "ca.crl"
EXPIRIES_KEY: Final = "expiries.json"
ISSUED_ANNOTATION: Final = "serviceidentity.dev/issued-at"
INCOMPLETE_ANNOTATION: Final = "serviceidentity.dev/incomplete"
_SUFFIX: Final = "-crl"


@dataclass(frozen=True, slots=True)
class Revocation:
    """A certificate that is not to be accepted any more.

    `issuer` is the fingerprint of the authority that signed it, None when that is not known; `not_after` is when it
    ends, None when that is not known.
    """

    serial_number: str
    revoked_at: datetime
    reason: str = pki.UNSPECIFIED
    issuer: str | None = None
    not_after: datetime | None = None


@dataclass(frozen=True, slots=True)
class Crl:
    """An authority's current list, as found. `incomplete` says that an earlier one was lost with what it listed."""

    view: SecretView
    pem: bytes = field(repr=False)
    number: int
    issued_at: datetime
    this_update: datetime
    next_update: datetime
    entries: Mapping[str, Revocation]
    incomplete: bool = False


def crl_name(authority_secret: str) -> str:
    """Return the name of the Secret that holds an authority's list."""
    return authority_secret + _SUFFIX


def authority_of(view: SecretView) -> str:
    """Return the name of the Secret of the authority that a list belongs to."""
    return view.name.removesuffix(_SUFFIX)


def read_crl(view: SecretView, issuer: x509.Certificate | None) -> Crl:
    """Read the list of the authority with the certificate `issuer`, None when that is gone. Raises MalformedError."""
    pem = view.value(LIST_KEY)
    try:
        found = pki.read(pem, issuer)
    except PkiError:
        raise MalformedError(f"Secret {view.name} does not hold a readable revocation list") from None
    ends = _expiries(view)
    entries = {
        entry.serial_number: Revocation(
            entry.serial_number, entry.revoked_at, entry.reason, not_after=ends.get(entry.serial_number)
        )
        for entry in found.entries
    }
    issued_at = _issued(view, found)
    incomplete = INCOMPLETE_ANNOTATION in view.annotations
    return Crl(view, pem, found.number, issued_at, found.this_update, found.next_update, entries, incomplete)


def write_crl(
    authority: Authority, number: int, entries: Mapping[str, Revocation], span: tuple[datetime, datetime, datetime],
    *, incomplete: bool,
) -> SecretContent:  # fmt: skip
    """Sign a list as the content of its Secret. `span` is issued at, thisUpdate, nextUpdate. Raises PkiError."""
    issued_at, this_update, next_update = span
    listed = tuple(RevokedCertificate(e.serial_number, e.revoked_at, e.reason) for e in entries.values())
    pem = pki.issue(authority.issuer, RevocationList(number, this_update, next_update, listed))
    ends = {e.serial_number: format_time(e.not_after) for e in entries.values() if e.not_after is not None}
    data = {LIST_KEY: pem, EXPIRIES_KEY: json.dumps(ends, separators=(",", ":"), sort_keys=True).encode()}
    record = {ISSUED_ANNOTATION: format_time(issued_at)}
    if incomplete:
        record[INCOMPLETE_ANNOTATION] = "true"
    return SecretContent.of(SECRET_TYPE, data, record)


def _issued(view: SecretView, found: RevocationList) -> datetime:
    """When it was made: thisUpdate lies before that by the backdating."""
    try:
        issued = parse_time(view.annotations[ISSUED_ANNOTATION])
    except (KeyError, ValueError):
        return found.this_update
    return issued if found.this_update <= issued < found.next_update else found.this_update


def _expiries(view: SecretView) -> dict[str, datetime]:
    """Read when the listed certificates end; of one whose end can't be read, the entry stays."""
    try:
        found = json.loads(view.value(EXPIRIES_KEY))
    except (MalformedError, ValueError, RecursionError):
        return {}
    ends: dict[str, datetime] = {}
    for serial, text in found.items() if isinstance(found, dict) else ():
        try:
            ends[serial] = parse_time(text)
        except (TypeError, ValueError):
            continue
    return ends
