"""Reading a bundle of policies: the ConfigMap `<identity>-policy`, verified with the trust domain's JWK Set."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from serviceidentity_sdk.credentials import CredentialError, Snapshot
from serviceidentity_sdk.jwt.jose import KeyFormatError, KeySet, document_of, read_key_set
from serviceidentity_sdk.policy.decisions import EFFECTS, Policies, Policy, Rule, compiled

FILE: Final = "policy.jws"
TYPE: Final = "serviceidentity-policy+jws"
FORMAT: Final = 1


def reader(service: str) -> Callable[[Snapshot, Snapshot], Policies]:
    """Return what reads the bundle of `service`, "<namespace>/<name>" of its ServiceIdentity, for a `Watch`.

    The directories are that of `policy.jws`, and that of the trust domain's `jwks.json`. A bundle that does not verify,
    is another service's, or can't be understood raises CredentialError: the watch keeps the last good one.
    """
    if service.count("/") != 1:
        raise ValueError('a service is named "<namespace>/<name>"')
    logging.getLogger("cel").setLevel(logging.CRITICAL)  # it quotes values

    def read(policy: Snapshot, trust: Snapshot) -> Policies:
        try:
            keys = read_key_set(trust.read("jwks.json"))
        except KeyFormatError as error:
            raise CredentialError(f"{trust.path}/jwks.json: {error}") from None
        try:
            return read_bundle(policy.text(FILE), keys, service)
        except ValueError as error:
            raise CredentialError(f"{policy.path}/{FILE}: {error}") from None

    return read


def read_bundle(text: str, keys: KeySet, service: str) -> Policies:
    """Verify and compile a bundle. Raises ValueError, whose message never quotes it."""
    payload = document_of(text.strip(), keys, TYPE)
    if payload is None:
        raise ValueError("it is not signed with a key of the trust domain")
    try:
        body = json.loads(payload)
        if body["version"] != FORMAT:
            raise ValueError("it has a version that is not known here")
        named = f"{body['service']['namespace']}/{body['service']['name']}"
        policies = tuple(_policy(part) for part in body["policies"])
        digest = str(body["digest"])
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError):
        raise ValueError("it is no bundle of policies") from None
    if named != service:
        raise ValueError("it is the bundle of another service")
    return Policies(service, digest, policies)


def _policy(part: Mapping[str, Any]) -> Policy:
    return Policy.of(
        str(part["name"]),
        _zone(part["timeZone"]),
        {str(role["name"]): tuple(map(str, role["permissions"])) for role in part["roles"]},
        tuple(_rule(rule) for rule in part["rules"]),
    )


def _rule(rule: Mapping[str, Any]) -> Rule:
    if rule["effect"] not in EFFECTS:
        raise ValueError("a rule has an effect that is not known here")
    return Rule(str(rule["name"]), rule["effect"], compiled(rule["expression"]), str(rule["reason"]))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("a time zone is not known here") from None
