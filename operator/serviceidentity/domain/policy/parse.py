"""From `spec.policy` of a TrustDomain to its value. An absent field is the default, an empty list allows nothing."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import TypeVar

from serviceidentity.domain.fields import Json, block, blocks, label_selector, member, text, texts
from serviceidentity.domain.pki.keys import KeyAlgorithm
from serviceidentity.domain.policy.patterns import ClaimPattern, EmailPattern, Glob, LabelPattern, UriPattern
from serviceidentity.domain.policy.spec import Compile, ExpressionError, Policy, Rule, TokenPolicy, default_policy
from serviceidentity.errors import InvalidSpecError

T = TypeVar("T")
PATH = "spec.policy"


def policy(spec: Json, compile_rule: Compile) -> Policy:
    """Read the policy of a TrustDomain's spec. Raises InvalidSpecError, for a rule with its name."""
    given, default = block(spec, "policy", "spec"), default_policy()
    namespaces = block(given, "namespaces", PATH)
    dns_names = _listed(given, "dnsNames", LabelPattern.of)
    return replace(
        default,
        namespace_names=_listed(namespaces, "names", Glob.of, f"{PATH}.namespaces"),
        namespace_selector=None
        if namespaces.get("selector") is None
        else label_selector(block(namespaces, "selector", f"{PATH}.namespaces"), f"{PATH}.namespaces.selector"),
        dns_names=default.dns_names if dns_names is None else dns_names,
        common_names=_or(
            _listed(given, "commonNames", LabelPattern.of),
            default.common_names if dns_names is None else (LabelPattern.of("{name}"), *dns_names),
        ),
        uris=_or(_listed(given, "uris", UriPattern.of), default.uris),
        email_addresses=_or(_listed(given, "emailAddresses", EmailPattern.of), default.email_addresses),
        ip_networks=_or(_listed(given, "ipAddresses", ip_network), default.ip_networks),
        usages=default.usages if given.get("usages") is None else frozenset(texts(given, "usages", PATH)),
        private_keys=None
        if given.get("privateKeys") is None
        else {
            member(KeyAlgorithm, item.get("algorithm"), f"{path}.algorithm"): _sizes(item, path)
            for path, item in blocks(given, "privateKeys", PATH)
        },
        tokens=_tokens(block(given, "tokens", PATH)),
        rules=tuple(_rule(item, path, compile_rule) for path, item in blocks(given, "rules", PATH)),
    )


def _tokens(given: Json) -> TokenPolicy:
    path, default = f"{PATH}.tokens", TokenPolicy()
    return TokenPolicy(
        audiences=_listed(given, "audiences", ClaimPattern.of, path),
        permissions=_or(_listed(given, "permissions", ClaimPattern.of, path), default.permissions),
        roles=_or(_listed(given, "roles", ClaimPattern.of, path), default.roles),
    )


def _or(value: tuple[T, ...] | None, default: tuple[T, ...]) -> tuple[T, ...]:
    return default if value is None else value


def _listed(given: Json, field: str, read: Callable[[str], T], path: str = PATH) -> tuple[T, ...] | None:
    if given.get(field) is None:
        return None
    found = []
    for index, value in enumerate(texts(given, field, path)):
        try:
            found.append(read(value))
        except ValueError as error:
            raise InvalidSpecError(f"{path}.{field}[{index}]", str(error)) from None
    return tuple(found)


def _sizes(item: Json, path: str) -> frozenset[int]:
    sizes = item.get("sizes") or []
    if not isinstance(sizes, Sequence) or not all(isinstance(size, int) for size in sizes):
        raise InvalidSpecError(f"{path}.sizes", "must be a list of numbers of bits")
    return frozenset(sizes)


def _rule(item: Json, path: str, compile_rule: Compile) -> Rule:
    name = text(item, "name", path)
    try:
        expression = compile_rule(text(item, "expression", path))
    except ExpressionError as error:
        raise InvalidSpecError(f"{path}.expression", f"rule {name}: {error}") from None
    return Rule(name, expression, text(item, "message", path))
