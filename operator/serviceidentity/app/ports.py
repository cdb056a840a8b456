"""What the use cases need from the outside. Adapters implement these; tests may fake them.

Every method raises only subclasses of PortError (RetryableError, RejectedError, ConflictError, MissingError).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from serviceidentity.domain.authority.upstream import SigningRequest
from serviceidentity.domain.credentials.remote_leaf import LeafRequest
from serviceidentity.domain.material import KeyMaterial, SecretContent, SecretView
from serviceidentity.domain.model import Key, Target
from serviceidentity.domain.ownership import Metadata
from serviceidentity.domain.rollout import Workload

Clock = Callable[[], datetime]
Wake = Callable[[Iterable[Key]], None]


class Secrets(Protocol):
    """Secrets in the cluster; or ConfigMaps, which are read and written in the same terms."""

    async def create(self, namespace: str, name: str, content: SecretContent, metadata: Metadata) -> SecretView:
        """Create a Secret. Raises AlreadyExistsError when one of that name is there."""
        ...

    async def replace(self, view: SecretView, content: SecretContent, metadata: Metadata) -> SecretView:
        """Replace type-less content and our metadata of exactly the version in `view`, or raise ConflictError."""
        ...

    async def delete(self, view: SecretView) -> None:
        """Delete exactly the object in `view`; one that is gone already is no error."""
        ...

    async def read(self, namespace: str, name: str) -> SecretView | None:
        """Read one Secret, whoever owns it."""
        ...


@dataclass(frozen=True, slots=True)
class PkiIssuer:
    """An issuer of a PKI engine: its ID, and its certificate with those above it, each in PEM."""

    issuer_id: str
    chain: tuple[str, ...]


class Pki(Protocol):
    """The PKI engines of Vault or OpenBao."""

    async def issuer(self, mount: str, name: str) -> PkiIssuer:
        """Read an issuer by its name or ID."""
        ...

    async def sign_intermediate(self, mount: str, issuer_id: str, request: SigningRequest) -> str:
        """Have an intermediate signed; return its certificate and those above it in PEM."""
        ...

    async def sign_leaf(self, mount: str, issuer_id: str, role: str, request: LeafRequest) -> str:
        """Have a leaf signed as the role allows; return it in PEM. RejectedError says what is not allowed."""
        ...

    async def revoke(self, mount: str, certificate: str) -> None:
        """Revoke a certificate, in PEM, that the engine signed; once more does nothing."""
        ...


class Statuses(Protocol):
    """Status subresources of our kinds."""

    async def patch(self, key: Key, patch: Mapping[str, Any]) -> int:
        """Apply a merge patch to the status; return the new resource version. MissingError: the object is gone."""
        ...


class Events(Protocol):
    """Kubernetes Events: told once, never waited for."""

    def emit(self, key: Key, uid: str, reason: str, message: str, *, warning: bool = False) -> None:
        """Queue an Event about the object; it is written when nothing more urgent is to do, or dropped."""
        ...


class Workloads(Protocol):
    """Deployments, StatefulSets and DaemonSets."""

    async def read(self, namespace: str, target: Target) -> Workload | None:
        """Read one workload. Raises ForbiddenError without the right to."""
        ...

    async def annotate(self, namespace: str, target: Target, found: Workload, annotation: str, value: str) -> None:
        """Set one annotation on the Pod template of exactly the version in `found`, or raise ConflictError.

        Nothing else is touched; the workload's controller replaces its Pods.
        """
        ...


class TokenRequests(Protocol):
    """Tokens of service accounts. `audiences` empty: those of the API server itself."""

    async def of(self, namespace: str, name: str, audiences: tuple[str, ...], lifetime: timedelta) -> KeyMaterial:
        """Have a token of a service account made. RejectedError: there is no such account. At least ten minutes."""
        ...

    async def own(self, audiences: tuple[str, ...], lifetime: timedelta) -> KeyMaterial:
        """Have a token of the operator's own account made. RejectedError: it does not run as one."""
        ...


@dataclass(frozen=True, slots=True)
class WebhookConfiguration:
    """A ValidatingWebhookConfiguration: what the API server trusts of each webhook of ours in it, by its name."""

    name: str
    uid: str
    version: str
    authorities: Mapping[str, bytes]


class WebhookConfigurations(Protocol):
    """ValidatingWebhookConfigurations."""

    async def read(self, name: str) -> WebhookConfiguration | None:
        """Read one. Raises ForbiddenError without the right to."""
        ...

    async def trust(self, found: WebhookConfiguration, authorities: bytes) -> None:
        """Have the API server trust these certificates, in PEM, for each webhook in `found`, or raise ConflictError.

        Nothing else is touched.
        """
        ...
