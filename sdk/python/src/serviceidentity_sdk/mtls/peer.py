"""Who is at the other end of a TLS connection, and who may be."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

# SPIFFE-ID section 2: lower-case trust domain, path segments of these characters, none of them "." or "..".
_SPIFFE_ID: Final = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+")
_LONGEST: Final = 2048  # bytes, by the same section


def is_spiffe_id(text: str) -> bool:
    """Say whether this is the SPIFFE ID of a workload: trust domain and path."""
    return len(text) <= _LONGEST and _SPIFFE_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What the certificate of a peer says, after TLS has verified it. All of it is public.

    `serial_number` (an even number of digits, as in the status of a ServiceIdentity) and `fingerprint` (SHA-256 of the
    certificate) are lower-case hex; times are in UTC. `spiffe_id` and `common_name` are None unless the certificate
    has exactly one: with two, which one is meant is a guess.
    """

    common_name: str | None
    spiffe_id: str | None
    dns_names: tuple[str, ...]
    serial_number: str
    issuer: str
    not_before: datetime
    not_after: datetime
    fingerprint: str

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """Read a certificate. Raises ValueError if it can't be read."""
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        try:
            alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = alternative.get_values_for_type(x509.UniformResourceIdentifier)
            dns_names = alternative.get_values_for_type(x509.DNSName)
        except x509.ExtensionNotFound:
            uris, dns_names = [], []
        except x509.DuplicateExtension as error:
            raise ValueError("the certificate has an extension twice") from error
        ids = [uri for uri in uris if uri.lower().startswith("spiffe:")]
        return cls(
            common_name=str(names[0].value) if len(names) == 1 else None,
            spiffe_id=ids[0] if len(ids) == 1 and is_spiffe_id(ids[0]) else None,
            dns_names=tuple(dns_names),
            serial_number=_hex(certificate.serial_number),
            issuer=certificate.issuer.rfc4514_string(),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        )

    @property
    def subject(self) -> str:
        """What to call it in a log: the common name, or else what names it."""
        return self.common_name or self.spiffe_id or f"sha256:{self.fingerprint}"


def _hex(number: int) -> str:
    digits = f"{number:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


class Peers:
    """Those who may be at the other end: whoever has one of these SPIFFE IDs, or one of these common names.

    Prefer SPIFFE IDs: they name the trust domain, a common name is only as good as every authority in `ca.crt`. Nobody
    is allowed by an empty one. Raises ValueError for what is no SPIFFE ID of a workload: it would never match.
    """

    __slots__ = ("_anyone", "_common_names", "_spiffe_ids")

    def __init__(
        self, *, spiffe_ids: Collection[str] = (), common_names: Collection[str] = (), anyone: bool = False
    ) -> None:
        if isinstance(spiffe_ids, str) or isinstance(common_names, str):
            raise TypeError("names are given as a list")  # the letters of a string would each be a name
        for text in spiffe_ids:
            if not is_spiffe_id(text):
                raise ValueError(f"not a SPIFFE ID of a workload: {text!r}")
        self._spiffe_ids, self._common_names, self._anyone = frozenset(spiffe_ids), frozenset(common_names), anyone

    def __repr__(self) -> str:
        return "ANYONE" if self._anyone else f"Peers({sorted(self._spiffe_ids | self._common_names)})"

    def allow(self, peer: PeerIdentity) -> bool:
        """Say whether this peer is one of them."""
        return self._anyone or peer.spiffe_id in self._spiffe_ids or peer.common_name in self._common_names


ANYONE: Final = Peers(anyone=True)  # whoever has a certificate of an authority in `ca.crt`
