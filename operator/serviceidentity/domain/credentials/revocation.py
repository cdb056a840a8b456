"""Revoking what was issued to an identity: what its Secret remembers, so that no step of it can be forgotten.

The Secret of a certificate keeps the ones before it that have not ended yet. When the identity is revoked, they and the
current one are marked as revoked in the same write that brings the new certificate; the trust domain puts on its lists
what is marked. It also lists what is asked for and not served yet, so a revocation counts even where no new certificate
can be issued. Whichever of both is done first, after a crash the other one follows.

The certificates themselves are kept, because they prove whose they are: a serial number in an annotation that anyone
with rights to the namespace may edit would let them revoke their neighbours.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from serviceidentity.domain import ownership
from serviceidentity.domain.authority import Authority, RemoteIssuer
from serviceidentity.domain.authority.crl_records import Revocation
from serviceidentity.domain.material import MalformedError, SecretView
from serviceidentity.domain.model import Meta
from serviceidentity.domain.pki import certificates
from serviceidentity.domain.pki.certificates import CertificateFacts
from serviceidentity.domain.pki.crl import REASONS, UNSPECIFIED
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import format_time, parse_time

EARLIER_ANNOTATION: Final = "serviceidentity.dev/earlier-certificates"
CREDENTIAL: Final = "certificate"  # what the label of a certificate's Secret says
MOST_EARLIER: Final = 16  # a certificate takes about a kilobyte; all annotations of an object together have 256
MOST_REVOKED: Final = 64


@dataclass(frozen=True, slots=True)
class Earlier:
    """A certificate that was issued to the identity: DER in base64, and since when it is revoked, if it is."""

    certificate: str
    revoked_at: datetime | None = None
    reason: str = UNSPECIFIED


def secrets_of(contents: Iterable[SecretView], name: str) -> list[SecretView]:
    """Return the Secrets that hold certificates of an identity: the one called `name`, then those before it.

    With another secretName in the spec there is for a while one under the old name.
    """
    ours = [v for v in contents if v.name == name or v.labels.get(ownership.CREDENTIAL_LABEL) == CREDENTIAL]
    return sorted(ours, key=lambda view: (view.name != name, view.name))


def remembered(meta: Meta, views: Iterable[SecretView], now: datetime) -> dict[str, str]:
    """Return what the next certificate's Secret says about those before it, which are in `views`."""
    kept: dict[str, Earlier] = {}
    for view in views:
        for item in _marked(meta, view, now):
            facts = _facts(item)
            if facts is not None and now < facts.not_after and (item.revoked_at or item.certificate not in kept):
                kept[item.certificate] = item
    marked = [item for item in kept.values() if item.revoked_at][:MOST_REVOKED]
    unmarked = [item for item in kept.values() if not item.revoked_at][:MOST_EARLIER]
    if not marked and not unmarked:
        return {}
    return {EARLIER_ANNOTATION: json.dumps([_encode(item) for item in (*unmarked, *marked)], separators=(",", ":"))}


def reason_of(meta: Meta) -> str:
    """Return the reason that the request names; one that is not known there counts as none (RFC 5280 5.3.1)."""
    reason = meta.annotations.get(ownership.REVOKE_REASON_ANNOTATION, UNSPECIFIED)
    return reason if reason in REASONS else UNSPECIFIED


def has_revocations(meta: Meta, view: SecretView) -> bool:
    """Say whether the identity may have certificates that belong on a list."""
    return ownership.revocation_requested(meta, view) or _MARK in view.annotations.get(EARLIER_ANNOTATION, "")


def has_unlisted(meta: Meta, view: SecretView, listed: Container[str], now: datetime) -> bool:
    """Say whether something of the identity may have to go on a list that is not there yet."""
    if not has_revocations(meta, view):
        return False
    if ownership.revocation_requested(meta, view):
        return True
    ours = [facts for item in _read(view) if item.revoked_at and (facts := _facts(item)) is not None]
    return any(now < facts.not_after and facts.serial_number not in listed for facts in ours)


def owed(meta: Meta, view: SecretView, own: str, issuers: Sequence[Authority], now: datetime) -> tuple[Revocation, ...]:
    """Return what belongs on the lists of `issuers`: certificates whose SPIFFE ID begins with `own`, and not over.

    Certificates that nobody of them signed are left out.
    """
    return tuple(_proven((item for item in _marked(meta, view, now) if item.revoked_at), own, issuers, now))


