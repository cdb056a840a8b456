"""The policy of a trust domain as a value, with its defaults: deny whatever is not the identity's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, Protocol

from serviceidentity.domain.pki.keys import KeyAlgorithm
from serviceidentity.domain.policy.patterns import ClaimPattern, EmailPattern, Glob, LabelPattern, UriPattern
from serviceidentity.domain.selectors import LabelSelector
from serviceidentity.errors import ServiceIdentityError

# Only forms that no identity of another name or namespace can have too. So neither "*.{name}", which is any service of
# a namespace that is called like this identity, nor {serviceAccount}, which may be the name of another identity.
OWN_NAMES: Final = (
    "{name}",
    "{name}.{namespace}",
    "{name}.{namespace}.svc",
    "{name}.{namespace}.svc.cluster.local",
    "*.{name}.{namespace}.svc",
    "*.{name}.{namespace}.svc.cluster.local",
    "localhost",
)
LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
# Without those that make a certificate good for something else than a connection. An "ocsp signing" certificate could
# vouch for revoked ones of the same authority (RFC 6960 4.2.2.2).
CONNECTION_USAGES: Final = (
    "digital signature",
    "content commitment",
    "key encipherment",
    "data encipherment",
    "key agreement",
    "server auth",
    "client auth",
)


class ExpressionError(ServiceIdentityError):
    """A rule's expression can't be compiled, or can't be evaluated for an identity. The message may be shown."""


class Expression(Protocol):
    """A compiled CEL expression."""

    def __call__(self, variables: Mapping[str, Any]) -> bool:
        """Evaluate it. Raises ExpressionError when that fails or gives anything but true or false."""
        ...


Compile = Callable[[str], Expression]


def no_expressions(_expression: str) -> Expression:
    """Refuse to compile: nobody evaluates CEL here."""
    raise ExpressionError("CEL expressions can't be evaluated here")


@dataclass(frozen=True, slots=True)
class Rule:
    """What has to be true of an identity, and what its owner is told when it is not."""

    name: str
    expression: Expression
    message: str


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace as rules and selectors see it."""

    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """What tokens may claim. By default any audience, which a verifier compares with its own name, and no rights.

    A permission or a role in a token that the trust domain signed is a right at every service that verifies it: whoever
    may write an identity would be an administrator everywhere.
    """

    audiences: tuple[ClaimPattern, ...] | None = None  # None: any
    permissions: tuple[ClaimPattern, ...] = ()
    roles: tuple[ClaimPattern, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be issued, and to whom. None and an empty selector mean everything; an empty tuple means nothing."""

    namespace_names: tuple[Glob, ...] | None
    namespace_selector: LabelSelector | None
    dns_names: tuple[LabelPattern, ...]
    common_names: tuple[LabelPattern, ...]
    uris: tuple[UriPattern, ...]
    email_addresses: tuple[EmailPattern, ...]
    ip_networks: tuple[IPv4Network | IPv6Network, ...]
    usages: frozenset[str]
    private_keys: Mapping[KeyAlgorithm, frozenset[int]] | None  # no sizes: any
    rules: tuple[Rule, ...] = ()
    tokens: TokenPolicy = TokenPolicy()

    @property
    def needs_namespace(self) -> bool:
        """Whether it asks for more of a namespace than its name."""
        return self.namespace_selector is not None or bool(self.rules)


def default_policy() -> Policy:
    """Return the policy of a trust domain that has none written down."""
    own = tuple(LabelPattern.of(text) for text in OWN_NAMES)
    return Policy(
        namespace_names=None,
        namespace_selector=None,
        dns_names=own,
        common_names=own,
        uris=(),
        email_addresses=(),
        ip_networks=tuple(ip_network(text) for text in LOOPBACK),
        usages=frozenset(CONNECTION_USAGES),
        private_keys=None,
    )
