"""Whether an identity may have what it asks for: a chain of small checks, each of which gives a reason or nothing."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from ipaddress import ip_address
from typing import Any, Final

from serviceidentity.domain.jwt.spec import TokenSpec
from serviceidentity.domain.model import API_VERSION, CertificateSpec, Identity, Key, Kind, TrustDomain, spiffe_id
from serviceidentity.domain.policy.patterns import Pattern, shown
from serviceidentity.domain.policy.spec import ExpressionError, Namespace
from serviceidentity.domain.schedule import format_duration

CERTIFICATE: Final = "certificate"  # the credential
_QUOTED: Final = 80
_NAMED: Final = 8


class DenialReason(StrEnum):
    """Reasons in conditions."""

    POLICY_DENIED = "PolicyDenied"
    SPIFFE_ID_IN_USE = "SPIFFEIDInUse"
    NAMESPACE_NOT_SEEN = "NamespaceNotSeen"


@dataclass(frozen=True, slots=True)
class Denial:
    """Why nothing new is issued of a credential, by its name; None means of none that the policy is about."""

    reason: DenialReason
    message: str
    credential: str | None = CERTIFICATE

    @property
    def whole(self) -> bool:
        """Whether it is about the identity as a whole."""
        return self.credential is None

    def concerns(self, credential: str) -> bool:
        """Say whether it is about the credential."""
        return self.credential in (None, credential)


class Request:
    """One question: what an identity asks for, of which trust domain, from which namespace."""

    def __init__(self, identity: Identity, domain: TrustDomain, namespace: Namespace | None) -> None:
        self.identity = identity
        self.domain = domain
        self.policy = domain.policy
        self.namespace = namespace
        self.values = {
            "namespace": identity.meta.namespace,
            "name": identity.meta.name,
            "serviceAccount": identity.service_account,
        }

    @cached_property
    def variables(self) -> Mapping[str, Any]:
        """What a rule sees: `object` and `namespaceObject`, as in a ValidatingAdmissionPolicy."""
        meta, namespace = self.identity.meta, self.namespace
        seen = {} if namespace is None else _metadata(namespace.labels, namespace.annotations, name=namespace.name)
        return {
            "object": {
                "apiVersion": API_VERSION,
                "kind": Kind.SERVICE_IDENTITY.value,
                "metadata": _metadata(
                    meta.labels,
                    meta.annotations,
                    name=meta.name,
                    namespace=meta.namespace,
                    uid=meta.uid,
                    generation=meta.generation,
                    creationTimestamp=meta.created,
                ),
                "spec": self.identity.written,
            },
            "namespaceObject": {"apiVersion": "v1", "kind": "Namespace", "metadata": seen},
        }

    def denied(
        self, where: str, what: str, field: str, allowed: Iterable[str] = (), of: str | None = CERTIFICATE
    ) -> Denial:
        """Say no: `what` at `where` is not what `field` of the policy allows; `of` is the credential, None for all."""
        listed = list(allowed)
        more = ["..."] if len(listed) > _NAMED else []
        hint = f" (allowed: {', '.join([*listed[:_NAMED], *more]) or 'none'})" if field else ""
        message = f"{where}: {what} is not allowed by TrustDomain {self.domain.meta.name}: {field}{hint}"
        return Denial(DenialReason.POLICY_DENIED, message, of)


Check = Callable[[Request], Denial | None]
CertificateCheck = Callable[[Request, CertificateSpec], Denial | None]
TokenCheck = Callable[[Request, TokenSpec, str], Denial | None]  # the text is where the entry is in the spec


def namespace_seen(request: Request) -> Denial | None:
    """The policy looks at the namespace, and no watch has told of it yet."""
    if request.namespace is None and request.policy.needs_namespace:
        message = f"namespace {request.identity.meta.namespace} has not been seen yet"
        return Denial(DenialReason.NAMESPACE_NOT_SEEN, message, None)
    return None


def namespace_allowed(request: Request) -> Denial | None:
    """The namespace has to have one of the names, and the labels."""
    policy, name = request.policy, request.identity.meta.namespace
    names, selector = policy.namespace_names, policy.namespace_selector
    if names is not None and not any(glob.matches(name, {}) for glob in names):
        listed = ["*".join(glob.pieces) for glob in names]
        return request.denied("metadata.namespace", _quoted(name), "namespaces.names", listed, None)
    labels = request.namespace.labels if request.namespace else {}
    if selector is not None and not selector.admits(labels):
        missing = [f"{r.key} {r.operator} {list(r.values)}" for r in selector.requirements if not r.admits(labels)]
        return request.denied("metadata.namespace", _quoted(name), "namespaces.selector", missing, None)
    return None


def rules_hold(request: Request) -> Denial | None:
    """Every rule has to be true; one that can't be evaluated is not."""
    for rule in request.policy.rules:
        where = f"TrustDomain {request.domain.meta.name}, rule {rule.name}"
        try:
            if rule.expression(request.variables):
                continue
        except ExpressionError as error:
            message = f"{where}: it could not be evaluated, so nothing is issued: {error}"
            return Denial(DenialReason.POLICY_DENIED, message, None)
        return Denial(DenialReason.POLICY_DENIED, f"{where}: {rule.message}", None)
    return None


