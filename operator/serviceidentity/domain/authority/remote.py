"""An authority that signs leaves where its key is, at Vault or OpenBao: what is known of it here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from serviceidentity.domain.model import VaultSigner
from serviceidentity.domain.pki import certificates

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


def record_of(at: VaultSigner, issuer_id: str) -> dict[str, str]:
    """Return what is written down on our copy: which issuer it is, whatever its name means later."""
    return {ISSUER_ANNOTATION: issuer_id, ROLE_ANNOTATION: at.role}


def read(annotations: Mapping[str, str], origin: str, path: tuple[x509.Certificate, ...]) -> RemoteIssuer:
    """Read what our copy says of where its key is. Raises ValueError when that is not on record."""
    issuer_id, role = annotations.get(ISSUER_ANNOTATION, ""), annotations.get(ROLE_ANNOTATION, "")
    if not (issuer_id and role and origin.startswith(ORIGIN)):
        raise ValueError("it is not on record where the key is")
    return RemoteIssuer(origin.removeprefix(ORIGIN), issuer_id, role, path)
