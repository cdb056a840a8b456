"""What users ask of Vault or OpenBao: `spec.vault` of an identity, and the VaultConnection that it goes through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.pki.keys import KeyProfile
from serviceidentity.domain.selectors import LabelSelector
from serviceidentity.domain.vault.templates import Template

DEFAULT_CONNECTION: Final = "default"


class SourceKind(StrEnum):
    """What a secret of Vault is, as its status says."""

    KV = "KV"
    DATABASE = "Database"
    STATIC_ROLE = "StaticRole"
    LEASE = "Lease"
    PKI = "PKI"
    TRANSIT = "Transit"


@dataclass(frozen=True, slots=True)
class KvSource:
    """A secret of a KV engine of either version; `version` pins one of its versions (KV v2 only)."""

    mount: str
    path: str
    version: int | None = None

    kind = SourceKind.KV

    def __str__(self) -> str:
        return f"{self.mount}/{self.path}" + (f" version {self.version}" if self.version else "")


@dataclass(frozen=True, slots=True)
class StaticRoleSource:
    """The password of a static role of a database engine, which Vault rotates itself."""

    mount: str
    role: str

    kind = SourceKind.STATIC_ROLE

    def __str__(self) -> str:
        return self.path

    @property
    def path(self) -> str:
        """Where it is read."""
        return f"{self.mount}/static-creds/{self.role}"


@dataclass(frozen=True, slots=True)
class LeaseSource:
    """Credentials that an engine makes when they are read, and that live as long as their lease.

    `parameters` go with the request: in its query for GET, in its body for PUT.
    """

    path: str
    method: str = "GET"
    parameters: tuple[tuple[str, str], ...] = ()
    kind: SourceKind = SourceKind.LEASE

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class PkiSource:
    """A certificate that a role of a PKI engine signs; its key is made here. No `renew_before`: a third of its life."""

    mount: str
    role: str
    common_name: str
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    uris: tuple[str, ...]
    duration: timedelta | None
    renew_before: timedelta | None
    profile: KeyProfile

    kind = SourceKind.PKI

    def __str__(self) -> str:
        return f"{self.mount}/sign/{self.role}"


@dataclass(frozen=True, slots=True)
class TransitSource:
    """A data key, in plain and wrapped by a key of a transit engine; a new one each `rotate_every`, if given."""

    mount: str
    key: str
    bits: int
    rotate_every: timedelta | None

    kind = SourceKind.TRANSIT

    def __str__(self) -> str:
        return f"{self.mount}/datakey/{self.key}"


Source = KvSource | StaticRoleSource | LeaseSource | PkiSource | TransitSource


@dataclass(frozen=True, slots=True)
class VaultSecretSpec:
    """One secret of Vault and the Secret that it goes into.

    `keys` names for each key of the Secret the field of Vault's answer; `templates` has expressions to compose values
    of several fields. With neither of them every field goes into the Secret under its own name.
    """

    name: str
    secret_name: str
    source: Source
    refresh_every: timedelta
    overlap: timedelta
    keys: Mapping[str, str] = field(default_factory=dict)
    templates: Mapping[str, Template] = field(default_factory=dict)
    type: str = "Opaque"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VaultSpec:
    """`spec.vault` of an identity: which connection, as which role there, and what is wanted."""

    connection: str
    role: str | None
    secrets: tuple[VaultSecretSpec, ...]


class LoginAs(StrEnum):
    """Whose service account proves who logs in: the identity's own, or the operator's."""

    IDENTITY = "Identity"
    OPERATOR = "Operator"


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A key of a Secret in the operator's own namespace."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class KubernetesAuth:
    """Auth method "kubernetes", or "jwt" when `jwt` is true, with a service account's token for `audiences`.

    `role` None: the identity names one in spec.vault.role, else it is called as its service account.
    """

    mount: str
    role: str | None
    login_as: LoginAs
    audiences: tuple[str, ...] = ()
    jwt: bool = False


@dataclass(frozen=True, slots=True)
class JwtAuth:
    """Auth method "jwt" with a token that somebody else makes: in a file of the operator's, read at each login."""

    mount: str
    role: str | None
    file: str


@dataclass(frozen=True, slots=True)
class TokenAuth:
    """A Vault token: in a file of the operator's, or in a Secret; read anew when it is refused.

    `given` is one that the operator was started with; no VaultConnection object can say that.
    """

    file: str | None = None
    secret: SecretKey | None = None
    given: KeyMaterial | None = None


@dataclass(frozen=True, slots=True)
class AppRoleAuth:
    """Auth method "approle"."""

    mount: str
    role_id: str
    secret_id: SecretKey


@dataclass(frozen=True, slots=True)
class CertificateAuth:
    """Auth method "cert" with the key pair in a Secret of type kubernetes.io/tls, such as an identity's own."""

    mount: str
    role: str | None
    secret_name: str


Auth = KubernetesAuth | JwtAuth | TokenAuth | AppRoleAuth | CertificateAuth


@dataclass(frozen=True, slots=True)
class AllowedNamespaces:
    """Who may use a connection: namespaces by name, where `*` stands for any characters, or by label."""

    names: tuple[str, ...] = ()
    selector: LabelSelector | None = None

    def admits(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Say whether a namespace is admitted: by its name or by its labels, one of both is enough."""
        by_label = self.selector is not None and self.selector.admits(labels)
        return by_label or any(_matches(pattern.split("*"), namespace) for pattern in self.names)


@dataclass(frozen=True, slots=True)
class ConnectionSpec:
    """How to reach one server, who logs in there, who may use it, and how much is asked of it at once.

    `ca` is a bundle in PEM; None, with no `ca_secret`, means the system's authorities.
    """

    address: str
    auth: Auth
    allowed: AllowedNamespaces
    ca: str | None = None
    ca_secret: SecretKey | None = None
    server_name: str | None = None
    vault_namespace: str | None = None
    in_flight: int = 8


@dataclass(frozen=True, slots=True)
class VaultConnection:
    """One VaultConnection object."""

    meta: Any  # domain.model.Meta; not named here, because the model names this module
    spec: ConnectionSpec


def _matches(pieces: Sequence[str], name: str) -> bool:
    """Say whether a name is made of these pieces, in this order, with any characters between them. Linear in both."""
    first, *rest = pieces
    if not rest:
        return name == first
    *middle, last = rest
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in middle:
        found = name.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True