def dns_names_allowed(request: Request, spec: CertificateSpec) -> Denial | None:
    """Each DNS name has to match a pattern."""
    return _first_outside(request, "dnsNames", spec.dns_names, request.policy.dns_names)


def common_name_allowed(request: Request, spec: CertificateSpec) -> Denial | None:
    """So has the common name, from which services read their peer's name."""
    patterns = request.policy.common_names
    if not spec.common_name or any(pattern.matches(spec.common_name, request.values) for pattern in patterns):
        return None
    allowed = [shown(pattern, request.values) for pattern in patterns]
    return request.denied("spec.certificate.commonName", _quoted(spec.common_name), "commonNames", allowed)


def ip_addresses_allowed(request: Request, spec: CertificateSpec) -> Denial | None:
    """Each IP address has to lie in a network."""
    networks = request.policy.ip_networks
    for index, text in enumerate(spec.ip_addresses):
        try:
            address = ip_address(text)
        except ValueError:
            continue  # not one at all, which issuing says
        if not any(address in network for network in networks):
            where = f"spec.certificate.ipAddresses[{index}]"
            return request.denied(where, _quoted(text), "ipAddresses", [str(network) for network in networks])
    return None


def uris_allowed(request: Request, spec: CertificateSpec) -> Denial | None:
    """Each URI beside the SPIFFE ID has to match a pattern."""
    return _first_outside(request, "uris", spec.uris, request.policy.uris)


def email_addresses_allowed(request: Request, spec: CertificateSpec) -> Denial | None:
    """Each e-mail address has to match a pattern."""
    return _first_outside(request, "emailAddresses", spec.email_addresses, request.policy.email_addresses)


def usages_allowed(request: Request, spec: CertificateSpec) -> Denial | None:
    """Each usage has to be listed."""
    usages = request.policy.usages
    for index, usage in enumerate(spec.usages):
        if usage not in usages:
            return request.denied(f"spec.certificate.usages[{index}]", _quoted(usage), "usages", sorted(usages))
    return None


def private_key_allowed(request: Request, spec: CertificateSpec) -> Denial | None:
    """The kind and size of key has to be listed."""
    allowed, profile = request.policy.private_keys, spec.private_key.profile
    if allowed is None:
        return None
    sizes = allowed.get(profile.algorithm)
    if sizes is not None and (not sizes or profile.size in sizes):
        return None
    asked = f"{profile.algorithm} {profile.size}" if profile.size else str(profile.algorithm)
    listed = [
        f"{algorithm} {size}" if size else str(algorithm)
        for algorithm, listed_sizes in allowed.items()
        for size in (sorted(listed_sizes) or [0])
    ]
    return request.denied("spec.certificate.privateKey", asked, "privateKeys", listed)


def lifetime_allowed(request: Request, token: TokenSpec, where: str) -> Denial | None:
    """A token must not outlive the tail of the key that signs it: after that nobody could verify it."""
    longest = request.domain.jwt.longest_lifetime
    if token.lifetime <= longest:
        return None
    asked, allowed = format_duration(token.lifetime), f"up to {format_duration(longest)}"
    return request.denied(f"{where}.ttl", asked, "spec.jwt.maxTokenTTL", [allowed], token.credential)


def audiences_allowed(request: Request, token: TokenSpec, where: str) -> Denial | None:
    """Each audience has to match a pattern, if there are any."""
    patterns = request.policy.tokens.audiences
    return None if patterns is None else _first_claim(request, token, f"{where}.audiences", token.audiences, patterns)


