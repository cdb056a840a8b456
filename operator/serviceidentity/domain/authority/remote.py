"""An authority that signs leaves where its key is, at Vault or OpenBao: what is known of it here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from serviceidentity.domain.material import Held
from serviceidentity.domain.model import VaultSigner
from serviceidentity.domain.pki import certificates
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.paths import Path, first_defect, path_to_root

ISSUER_ANNOTATION: Final = "serviceidentity.dev/vault-issuer"  # the ID of the PKI engine's issuer
ROLE_ANNOTATION: Final = "serviceidentity.dev/vault-role"
ORIGIN: Final = "vault:"  # before the mount, in what a copy says of where it is from
END_MARGIN: Final = timedelta(seconds=30)  # Vault counts from its own now, and refuses what would outlive its authority


@dataclass(frozen=True, slots=True)
class RemoteIssuer:
    """An issuer of the PKI engine at `mount`, which signs what `role` allows; `path` leads from it up to its root."""

    mount: str
    issuer_id: str
    role: str
    path: tuple[x509.Certificate, ...]

    @property
    def certificate(self) -> x509.Certificate:
        """Its own certificate."""
        return self.path[0]

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What goes with what it signs: itself and those above it, without the root."""
        return certificates.without_root(self.path)

    @property
    def not_after(self) -> datetime:
        """When what it signs ends at the latest."""
        return min(certificate.not_valid_after_utc for certificate in self.path) - END_MARGIN

    def asked_as(self, wanted: VaultSigner | None) -> "RemoteIssuer":
        """Return it with the role that the spec names now; one at another mount keeps the role that it had there."""
        if wanted is None or wanted.mount != self.mount or wanted.role == self.role:
            return self
        return replace(self, role=wanted.role)


def title_of(mount: str) -> str:
    """Return how to speak of a PKI engine."""
    return f"Vault's PKI engine at {mount}"


def path_of(
    mount: str, chain: Sequence[str], now: datetime, *, tiers_below: int, key_is_here: bool = True
) -> Path | Held:
    """Read an issuer from its certificate and those above it (PEM); Held says what is wrong with it."""
    try:
        own, *others = certificates.load_chain("\n".join(chain).encode())
    except PkiError:
        return Held("InvalidCertificate", f"{title_of(mount)}: the issuer has no readable certificates")
    path = Path(path_to_root(own, others, now), tiers_below=tiers_below)
    if (defect := first_defect(path, now, key_is_here=key_is_here)) is not None:
        return Held(defect.reason, f"{title_of(mount)}: {defect.message}")
    return path


def record_of(at: VaultSigner, issuer_id: str) -> dict[str, str]:
    """Return what is written down on our copy: which issuer it is, whatever its name means later."""
    return {ISSUER_ANNOTATION: issuer_id, ROLE_ANNOTATION: at.role}


def read(annotations: Mapping[str, str], origin: str, path: tuple[x509.Certificate, ...]) -> RemoteIssuer:
    """Read what our copy says of where its key is. Raises ValueError when that is not on record."""
    issuer_id, role = annotations.get(ISSUER_ANNOTATION, ""), annotations.get(ROLE_ANNOTATION, "")
    if not (issuer_id and role and origin.startswith(ORIGIN)):
        raise ValueError("it is not on record where the key is")
    return RemoteIssuer(origin.removeprefix(ORIGIN), issuer_id, role, path)
