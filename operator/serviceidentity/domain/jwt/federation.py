"""Other trust domains' bundles (SPIFFE Trust Domain and Bundle 4): which of them are taken, and what is taken of them.

What is taken is written anew from the parts that were understood. It vouches for names of its own trust domain only, so
it is never added to the roots that our own identities trust.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509

from serviceidentity.domain.jwt import documents, jose
from serviceidentity.domain.material import MalformedError
from serviceidentity.domain.pki import certificates

MOST_KEYS: Final = 100
LONGEST_BUNDLE: Final = 256 * 1024  # in bytes; a ConfigMap of 1 MiB holds some of them
DEFAULT_REFRESH: Final = timedelta(minutes=5)  # SPIFFE Trust Domain and Bundle 4.1.2
SHORTEST_REFRESH: Final = timedelta(seconds=30)
LONGEST_REFRESH: Final = timedelta(hours=1)
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})  # RFC 7518 6
_LAST_SEQUENCE: Final = (1 << 64) - 1


Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ForeignBundle:
    """A bundle that was taken."""

    roots: tuple[x509.Certificate, ...]
    keys: tuple[Mapping[str, Any], ...] = field(repr=False)
    sequence: int | None
    refresh: timedelta

    def data(self, name: str) -> dict[str, bytes]:
        """Return what is published of it, by data key."""
        seconds = int(self.refresh.total_seconds())
        pem = certificates.encode_chain(*self.roots) if self.roots else b""
        return {
            f"{name}.bundle.json": documents.bundle(self.roots, self.keys, self.sequence, seconds),
            f"{name}.jwks.json": documents.jwks({**key, "use": "sig"} for key in self.keys),
            f"{name}.pem": pem,
        }


def read_bundle(document: bytes, trust_domain: str) -> ForeignBundle:
    """Read a trust domain's bundle. Raises MalformedError with what is wrong; it never quotes the document."""
    if len(document) > LONGEST_BUNDLE:
        raise MalformedError(f"the bundle is longer than {LONGEST_BUNDLE} bytes")
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        raise MalformedError("the bundle is not JSON") from None
    given = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(given, list) or not all(isinstance(key, dict) for key in given):
        raise MalformedError("the bundle is no JWK Set")
    if len(given) > MOST_KEYS:
        raise MalformedError(f"the bundle has more than {MOST_KEYS} keys")
    # 4.2.2: keys of another use are for somebody else, and are left out.
    roots = tuple(dict.fromkeys(_root(key, trust_domain) for key in given if key.get("use") == "x509-svid"))
    keys = tuple(_key(key) for key in given if key.get("use") == "jwt-svid")
    if not roots and not keys:
        raise MalformedError("the bundle has no keys of use x509-svid or jwt-svid")
    if len({key["kid"] for key in keys}) < len(keys):
        raise MalformedError("two keys of the bundle have the same ID")
    sequence = _number(found, "spiffe_sequence", 0)
    hint = _number(found, "spiffe_refresh_hint", 0)
    wanted = DEFAULT_REFRESH if not hint else timedelta(seconds=min(hint, int(LONGEST_REFRESH.total_seconds())))
    return ForeignBundle(roots, keys, sequence, max(SHORTEST_REFRESH, wanted))


def is_older(new: ForeignBundle, last: ForeignBundle | None) -> bool:
    """Say whether a bundle is one of before the last one: an answer from a stale cache, or a replay."""
    if last is None or last.sequence is None or new.sequence is None:
        return False
    return new.sequence < last.sequence


def _root(key: Json, trust_domain: str) -> x509.Certificate:
    chain = key.get("x5c")
    if _PRIVATE & key.keys() or not isinstance(chain, list) or len(chain) != 1:  # 4.2.2
        raise MalformedError("a key of use x509-svid does not have exactly one certificate, and no more than that")
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(chain[0], validate=True))
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        documents.bundle([certificate], (), None, 1)  # its key is of a kind that can be written
    except (ValueError, TypeError, binascii.Error, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise MalformedError("a key of use x509-svid has no readable certificate of an authority") from None
    if not constraints.ca:
        raise MalformedError("a certificate of the bundle is not one of an authority")
    named = {urlsplit(uri).netloc for uri in _uris(certificate) if uri.startswith("spiffe://")}
    if named - {trust_domain}:
        raise MalformedError("a certificate of the bundle is of another trust domain")
    return certificate


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    except (ValueError, x509.DuplicateExtension):
        raise MalformedError("a certificate of the bundle has names that can't be read") from None
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _key(key: Json) -> Mapping[str, Any]:
    """Return the parts of a public key that are of use; whatever else there is stays behind."""
    _, algorithm = jose.read_public(key)
    kid = key.get("kid")
    if not isinstance(kid, str) or not kid:  # 4.2.2
        raise MalformedError("a key of use jwt-svid has no ID")
    members = ("kty", "crv", "x", "y", "n", "e")
    return {"kid": kid, "alg": algorithm.value, "use": "jwt-svid"} | {
        name: key[name] for name in members if name in key
    }


def _number(found: Json, name: str, least: int) -> int | None:
    value = found.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LAST_SEQUENCE:
        raise MalformedError(f"{name} is no number")
    return value
