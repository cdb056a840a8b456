"""What users ask for: the specs of the custom resources as immutable values, with every default filled in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from serviceidentity.domain.jwt.spec import JwtSpec, Peer, TokenIssuerSpec
from serviceidentity.domain.pki.keys import KeyEncoding, KeyProfile
from serviceidentity.domain.pki.names import Subject
from serviceidentity.domain.policy.spec import Policy, default_policy
from serviceidentity.domain.selectors import LabelSelector
from serviceidentity.domain.vault.spec import VaultSpec

GROUP: Final = "serviceidentity.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"


class Kind(StrEnum):
    """Kinds of object that the operator works on."""

    SERVICE_IDENTITY = "ServiceIdentity"
    TRUST_DOMAIN = "TrustDomain"
    VAULT_CONNECTION = "VaultConnection"
    ACCESS_POLICY = "AccessPolicy"
    POLICY_BUNDLE = "PolicyBundle"  # no kind of the API: what one identity gets of the AccessPolicies
    VAULT_LEASE = "VaultLease"  # not a kind of the API: the record of a lease, which is a Secret of the operator's
    ENCRYPTION_KEYS = "EncryptionKeys"  # no kind of the API: the one Secret with the keys of encrypted values


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which object: the unit of work of the queue. Cluster-scoped kinds have an empty namespace."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def identity_key(namespace: str, name: str) -> Key:
    """Return the key of a ServiceIdentity."""
    return Key(Kind.SERVICE_IDENTITY, namespace, name)


def trust_domain_key(name: str) -> Key:
    """Return the key of a TrustDomain."""
    return Key(Kind.TRUST_DOMAIN, "", name)


def vault_connection_key(name: str) -> Key:
    """Return the key of a VaultConnection."""
    return Key(Kind.VAULT_CONNECTION, "", name)


def vault_lease_key(record: str) -> Key:
    """Return the key of a lease, by the name of its record."""
    return Key(Kind.VAULT_LEASE, "", record)


def access_policy_key(namespace: str, name: str) -> Key:
    """Return the key of an AccessPolicy."""
    return Key(Kind.ACCESS_POLICY, namespace, name)


def policy_bundle_key(namespace: str, name: str) -> Key:
    """Return the key of the bundle of policies that the ServiceIdentity of that name gets."""
    return Key(Kind.POLICY_BUNDLE, namespace, name)


ENCRYPTION_KEYS: Final = Key(Kind.ENCRYPTION_KEYS, "", "encryption-keys")


class DeletionPolicy(StrEnum):
    """What happens to the Secrets when the object is deleted."""

    DELETE = "Delete"
    RETAIN = "Retain"


class RotationPolicy(StrEnum):
    """Whether a re-issued certificate gets a new private key."""

    ALWAYS = "Always"
    NEVER = "Never"


class OutputFormat(StrEnum):
    """Formats a certificate Secret can carry besides PEM."""

    DER = "DER"
    COMBINED_PEM = "CombinedPEM"
    PKCS12 = "PKCS12"
    JKS = "JKS"


@dataclass(frozen=True, slots=True)
class Meta:
    """The object itself, as far as decisions depend on it."""

    namespace: str
    name: str
    uid: str
    generation: int
    annotations: dict[str, str] = field(default_factory=dict)
    deleting: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    created: str = ""  # RFC 3339 in UTC, so that comparing the texts compares the times


@dataclass(frozen=True, slots=True)
class SecretTemplate:
    """Labels and annotations that the user wants on a Secret."""

    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PrivateKeySpec:
    """How the leaf's private key is made and kept."""

    profile: KeyProfile = field(default_factory=KeyProfile)
    encoding: KeyEncoding = KeyEncoding.PKCS8
    rotation_policy: RotationPolicy = RotationPolicy.ALWAYS


@dataclass(frozen=True, slots=True)
class PasswordRef:
    """A key of a Secret in the identity's own namespace."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class CertificateSpec:
    """The leaf certificate that an identity asks for."""

    secret_name: str
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    uris: tuple[str, ...]
    email_addresses: tuple[str, ...]
    usages: tuple[str, ...]
    subject: Subject
    duration: timedelta
    renew_before: timedelta | None
    private_key: PrivateKeySpec
    output_formats: frozenset[OutputFormat]
    keystore_password: PasswordRef | None
    template: SecretTemplate

    @property
    def common_name(self) -> str:
        """The subject's common name; empty when there is to be none."""
        return self.subject.common_name


@dataclass(frozen=True, slots=True)
class HmacSpec:
    """The HMAC key that an identity signs its requests with."""

    secret_name: str
    service_id: str
    rotate_every: timedelta
    overlap: timedelta
    publish_before: timedelta
    verifiers: tuple[Key, ...]
    template: SecretTemplate


@dataclass(frozen=True, slots=True)
class EncryptedSpec:
    """Values that are encrypted (domain/encryption/values.py), by the key that each has in the Secret."""

    secret_name: str
    values: Mapping[str, str]
    template: SecretTemplate


@dataclass(frozen=True, slots=True)
class CallerRule:
    """Whose HMAC key a service accepts; the name "*" means every identity of the namespace."""

    namespace: str
    name: str

    def admits(self, caller: Key) -> bool:
        """Say whether this rule consents to the caller."""
        return caller.namespace == self.namespace and self.name in ("*", caller.name)


