"""The authority at Vault or OpenBao that signs leaves: it and its root are copied without a key.

From there on both live as any authority: the root is published before anything is signed under it, and as long as that
takes, leaves are signed by the issuer before it, by its ID.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from serviceidentity.domain.authority import remote
from serviceidentity.domain.authority.records import Authority, Role
from serviceidentity.domain.authority.sources import Source
from serviceidentity.domain.material import Held
from serviceidentity.domain.model import VaultSigner
from serviceidentity.domain.pki import certificates


@dataclass(frozen=True, slots=True)
class IssuingAuthority(Source):
    """An issuer of a PKI engine that signs leaves; `issuer_id` is the one that was read, whatever its name means."""

    at: VaultSigner
    issuer_id: str

    @property
    def title(self) -> str:
        return remote.title_of(self.at.mount)

    @property
    def has_intermediate(self) -> bool:
        return True

    def records_of(self, role: Role) -> dict[str, str]:
        return remote.record_of(self.at, self.issuer_id) if role is Role.INTERMEDIATE else {}

    def is_copied_to(self, authority: Authority | None) -> bool:
        if authority is None or authority.view.value("tls.crt") != self.certificates_of(authority.role):
            return False
        if authority.role is Role.ROOT:
            return True
        key = authority.key  # the same certificate under another ID, or with its key here, is another signer
        return isinstance(key, remote.RemoteIssuer) and (key.mount, key.issuer_id) == (self.at.mount, self.issuer_id)


def read_issuing(at: VaultSigner, issuer_id: str, chain: Sequence[str], now: datetime) -> IssuingAuthority | Held:
    """Read an issuer from its certificate and those above it; Held says why it can't sign leaves."""
    path = remote.path_of(at.mount, chain, now, tiers_below=0)
    if isinstance(path, Held):
        return path
    own = path.certificates[0]
    if certificates.signed_by(own, own):
        message = "the issuer is a root; an intermediate has to sign leaves, so that it can be replaced"
        return Held("NotAnIntermediate", f"{remote.title_of(at.mount)}: {message}")
    return IssuingAuthority(f"{remote.ORIGIN}{at.mount}", path, at, issuer_id)
