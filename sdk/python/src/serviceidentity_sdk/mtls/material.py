"""What the mounted files hold for TLS, checked to belong together before anything uses it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from serviceidentity_sdk.credentials import CredentialError, KeyMaterial, Snapshot
from serviceidentity_sdk.mtls.peer import PeerIdentity

T = TypeVar("T")
CHAIN_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
ROOTS_FILE: Final = "ca.crt"
LISTS_FILE: Final = "ca.crl"
_UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


class Revocation(Enum):
    """Which certificates of a chain are looked up in the lists of `ca.crl`."""

    LEAF = "leaf"  # the peer's own: every authority that signs services needs a list
    CHAIN = "chain"  # its intermediates too: every authority in ca.crt needs one, those of others as well


@dataclass(frozen=True, slots=True)
class Material:
    """A service's certificate and key, and whom it trusts; PEM. `lists` are None where nothing was ever revoked."""

    chain: bytes
    key: KeyMaterial
    roots: bytes
    lists: bytes | None
    revocation: Revocation
    identity: PeerIdentity


def read_material(
    tls: Snapshot, trust: Snapshot | None, now: datetime, *, revocation: Revocation, lists_required: bool
) -> Material:
    """Return what the files hold.

    `trust` is the mounted trust bundle, which has `ca.crt` and perhaps `ca.crl`; without it they are beside `tls.crt`.
    Raises CredentialError if something is missing or unreadable, if the key is not the certificate's, or if the
    certificate has ended or not begun. A list that has ended is no error here: the handshake refuses what it is about.
    """
    anchors = trust if trust is not None else tls
    chain, key, roots = tls.read(CHAIN_FILE), tls.material(KEY_FILE), anchors.read(ROOTS_FILE)
    lists = anchors.read(LISTS_FILE) if LISTS_FILE in anchors else None
    if lists is None and lists_required:
        raise CredentialError(f"{anchors.path} has no file {LISTS_FILE}, and revocation lists are required")
    leaf = _parsed(CHAIN_FILE, lambda: x509.load_pem_x509_certificates(chain))[0]
    own = _parsed(KEY_FILE, lambda: serialization.load_pem_private_key(key.reveal(), password=None))
    if own.public_key() != leaf.public_key():
        raise CredentialError(f"{KEY_FILE} is not the key of the certificate in {CHAIN_FILE}")
    _parsed(ROOTS_FILE, lambda: x509.load_pem_x509_certificates(roots))
    if lists is not None:
        read_lists(lists)
    identity = _parsed(CHAIN_FILE, lambda: PeerIdentity.of(leaf))
    if not identity.not_before <= now <= identity.not_after:
        raise CredentialError(
            f"the certificate in {CHAIN_FILE} counts from {identity.not_before:%Y-%m-%dT%H:%M:%SZ}"
            f" to {identity.not_after:%Y-%m-%dT%H:%M:%SZ}"
        )
    return Material(chain, key, roots, lists, revocation, identity)


_END: Final = b"-----END X509 CRL-----"


def read_lists(pem: bytes) -> tuple[x509.CertificateRevocationList, ...]:
    """Return the revocation lists of a PEM file. Raises CredentialError if one can't be read, or there is none."""
    *blocks, rest = pem.split(_END)
    if not blocks or rest.strip():
        raise CredentialError(f"{LISTS_FILE} can't be read")
    return tuple(_parsed(LISTS_FILE, lambda: x509.load_pem_x509_crl(block + _END)) for block in blocks)  # noqa: B023


def _parsed(name: str, parse: Callable[[], T]) -> T:
    """Translate what a parser raises; its text may quote the file."""
    try:
        return parse()
    except _UNREADABLE:
        raise CredentialError(f"{name} can't be read") from None
