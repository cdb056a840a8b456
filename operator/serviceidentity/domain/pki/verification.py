"""Whether a service's certificate is accepted (RFC 5280 6.1, X.509-SVID 5): who it is of, or why it is refused."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from serviceidentity.domain.pki import certificates, crl, names, paths
from serviceidentity.domain.pki.certificates import CertificateFacts, extension, may_sign_lists
from serviceidentity.domain.pki.crl import UNSPECIFIED, RevocationList
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.paths import Defect, Path
from serviceidentity.domain.schedule import format_time
from serviceidentity.domain.verdict import Check, Problem, Refused, refusal

_LIST: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
# Critical extensions that are looked at here, or that only narrow what a certificate is for (RFC 5280 4.2).
_UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
    }
)


@dataclass(frozen=True, slots=True)
class AcceptedCertificate:
    """What an accepted certificate says, and the path up to its root: the leaf first.

    `remarks` is what was not checked, in sentences: name constraints, which TLS libraries hold a certificate to.
    """

    facts: CertificateFacts
    path: tuple[x509.Certificate, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Above(Path):
    """The authorities of a path that begins with a leaf, so that messages count from the leaf."""

    def name(self, index: int) -> str:
        is_root = index == len(self.certificates) - 1 and self.is_complete
        return "its root" if is_root else f"certificate {index + 2} of its chain"


@dataclass(frozen=True, slots=True)
class _Seen:
    path: Path
    facts: CertificateFacts | None
    roots: tuple[x509.Certificate, ...]
    lists: tuple[bytes, ...]
    trust_domain: str | None
    now: datetime

    @property
    def leaf(self) -> x509.Certificate:
        return self.path.certificates[0]

    @property
    def above(self) -> Path | None:
        """The authorities above, if there are any and all can be read."""
        others = self.path.certificates[1:]
        return _Above(others, 0) if others and self.facts is not None else None


def load_lists(pem: bytes) -> tuple[bytes, ...]:
    """Take a PEM text of revocation lists apart. Raises PkiError when one of them can't be read, or there is none."""
    found = tuple(_LIST.findall(pem))
    if not found:
        raise PkiError("there is no revocation list")
    for one in found:
        crl.read(one, None)
        if any(one_of.critical for one_of in x509.load_pem_x509_crl(one).extensions):  # RFC 5280 5.2
            raise PkiError("a revocation list is not complete, or not for every certificate")
    return found


def verify_certificate(
    chain: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    lists: Sequence[bytes],
    now: datetime,
    *,
    trust_domain: str | None = None,
) -> AcceptedCertificate | Refused:
    """Verify a leaf, with the intermediates that come with it, up to one of the roots.

    `lists` are revocation lists in PEM, from `load_lists`. With any, there has to be one that is in force for each
    authority of the path; without, nothing is known of revocations. `trust_domain` is the one whose roots these are:
    no root speaks for another one. Never raises on a certificate.
    """
    path = Path(paths.path_to_root(chain[0], [*roots, *chain[1:]], now), 0)
    try:
        facts = certificates.facts(chain[0]) if paths.unreadable(path, now) is None else None
    except PkiError:
        facts = None
    seen = _Seen(path, facts, tuple(roots), tuple(lists), trust_domain, now)
    if (refused := refusal(CERTIFICATE_CHECKS, seen)) is not None:
        return refused
    assert facts is not None  # noqa: S101  # the checks said so
    return AcceptedCertificate(facts, path.certificates, paths.remarks(seen.above) if seen.above else ())


def unreadable(seen: _Seen) -> Problem | None:
    """A certificate, or one above it, that can't be understood."""
    if (defect := paths.unreadable(seen.path, seen.now)) is not None:
        return _problem(defect)
    return None if seen.facts else Problem("InvalidCertificate", "the certificate can't be understood")


def unknown_extension(seen: _Seen) -> Problem | None:
    """A critical extension that nobody here understands (RFC 5280 4.2)."""
    if seen.facts is None:
        return None
    for index, certificate in enumerate(seen.path.certificates):
        for one in certificate.extensions:
            if one.critical and one.oid not in _UNDERSTOOD:
                oid = one.oid.dotted_string
                return Problem("UnknownExtension", f"{seen.path.name(index)} has critical extension {oid}")
    return None


def unknown_authority(seen: _Seen) -> Problem | None:
    """One that none of the roots vouches for."""
    last = seen.path.certificates[-1]
    if last in seen.roots and len(seen.path.certificates) > 1:
        return None
    if seen.path.is_complete:
        who = "itself" if len(seen.path.certificates) == 1 else "a root that is not trusted"
        return Problem("UnknownAuthority", f"it is signed by {who}")
    what = "it" if len(seen.path.certificates) == 1 else seen.path.name(len(seen.path.certificates) - 1)
    return Problem("UnknownAuthority", f"what signed {what} is neither among the trusted roots nor in the chain")


