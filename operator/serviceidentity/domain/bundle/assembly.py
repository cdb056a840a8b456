"""What a published trust bundle holds: PEM, Java truststores, the SPIFFE document, and whatever else goes with it.

Everything but PKCS#12 is a function of the roots, byte for byte. PKCS#12 has random salts, so a copy of it is compared
by what it holds.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from serviceidentity.domain.bundle.roots import Roots
from serviceidentity.domain.model import BundleFormat, BundleSpec
from serviceidentity.domain.pki import certificates, formats, jks
from serviceidentity.errors import ServiceIdentityError

PEM_KEY: Final = "ca.crt"
JKS_KEY: Final = "truststore.jks"
PKCS12_KEY: Final = "truststore.p12"
SPIFFE_KEY: Final = "bundle.spiffe.json"
CRL_KEY: Final = "ca.crl"
JWKS_KEY: Final = "jwks.json"
SIZE_LIMIT: Final = 1 << 20  # of a ConfigMap's or Secret's data, in bytes
MOST_REFRESH: Final = timedelta(minutes=5)  # SPIFFE Trust Domain and Bundle 4.1.2: what is assumed without a hint
REFRESHES: Final = 10  # as often a consumer looks during the propagation time
_LOST_AT_MOST: Final = 16
_BELIEVABLE: Final = 1 << 31


class TooLargeError(ServiceIdentityError):
    """The bundle does not fit into one object."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """One state of a trust bundle. `data` is base64 text by data key, as Secrets have it."""

    roots: Roots
    sequence: int
    data: Mapping[str, str] = field(repr=False)
    password: str = field(repr=False, default="")
    jwks: bytes = b""

    @property
    def digest(self) -> str:
        """What makes two states of the bundle the same, and is numbered by `sequence`."""
        return digest_of(self.roots, self.jwks)

    def is_held_by(self, data: Mapping[str, str]) -> bool:
        """Say whether a copy's data is this bundle: the same bytes, and for PKCS#12 the same roots."""
        if data.keys() != self.data.keys():
            return False
        differing = [key for key, value in self.data.items() if data[key] != value]
        return not differing or (differing == [PKCS12_KEY] and self.is_truststore(data[PKCS12_KEY]))

    def is_truststore(self, encoded: str) -> bool:
        """Say whether a PKCS#12 file (base64) opens with the password and holds these roots."""
        return _opened(encoded, self.password) == tuple(root.certificate for root in self.roots.all)


def digest_of(roots: Roots, jwks: bytes) -> str:
    """Return a SHA-256, in hexadecimal, over the roots and, if there are any, the keys that verify tokens."""
    if not jwks:
        return roots.digest
    return hashlib.sha256(f"{roots.digest}/{hashlib.sha256(jwks).hexdigest()}".encode()).hexdigest()


def assemble(
    roots: Roots, spec: BundleSpec, sequence: int, refresh: int, crl: bytes = b"", jwks: bytes = b""
) -> Bundle:
    """Return the bundle of these roots. `crl` and `jwks` are published as they are, if there are any.

    Raises TooLargeError.
    """
    ordered, password = [root.certificate for root in roots.all], spec.truststore_password
    data: dict[str, bytes] = {PEM_KEY: certificates.encode_chain(*ordered)}
    if BundleFormat.JKS in spec.formats:
        # Java shows when an entry was made. A time that follows from the roots keeps the file the same.
        created = max(certificate.not_valid_before_utc for certificate in ordered)
        data[JKS_KEY] = jks.jks_truststore(ordered, password, created)
    if BundleFormat.PKCS12 in spec.formats:
        data[PKCS12_KEY] = formats.pkcs12_truststore(ordered, password.encode())
    if BundleFormat.SPIFFE in spec.formats:
        own = [root.certificate for root in roots.own]
        data[SPIFFE_KEY] = spiffe_bundle(own, sequence, refresh, jwks)
    if crl:
        data[CRL_KEY] = crl
    if jwks:
        data[JWKS_KEY] = jwks
    size = sum(len(key) + len(value) for key, value in data.items())
    if size > SIZE_LIMIT:
        raise TooLargeError(f"the bundle has {size} bytes; an object in Kubernetes holds {SIZE_LIMIT}")
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return Bundle(roots, sequence, MappingProxyType(encoded), password, jwks)


def next_sequence(digest: str, recorded: Mapping[str, Any] | None, copies: Iterable[tuple[int, str]]) -> int:
    """Return the sequence number of the state with this digest: the known one, or one more than any known.

    The status has the last one. Published `copies` (sequence, digest) count too, for an operator that was killed
    between publishing and reporting, or whose status was lost; but anybody may have edited them, so what is far from
    the record is not believed.
    """
    last = recorded.get("sequence") if recorded else None
    last = last if isinstance(last, int) else 0
    if recorded and last and recorded.get("digest") == digest:
        return last
    limit = last + _LOST_AT_MOST if last else _BELIEVABLE
    found = [(number, what) for number, what in copies if last < number <= limit]
    highest = max((number for number, _ in found), default=last)
    return highest if any(found_as == (highest, digest) for found_as in found) else highest + 1


def refresh_hint(propagation: timedelta) -> int:
    """Return after how many seconds a consumer should look for a new bundle: well inside the propagation time."""
    return max(1, int(min(MOST_REFRESH, propagation / REFRESHES).total_seconds()))


def spiffe_bundle(roots: Iterable[x509.Certificate], sequence: int, refresh: int, jwks: bytes = b"") -> bytes:
    """Return the SPIFFE Trust Domain and Bundle document (a JWKS, RFC 7517) of a trust domain.

    It has the X.509 authorities, and the keys of the JWK Set `jwks` for JWT-SVIDs.
    """
    tokens = json.loads(jwks)["keys"] if jwks else []
    document = {
        "keys": [
            *({"use": "x509-svid", **_jwk(root), "x5c": [_base64(root)]} for root in roots),
            *({**jwk, "use": "jwt-svid"} for jwk in tokens),
        ],
        "spiffe_sequence": sequence,
        "spiffe_refresh_hint": refresh,
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def _jwk(certificate: x509.Certificate) -> dict[str, str]:
    """Return the public key as RFC 7518 and RFC 8037 write it."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        numbers, size = key.public_numbers(), (key.curve.key_size + 7) // 8
        curve = f"P-{key.curve.key_size}"
        return {"kty": "EC", "crv": curve, "x": _url(numbers.x.to_bytes(size)), "y": _url(numbers.y.to_bytes(size))}
    if isinstance(key, rsa.RSAPublicKey):
        public = key.public_numbers()
        return {"kty": "RSA", "n": _url(_octets(public.n)), "e": _url(_octets(public.e))}
    if isinstance(key, ed25519.Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": _url(key.public_bytes_raw())}
    raise TypeError("no authority has such a key")


def _octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)


def _url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _base64(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()


@lru_cache(maxsize=64)
def _opened(encoded: str, password: str) -> tuple[x509.Certificate, ...] | None:
    """Return the certificates in a PKCS#12 file; None when it can't be opened. Thousands of copies are opened once."""
    try:
        store = pkcs12.load_pkcs12(base64.b64decode(encoded), password.encode())
    except ValueError:
        return None
    if store.key is not None or store.cert is not None:
        return None
    return tuple(entry.certificate for entry in store.additional_certs)
