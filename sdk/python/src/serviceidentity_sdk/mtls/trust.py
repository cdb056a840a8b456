"""Whether a peer that was verified in its handshake would still be verified now.

A connection that is kept alive outlives its handshake by hours. Without this, a certificate that was revoked, has
ended, or whose root was taken out of the bundle would go on being good for whoever has a connection open.
"""

from collections.abc import Hashable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from serviceidentity_sdk.mtls.material import Material, Revocation, read_lists

_KEPT: Final = 1024  # peers whose answer is remembered; each is a chain of some kilobytes, shared with its connection


class Trust:
    """Roots and revocation lists of one set of material."""

    def __init__(self, material: Material) -> None:
        self._roots = x509.load_pem_x509_certificates(material.roots)
        self._lists = None if material.lists is None else read_lists(material.lists)
        self._revocation = material.revocation
        self._answers: dict[Hashable, tuple[str | None, datetime]] = {}

    def refusal(self, key: Hashable, chain: Sequence[x509.Certificate], now: datetime) -> str | None:
        """Return why a peer with this chain (leaf first, its root last or left out) is not trusted any more, or None.

        The answer is remembered for `key`, which stands for the chain.
        """
        answer = self._answers.get(key)
        if answer is None:
            if len(self._answers) >= _KEPT:
                self._answers.clear()
            answer = self._answers[key] = self._answer(chain)
        reason, until = answer
        if reason is not None:
            return reason
        return None if now <= until else "the certificate, or a revocation list, has ended"

    def _answer(self, chain: Sequence[x509.Certificate]) -> tuple[str | None, datetime]:
        """Return what time does not change, and until when it holds."""
        path = list(chain)
        until = min(certificate.not_valid_after_utc for certificate in path)
        if path[-1] not in self._roots:  # also a root that was issued anew: it signed the one before, with the same key
            above = next((root for root in self._roots if _signed(path[-1], root)), None)
            if above is None:
                return "its root is not trusted any more", until
            path.append(above)
            until = min(until, above.not_valid_after_utc)
        if self._lists is None:
            return None, until
        looked_up = pairwise(path) if self._revocation is Revocation.CHAIN else [(path[0], path[1])] if path[1:] else []
        for certificate, issuer in looked_up:
            lists = [found for found in self._lists if _issued(found, issuer)]
            if not lists:
                return "its authority has no revocation list", until
            if any(found.get_revoked_certificate_by_serial_number(certificate.serial_number) for found in lists):
                return "the certificate is revoked", until
            # Of several lists of one authority the last to end decides, as in OpenSSL.
            until = min(until, max(found.next_update_utc or until for found in lists))
        return None, until


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _issued(found: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return found.issuer == issuer.subject and found.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False