class WorkloadKind(StrEnum):
    """Kinds of workload that can be restarted, all of API group apps/v1."""

    DEPLOYMENT = "Deployment"
    STATEFUL_SET = "StatefulSet"
    DAEMON_SET = "DaemonSet"


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A workload of the identity's own namespace."""

    kind: WorkloadKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """Which workloads are restarted when which credentials have new content, and how often at most."""

    targets: tuple[Target, ...]
    credentials: frozenset[str]  # by their status field: certificate, hmac, keyring, encrypted, jwt, tokens
    min_interval: timedelta
    settle: timedelta


@dataclass(frozen=True, slots=True)
class Identity:
    """One ServiceIdentity."""

    meta: Meta
    trust_domain: str
    service_account: str
    certificate: CertificateSpec | None
    hmac: HmacSpec | None
    callers: tuple[CallerRule, ...]
    deletion_policy: DeletionPolicy
    suspend: bool
    rollout: RolloutSpec | None = None
    vault: VaultSpec | None = None
    encrypted: EncryptedSpec | None = None
    jwt: JwtSpec | None = None
    written: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)  # the spec, for rules

    @property
    def key(self) -> Key:
        """The identity's key in the queue."""
        return identity_key(self.meta.namespace, self.meta.name)

    @property
    def keyring_secret_name(self) -> str:
        """Where the keys of this service's callers are delivered."""
        return f"{self.meta.name}-hmac-keyring"

    def admits(self, caller: Key) -> bool:
        """Say whether this service consents to receiving the caller's key."""
        return any(rule.admits(caller) for rule in self.callers)


class BundleFormat(StrEnum):
    """Forms in which a trust bundle is published; PEM always is."""

    PEM = "PEM"
    JKS = "JKS"
    PKCS12 = "PKCS12"
    SPIFFE = "SPIFFE"


class StoreKind(StrEnum):
    """Kinds of object that hold a trust bundle, or roots to add to one."""

    CONFIG_MAP = "ConfigMap"
    SECRET = "Secret"  # noqa: S105  # a kind


@dataclass(frozen=True, slots=True)
class RootSource:
    """Roots to publish besides the trust domain's own: PEM text, or a key of an object in the operator's namespace.

    `path` is where the spec names it.
    """

    path: str
    pem: str | None = None
    kind: StoreKind = StoreKind.CONFIG_MAP
    name: str = ""
    key: str = ""

    def __str__(self) -> str:
        return self.path if self.pem is not None else f"{self.kind} {self.name}, key {self.key}"


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """Where the trust bundle is published, and in which forms. Without a selector it is published nowhere."""

    kind: StoreKind
    name: str
    selector: LabelSelector | None
    formats: frozenset[BundleFormat]
    truststore_password: str
    template: SecretTemplate
    extra_roots: tuple[RootSource, ...] = ()


@dataclass(frozen=True, slots=True)
class VaultIssuer:
    """An issuer of the PKI engine that Vault or OpenBao has mounted at `mount`: its name or ID."""

    mount: str
    issuer: str


@dataclass(frozen=True, slots=True)
class VaultSigner(VaultIssuer):
    """An issuer that signs leaves, as far as a role of its PKI engine allows."""

    role: str


@dataclass(frozen=True, slots=True)
class AuthoritySpec:
    """A certificate authority to make; or, with `secret_name`, one that people keep in a Secret of that name.

    With `vault` its key is made here, and signed there.
    """

    common_name: str
    organization: str | None
    duration: timedelta
    profile: KeyProfile
    renew_before: timedelta | None = None
    secret_name: str | None = None
    vault: VaultIssuer | None = None


@dataclass(frozen=True, slots=True)
class CrlSpec:
    """How revocation lists are made: how long each is valid, and how long before its end the next one is made.

    `always` means that there are lists even while nothing is revoked.
    """

    always: bool
    duration: timedelta
    renew_before: timedelta


@dataclass(frozen=True, slots=True)
class RevokedSpec:
    """A certificate that the operator can't know of; `issuer` is the fingerprint of the authority that signed it."""

    serial_number: str
    reason: str
    revoked_at: datetime | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """One TrustDomain: who signs, under which SPIFFE trust domain name."""

    meta: Meta
    trust_domain: str
    root: AuthoritySpec
    intermediate: AuthoritySpec
    max_leaf_duration: timedelta
    backdate: timedelta
    deletion_policy: DeletionPolicy
    propagation: timedelta
    tainted: dict[str, bool]  # fingerprints of authorities, and whether they leave the bundle at once
    reissues_per_second: int
    crl: CrlSpec
    revoked: tuple[RevokedSpec, ...]
    jwt: TokenIssuerSpec
    bundle: BundleSpec | None = None
    leaves: VaultSigner | None = None  # who signs them, when that is not an authority whose key is here
    policy: Policy = field(default_factory=default_policy)
    peers: tuple[Peer, ...] = ()  # the trust domains whose bundles are fetched and published

    @property
    def key(self) -> Key:
        """The trust domain's key in the queue."""
        return trust_domain_key(self.meta.name)

    @property
    def brought_secret(self) -> str | None:
        """Name of the Secret with the authority that people bring along, if they do."""
        return self.intermediate.secret_name or self.root.secret_name

    @property
    def root_is_elsewhere(self) -> bool:
        """Say whether the roots are not made here."""
        return self.brought_secret is not None or self.intermediate.vault is not None or self.leaves is not None


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    """Return the SPIFFE ID of a service account, in the form that SPIRE and Istio use."""
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"
