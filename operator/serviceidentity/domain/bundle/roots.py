"""The roots of a trust bundle: read strictly from their sources, merged, without what has expired."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from serviceidentity.domain.schedule import earliest
from serviceidentity.errors import ServiceIdentityError

SOURCE_INVALID: Final = "SourceInvalid"
_BEGIN: Final = "-----BEGIN "
_LABEL: Final = "CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"
# What reading a certificate or one of its extensions raises. Not all of these are ValueErrors.
_UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    InternalError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class SourceError(ServiceIdentityError):
    """A source of roots is missing, or holds something else. The message says which, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Root:
    """One root of a bundle. `source` is empty for the trust domain's own."""

    certificate: x509.Certificate
    fingerprint: str
    source: str = ""

    @classmethod
    def of(cls, certificate: x509.Certificate, source: str = "") -> "Root":
        """Return a certificate as a root."""
        return cls(certificate, certificate.fingerprint(hashes.SHA256()).hex(), source)


@dataclass(frozen=True, slots=True)
class Roots:
    """The roots to publish, each once, in an order that depends on nothing but themselves.

    `expired` counts those left out because they are over, `until` is when the next one will be.
    """

    own: tuple[Root, ...]
    extra: tuple[Root, ...] = ()
    expired: int = 0
    until: datetime | None = None

    @property
    def all(self) -> tuple[Root, ...]:
        """Own roots first, then the extra ones."""
        return (*self.own, *self.extra)

    @property
    def digest(self) -> str:
        """SHA-256 over the fingerprints, in hexadecimal: what makes two sets of roots the same."""
        parts = (",".join(root.fingerprint for root in roots) for roots in (self.own, self.extra))
        return hashlib.sha256("/".join(parts).encode()).hexdigest()


@lru_cache(maxsize=64)
def read_roots(pem: bytes, source: str) -> tuple[Root, ...]:
    """Read the CA certificates of a PEM text. Text between them, such as names, is passed over.

    Raises SourceError on anything that is not a CA certificate (RFC 5280 4.2.1.9 and 4.2.1.3): a leaf that is trusted
    as a root, or a private key that was pasted along, is a mistake to be told and not to be filtered.
    """
    roots = []
    for number, block in enumerate(_blocks(pem), start=1):
        entry = f"{source}: entry {number}"
        if block is None:
            raise SourceError(f"{entry} is not a whole PEM certificate")
        try:
            certificate = x509.load_pem_x509_certificate(block)
            is_authority = _may_sign(certificate)
        except _UNREADABLE:
            raise SourceError(f"{entry} is not a readable certificate") from None
        if not is_authority:
            raise SourceError(f"{entry} is not the certificate of a CA")
        roots.append(Root.of(certificate, source))
    if not roots:
        raise SourceError(f"{source}: there is no certificate")
    return tuple(roots)


def merge(
    own: Iterable[x509.Certificate], extra: Iterable[Root], now: datetime, refused: Collection[str] = ()
) -> Roots:
    """Return what to publish: every root once, whatever the order and number in which it was given.

    `refused` has fingerprints that are published in no case: an authority that was tainted does not come back by an
    extra source. Own roots win over extra ones, and of two sources the first by name.
    """
    mine = {root.fingerprint: root for root in map(Root.of, own)}
    others: dict[str, Root] = {}
    for root in sorted(extra, key=lambda root: root.source, reverse=True):
        if root.fingerprint not in mine and root.fingerprint not in refused:
            others[root.fingerprint] = root
    known = [*mine.values(), *others.values()]
    alive = [root for root in known if now < root.certificate.not_valid_after_utc]
    ordered = sorted(alive, key=lambda root: root.fingerprint)
    return Roots(
        own=tuple(root for root in ordered if root.fingerprint in mine),
        extra=tuple(root for root in ordered if root.fingerprint in others),
        expired=len(known) - len(alive),
        until=earliest(*(root.certificate.not_valid_after_utc for root in alive)),
    )


def recover(
    recorded: Mapping[str, Any], broken: Collection[str], known: Iterable[Root], copies: Iterable[bytes]
) -> list[Root]:
    """Return the roots that were last published from sources which can't be read now.

    The status says by fingerprint which ones those are; the certificates are taken from what this process `known`s, or
    from published copies (PEM). A copy is anybody's to edit, so nothing in it counts but what has a recorded
    fingerprint.
    """
    missing: dict[str, str] = {}
    for item in recorded.get("extraRoots") or ():
        if isinstance(item, Mapping) and item.get("source") in broken:
            missing[str(item.get("fingerprint"))] = str(item["source"])
    found: dict[str, Root] = {}
    for root in known:
        if root.fingerprint in missing:
            found[root.fingerprint] = Root(root.certificate, root.fingerprint, missing[root.fingerprint])
    for pem in copies:
        if found.keys() == missing.keys():
            break
        for root in _readable(pem):
            if root.fingerprint in missing:
                found[root.fingerprint] = Root(root.certificate, root.fingerprint, missing[root.fingerprint])
    return list(found.values())


def _readable(pem: bytes) -> Iterator[Root]:
    for block in _blocks(pem):
        try:
            if block is not None:
                yield Root.of(x509.load_pem_x509_certificate(block))
        except _UNREADABLE:
            continue


def _blocks(pem: bytes) -> Iterator[bytes | None]:
    """Give the PEM blocks of a text one by one; None for one that is not a whole certificate."""
    _, *parts = pem.decode("utf-8", "replace").split(_BEGIN)
    for part in parts:
        end = part.find(_END)
        yield (_BEGIN + part[: end + len(_END)] + "\n").encode() if part.startswith(_LABEL) and end > 0 else None


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        return missing.oid == x509.KeyUsage.oid  # without a key usage the key may be used for everything
