"""What `spec.jwt` asks for, of an identity and of a trust domain, as values with every default filled in."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final

from serviceidentity.domain.jwt.jose import Algorithm

DEFAULT_LIFETIME: Final = timedelta(minutes=15)
LONGEST_LIFETIME: Final = timedelta(minutes=30)  # unless the trust domain allows more


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """How a signing key rotates.

    `max_token_lifetime` is the longest that a token signed with it is valid, `cache_time` how long a verifier may use a
    JWK Set without looking for a newer one, `propagation` how long a changed Secret or ConfigMap needs until every Pod
    has seen it.
    """

    algorithm: Algorithm
    rotate_every: timedelta
    max_token_lifetime: timedelta
    cache_time: timedelta
    propagation: timedelta

    @property
    def lead(self) -> timedelta:
        """How long the next key is published before it signs: then nobody's JWK Set can be without it."""
        return self.cache_time + self.propagation

    @property
    def tail(self) -> timedelta:
        """How long a replaced key stays published: its signer may see late that it was, and its last token lives on."""
        return self.max_token_lifetime + self.propagation


class Subject(StrEnum):
    """What a token's `sub` is: "namespace/service account", or the SPIFFE ID."""

    SERVICE = "Service"
    SPIFFE_ID = "SPIFFEID"


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """One token that the operator mints: `spec.jwt.tokens[]`."""

    name: str
    secret_name: str
    audiences: tuple[str, ...]
    lifetime: timedelta = DEFAULT_LIFETIME
    subject: Subject = Subject.SERVICE
    permissions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def credential(self) -> str:
        """Name of the credential that it is."""
        return f"token.{self.name}"


@dataclass(frozen=True, slots=True)
class SigningKeySpec:
    """The key that the service signs tokens of its own with, and where its public half is published."""

    secret_name: str
    config_map_name: str
    rotation: KeyRotation
    labels: dict[str, str] = field(default_factory=dict)  # of the Secret
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JwtSpec:
    """`spec.jwt` of an identity. No `key`: the service signs nothing itself."""

    key: SigningKeySpec | None
    tokens: tuple[TokenSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenIssuerSpec:
    """`spec.jwt` of a trust domain: how it signs the tokens of its identities.

    `issuer` None is the operator's own address for the trust domain. `asked_for` is whether the block is there: without
    it there is a key only once an identity asks for a token.
    """

    rotation: KeyRotation
    issuer: str | None = None
    asked_for: bool = False

    @property
    def longest_lifetime(self) -> timedelta:
        """The longest lifetime that a token may be asked for."""
        return self.rotation.max_token_lifetime


@dataclass(frozen=True, slots=True)
class Peer:
    """Another trust domain: its SPIFFE name, and its bundle's URL or its place in a ConfigMap (name, key) of ours.

    `authorities` is PEM; None means those that the system trusts.
    """

    trust_domain: str
    url: str | None = None
    authorities: str | None = None
    config_map: tuple[str, str] | None = None