def weak(seen: _Seen) -> Problem | None:
    """A key or a signature that can be forged."""
    return _problem(paths.weak(seen.path, seen.now)) if seen.facts else None


def not_an_authority(seen: _Seen) -> Problem | None:
    """A signer that may not sign certificates (RFC 5280 6.1.4)."""
    return _problem(paths.not_an_authority(seen.above, seen.now)) if seen.above else None


def path_length_exceeded(seen: _Seen) -> Problem | None:
    """A signer that may not have so many authorities below it."""
    return _problem(paths.path_length_exceeded(seen.above, seen.now)) if seen.above else None


def not_a_leaf(seen: _Seen) -> Problem | None:
    """One that signs others proves no service's identity (X.509-SVID 5.2)."""
    if seen.facts is None:
        return None
    usage = extension(seen.leaf, x509.KeyUsage)
    signs = usage is not None and (usage.key_cert_sign or usage.crl_sign)
    if seen.facts.is_ca or signs:
        return Problem("NotALeaf", "it is a certificate of an authority, not of a service")
    if usage is not None and not usage.digital_signature:
        return Problem("NotALeaf", "its key may not prove who it is (keyUsage without digitalSignature)")
    return None


def no_identity(seen: _Seen) -> Problem | None:
    """One that does not say which service it is of: exactly one SPIFFE ID (X.509-SVID 2)."""
    if seen.facts is None or (seen.facts.spiffe_id and names.is_spiffe_id(seen.facts.spiffe_id)):
        return None
    return Problem("NoIdentity", "it has no SPIFFE ID, or not exactly one")


def wrong_trust_domain(seen: _Seen) -> Problem | None:
    """An identity that the roots do not speak for."""
    identity = seen.facts.spiffe_id if seen.facts else None
    if seen.trust_domain is None or identity is None or identity.startswith(f"spiffe://{seen.trust_domain}/"):
        return None
    return Problem("WrongTrustDomain", f"its SPIFFE ID is not one of trust domain {seen.trust_domain}")


def not_valid_now(seen: _Seen) -> Problem | None:
    """One whose time, or whose chain's, is over or has not come."""
    return _problem(paths.not_valid_now(seen.path, seen.now)) if seen.facts else None


def revoked(seen: _Seen) -> Problem | None:
    """One that is on its issuer's list, or whose issuer is on its own issuer's."""
    for index, (lower, upper) in enumerate(pairwise(seen.path.certificates)):
        for found in _lists_of(upper, seen.lists):
            for entry in found.entries:
                if int(entry.serial_number, 16) == lower.serial_number:
                    why = "" if entry.reason == UNSPECIFIED else f", because of {entry.reason}"
                    when = format_time(entry.revoked_at)
                    return Problem("Revoked", f"{seen.path.name(index)} was revoked at {when}{why}")
    return None


def revocation_unknown(seen: _Seen) -> Problem | None:
    """One of which nobody can say whether it was revoked: there are lists, but none in force of an issuer of it."""
    if not seen.lists:
        return None
    for index, upper in enumerate(seen.path.certificates[1:], start=1):
        found = _lists_of(upper, seen.lists)
        if not any(one.this_update <= seen.now < one.next_update for one in found):
            which = f"the revocation list of {seen.path.name(index)}"
            ended = max((one.next_update for one in found), default=None)
            how = f"was in force until {format_time(ended)}" if ended and ended <= seen.now else "is missing"
            return Problem("RevocationUnknown", f"{which} {how}")
    return None


CERTIFICATE_CHECKS: Final[tuple[Check[_Seen], ...]] = (
    unreadable,
    unknown_authority,
    unknown_extension,
    weak,
    not_an_authority,
    path_length_exceeded,
    not_a_leaf,
    no_identity,
    wrong_trust_domain,
    not_valid_now,
    revoked,
    revocation_unknown,
)


def _problem(defect: Defect | None) -> Problem | None:
    return Problem(defect.reason, defect.message) if defect is not None else None


def _lists_of(issuer: x509.Certificate, lists: Sequence[bytes]) -> list[RevocationList]:
    """Return the lists that the issuer signed, if it may sign any (RFC 5280 6.3.3)."""
    found = []
    for one in lists if may_sign_lists(issuer) else ():
        try:
            found.append(crl.read(one, issuer))
        except PkiError:
            continue
    return found