def permissions_allowed(request: Request, token: TokenSpec, where: str) -> Denial | None:
    """Each permission has to match a pattern."""
    return _first_claim(request, token, f"{where}.permissions", token.permissions, request.policy.tokens.permissions)


def roles_allowed(request: Request, token: TokenSpec, where: str) -> Denial | None:
    """So has each role."""
    return _first_claim(request, token, f"{where}.roles", token.roles, request.policy.tokens.roles)


# First what is about the identity as a whole: it holds up everything, so it must not hide behind a name.
WHOLE: Final[tuple[Check, ...]] = (namespace_seen, namespace_allowed, rules_hold)
NAMES: Final[tuple[CertificateCheck, ...]] = (
    dns_names_allowed,
    common_name_allowed,
    ip_addresses_allowed,
    uris_allowed,
    email_addresses_allowed,
    usages_allowed,
    private_key_allowed,
)


TOKEN: Final[tuple[TokenCheck, ...]] = (lifetime_allowed, audiences_allowed, permissions_allowed, roles_allowed)


def check(identity: Identity, domain: TrustDomain, namespace: Namespace | None) -> Denial | None:
    """Return why the trust domain's policy denies what the identity asks for; None when it does not."""
    request = Request(identity, domain, namespace)
    denial = next((found for look in WHOLE if (found := look(request)) is not None), None)
    if denial is not None or identity.certificate is None:
        return denial
    spec = identity.certificate
    return next((found for look in NAMES if (found := look(request, spec)) is not None), None)


def check_tokens(identity: Identity, domain: TrustDomain) -> tuple[Denial, ...]:
    """Return why the trust domain's policy denies tokens, at most one reason for each of them."""
    request = Request(identity, domain, None)
    given = enumerate(identity.jwt.tokens) if identity.jwt is not None else ()
    found = (
        next((no for look in TOKEN if (no := look(request, token, f"spec.jwt.tokens[{index}]")) is not None), None)
        for index, token in given
    )
    return tuple(denial for denial in found if denial is not None)


@dataclass(frozen=True, slots=True)
class Claim:
    """An identity that asks to be called by a SPIFFE ID: whether something says so already, and when it was created."""

    key: Key
    issued: bool
    created: str


def spiffe_id_in_use(claims: Sequence[Claim], identity: Identity, domain: TrustDomain) -> Denial | None:
    """Say whether another identity has this one's SPIFFE ID: who was issued it keeps it, else the oldest gets it.

    The subject of a token, "namespace/service account", is the same name in another form.
    """
    holder = min(claims, key=lambda claim: (not claim.issued, claim.created, claim.key), default=None)
    if holder is None or holder.key == identity.key:
        return None
    name = spiffe_id(domain.trust_domain, identity.meta.namespace, identity.service_account)
    message = f"spec.serviceAccountName: {name} belongs to ServiceIdentity {holder.key.name}"
    return Denial(DenialReason.SPIFFE_ID_IN_USE, message)


def _first_outside(request: Request, field: str, names: Sequence[str], patterns: Sequence[Pattern]) -> Denial | None:
    for index, name in enumerate(names):
        if not any(pattern.matches(name, request.values) for pattern in patterns):
            where = f"spec.certificate.{field}[{index}]"
            return request.denied(where, _quoted(name), field, [shown(p, request.values) for p in patterns])
    return None


def _first_claim(
    request: Request, token: TokenSpec, where: str, claims: Sequence[str], patterns: Sequence[Pattern]
) -> Denial | None:
    for index, claim in enumerate(claims):
        if not any(pattern.matches(claim, request.values) for pattern in patterns):
            allowed = [shown(pattern, request.values) for pattern in patterns]
            field = f"spec.policy.tokens.{where.rpartition('.')[2]}"
            return request.denied(f"{where}[{index}]", _quoted(claim), field, allowed, token.credential)
    return None


def _metadata(labels: Mapping[str, str], annotations: Mapping[str, str], **fields: object) -> dict[str, object]:
    """Return metadata as the API has it: without what is empty."""
    found = {**fields, "labels": dict(labels), "annotations": dict(annotations)}
    return {name: value for name, value in found.items() if value}


def _quoted(text: str) -> str:
    """Return the start of what the user wrote, for a message."""
    return json.dumps(text if len(text) <= _QUOTED else text[:_QUOTED] + "...")