def elsewhere(
    meta: Meta, views: Iterable[SecretView], issuers: Iterable[Authority], now: datetime
) -> list[tuple[RemoteIssuer, str]]:
    """Return what is asked to be revoked now and was signed elsewhere, each in PEM: it has to be revoked there."""
    remote = [one.key for one in issuers if isinstance(one.key, RemoteIssuer)]
    found: dict[str, RemoteIssuer] = {}
    for item in (item for view in views for item in _marked(meta, view, now) if item.revoked_at == now):
        facts = _facts(item)
        signer = next((one for one in remote if _is_from(item.certificate, one.certificate)), None)
        if signer is not None and facts is not None and now < facts.not_after:
            found[item.certificate] = signer
    return [(signer, _pem(text)) for text, signer in found.items()]


def _pem(text: str) -> str:
    certificate = _certificate(text)
    return certificates.encode_chain(certificate).decode() if certificate is not None else ""


def _proven(items: Iterable[Earlier], own: str, issuers: Sequence[Authority], now: datetime) -> Iterable[Revocation]:
    for item in items:
        facts = _facts(item)
        if facts is None or now >= facts.not_after or not (facts.spiffe_id or "").startswith(own):
            continue
        issuer = next((one for one in issuers if _is_from(item.certificate, one.certificate)), None)
        if issuer is not None and item.revoked_at is not None:
            since = max(item.revoked_at, facts.not_before)  # anyone may have written the time
            yield Revocation(facts.serial_number, since, item.reason, issuer.fingerprint, facts.not_after)


def _marked(meta: Meta, view: SecretView, now: datetime) -> list[Earlier]:
    """Return the Secret's certificates, newest first, as revoked from now on when that is asked for and not served."""
    items = _with_current(view)
    if not ownership.revocation_requested(meta, view):
        return items
    reason = reason_of(meta)
    return [item if item.revoked_at else Earlier(item.certificate, now, reason) for item in items]


def _with_current(view: SecretView) -> list[Earlier]:
    """Return the Secret's certificates, newest first."""
    earlier = _read(view)
    try:
        current = _text(certificates.load_chain(view.value("tls.crt"))[0])
    except (PkiError, MalformedError):
        return earlier
    return earlier if current in {item.certificate for item in earlier} else [Earlier(current), *earlier]


_MARK: Final = '"revokedAt"'


def _encode(item: Earlier) -> dict[str, str]:
    mark = {"revokedAt": format_time(item.revoked_at), "reason": item.reason} if item.revoked_at else {}
    return {"certificate": item.certificate, **mark}


def _read(view: SecretView) -> list[Earlier]:
    """Read the annotation; what can't be understood of it is left out."""
    try:
        listed = json.loads(view.annotations.get(EARLIER_ANNOTATION, "[]"))
    except (ValueError, RecursionError):
        return []
    found = (_item(one) for one in listed) if isinstance(listed, list) else ()
    return [item for item in found if item is not None]


def _item(one: Any) -> Earlier | None:
    try:
        when = parse_time(one["revokedAt"]) if "revokedAt" in one else None
        reason = one.get("reason")
        return Earlier(str(one["certificate"]), when, reason if reason in REASONS else UNSPECIFIED)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _text(certificate: x509.Certificate) -> str:
    return b64encode(certificate.public_bytes(Encoding.DER)).decode()


@lru_cache(maxsize=4096)
def _certificate(text: str) -> x509.Certificate | None:
    """Read a certificate. Public data only, so it may be remembered."""
    try:
        return x509.load_der_x509_certificate(b64decode(text, validate=True))
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def _text_facts(text: str) -> CertificateFacts | None:
    certificate = _certificate(text)
    try:
        return certificates.facts(certificate) if certificate is not None else None
    except PkiError:
        return None


def _facts(item: Earlier) -> CertificateFacts | None:
    return _text_facts(item.certificate)


@lru_cache(maxsize=4096)
def _is_from(text: str, issuer: x509.Certificate) -> bool:
    certificate = _certificate(text)
    return certificate is not None and certificates.signed_by(certificate, issuer)
