"""The authority at Vault or OpenBao that signs our intermediates: their keys are made here and never leave.

The root above it is copied without a key, as one that people bring along is, and is published before anything is signed
under it. What comes back for a request is examined before it is stored: nothing is believed that can be checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from serviceidentity.domain.authority import remote
from serviceidentity.domain.authority.records import SECRET_TYPE, Authority, Role
from serviceidentity.domain.authority.remote import END_MARGIN, ORIGIN
from serviceidentity.domain.authority.signing import record_of, subject_of, validity_of
from serviceidentity.domain.authority.sources import Source
from serviceidentity.domain.authority.steps import MakeAuthority
from serviceidentity.domain.material import Held, SecretContent
from serviceidentity.domain.model import TrustDomain, VaultIssuer
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import PrivateKey
from serviceidentity.domain.pki.paths import Path, first_defect, path_to_root

SHORTEST_BACKDATE: Final = timedelta(seconds=30)  # Vault's own default: its clock may be ahead of ours


@dataclass(frozen=True, slots=True)
class Upstream(Source):
    """An issuer of a PKI engine; `issuer_id` is the one that was read, whatever its name means later."""

    issuer_id: str

    @property
    def title(self) -> str:
        return remote.title_of(self.origin.removeprefix(ORIGIN))

    @property
    def signs_until(self) -> datetime:
        """When what it signs ends at the latest."""
        return self.path.not_after - END_MARGIN


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """What is asked of the PKI engine: a PKCS#10 request in PEM, for so long and so far back."""

    pem: str
    common_name: str
    lifetime: timedelta
    backdate: timedelta


def read_upstream(at: VaultIssuer, issuer_id: str, chain: Sequence[str], now: datetime) -> Upstream | Held:
    """Read an issuer from its certificate and those above it; Held says why it can't sign here."""
    path = remote.path_of(at.mount, chain, now, tiers_below=1, key_is_here=False)
    if isinstance(path, Held):
        return path
    return Upstream(f"{ORIGIN}{at.mount}", path, issuer_id)


def request_for(
    domain: TrustDomain, root: Authority, upstream: Upstream, key: PrivateKey, now: datetime
) -> SigningRequest:
    """Return the request for an intermediate. Raises PkiError when there is no time left for one."""
    ends = min(validity_of(domain.intermediate, domain, root, now).not_after, upstream.signs_until)
    if ends <= now:
        raise PkiError("the authority above ends too soon")
    subject = subject_of(domain.intermediate)
    pem = certificates.certificate_request(subject, key).decode()
    return SigningRequest(pem, subject.common_name, ends - now, max(domain.backdate, SHORTEST_BACKDATE))


def signed_upstream(
    domain: TrustDomain,
    step: MakeAuthority,
    root: Authority,
    upstream: Upstream,
    key: PrivateKey,
    answer: str,
    now: datetime,
) -> SecretContent:
    """Examine what came back for the request, and return the content of the authority's Secret. Raises PkiError."""
    own, *others = certificates.load_chain(answer.encode())
    if not certificates.key_matches(own, key):
        raise PkiError("Vault signed another key than the one that was asked for")
    path = Path(path_to_root(own, (*others, *upstream.path.certificates), now), tiers_below=0)
    if (defect := first_defect(path, now)) is not None:
        raise PkiError(f"what Vault signed can't be used: {defect.message}")
    if path.certificates[-1] != upstream.root:
        raise PkiError("Vault signed under another root than its issuer has")
    data = {
        "tls.crt": certificates.encode_chain(*path.certificates),
        "tls.key": keys.encode(key, keys.KeyEncoding.PKCS8),
        "ca.crt": certificates.encode_chain(upstream.root),
    }
    return SecretContent.of(SECRET_TYPE, data, record_of(domain, Role.INTERMEDIATE, now, root, activate=step.activate))
