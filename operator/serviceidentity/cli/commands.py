"""What the commands do: read our objects, or annotate and patch them, with the rights of whoever asks."""

import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from serviceidentity.adapters.kube.client import MERGE_PATCH, Json, KubeClient, segment
from serviceidentity.adapters.kube.objects import collection
from serviceidentity.domain import ownership
from serviceidentity.domain.authority import AuthorityState, Role
from serviceidentity.domain.authority.sealing import KEYS_ENCRYPTED, REWRAP_ANNOTATION
from serviceidentity.domain.authority.signing import ACTIVATE_ANNOTATION, ROTATE_ROOT_ANNOTATION
from serviceidentity.domain.jwt.turning import REVOKE_ANNOTATION as REVOKE_JWT
from serviceidentity.domain.jwt.turning import ROTATE_ANNOTATION as ROTATE_JWT
from serviceidentity.domain.model import Kind
from serviceidentity.errors import ConflictError, MissingError, ServiceIdentityError

REQUESTS: Final = {
    "prepare": (ROTATE_ROOT_ANNOTATION, "a new root is being prepared"),
    "rotate": (ownership.ROTATE_ANNOTATION, "a new intermediate is being prepared"),
    "rewrap": (REWRAP_ANNOTATION, "private keys are encrypted anew, with the newest key-encryption key"),
    "rotate-jwt": (ROTATE_JWT, "a new token key is being prepared; it signs when everyone has had it for its lead"),
    "revoke-jwt": (
        REVOKE_JWT,
        "a new token key signs; what the earlier ones signed is refused by whoever fetches the JWK Set again",
    ),
    "activate": (ACTIVATE_ANNOTATION, "what is prepared signs as soon as everyone has it"),
}
_ATTEMPTS: Final = 5
_NONE: Final[Mapping[str, str | None]] = MappingProxyType({})
# Which authorities people may bring along, so that only they can make a new one; the root comes with its intermediate.
_BROUGHT_BY: Final = {"prepare": ("root", "intermediate"), "rotate": ("intermediate",)}
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")


class UsageError(ServiceIdentityError):
    """What was asked for does not exist or makes no sense."""


def context_of(kubeconfig: str, wanted: str | None) -> tuple[str | None, str]:
    """Return the context to use, by default the first that is current, and its namespace. Raises UsageError."""
    try:
        configs = [yaml.safe_load(Path(path).read_text()) or {} for path in kubeconfig.split(os.pathsep)]
        name = wanted or next((one["current-context"] for one in configs if one.get("current-context")), None)
        contexts = [item for one in configs for item in one.get("contexts") or () if item["name"] == name]
        if not contexts and name is not None:
            raise UsageError(f"no usable kubeconfig: there is no context {name} in {kubeconfig}")
        return name, str(contexts[0]["context"].get("namespace") or "default") if contexts else "default"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        raise UsageError(f"no usable kubeconfig: {kubeconfig} can't be read") from None


async def status(client: KubeClient, namespace: str | None, name: str | None) -> str:
    """Return a table of identities; of one, everything that an operator on call wants to know."""
    if name is not None:
        item = await _get(client, Kind.SERVICE_IDENTITY, namespace or "default", name)
        return _details(item)
    try:
        items, _ = await client.list_all(collection(Kind.SERVICE_IDENTITY, namespace or ""))
    except MissingError:
        raise UsageError("the cluster knows no ServiceIdentity: is the operator installed?") from None
    rows = [["NAMESPACE", "NAME", "READY", "REASON", "EXPIRES", "NEXT ACTION"]]
    for item in items:
        found, ready = item.get("status") or {}, _ready(item)
        rows.append(
            [
                item["metadata"]["namespace"],
                item["metadata"]["name"],
                ready.get("status", "Unknown"),
                ready.get("reason", "-"),
                (found.get("certificate") or {}).get("notAfter", "-"),
                found.get("nextActionTime", "-"),
            ]
        )
    return _table(rows) if items else "no identities"


async def rotate(client: KubeClient, namespace: str, name: str) -> str:
    """Ask for new credentials of an identity."""
    await _annotate(client, Kind.SERVICE_IDENTITY, namespace, name, ownership.ROTATE_ANNOTATION)
    return f"{namespace}/{name}: rotation asked for"


async def revoke(client: KubeClient, namespace: str, name: str, reason: str | None) -> str:
    """Ask for new certificates of an identity, and for its old ones to be refused. Without a reason none is given."""
    item = await _get(client, Kind.SERVICE_IDENTITY, namespace, name)
    if item["spec"].get("certificate") is None:
        raise UsageError(f"{namespace}/{name} has no certificate; for its signing key add --jwt, see --help")
    more = {ownership.REVOKE_REASON_ANNOTATION: reason}
    await _annotate(client, Kind.SERVICE_IDENTITY, namespace, name, ownership.REVOKE_ANNOTATION, more)
    return (
        f"{namespace}/{name}: revocation asked for; its certificates will be refused by whoever checks the lists\n"
        "its other keys stay: for those, kubectl sid rotate, and for its own signing key kubectl sid revoke --jwt"
    )


async def revoke_signing_key(client: KubeClient, namespace: str, name: str) -> str:
    """Ask for a new key for the tokens that an identity signs, and for the old ones to leave its JWK Set."""
    item = await _get(client, Kind.SERVICE_IDENTITY, namespace, name)
    given = item["spec"].get("jwt")
    if given is None or given.get("signingKey") == "None":
        raise UsageError(f"{namespace}/{name} has no signing key of its own")
    await _annotate(client, Kind.SERVICE_IDENTITY, namespace, name, ownership.REVOKE_JWT_ANNOTATION)
    return (
        f"{namespace}/{name}: revocation asked for; its signing keys leave the JWK Set now, and a new one signs\n"
        "who has fetched the JWK Set before accepts the old ones for as long as it keeps it; "
        "its certificate and other keys stay"
    )


async def ask(client: KubeClient, domain: str, step: str) -> str:
    """Ask for a step in the life of a trust domain's authorities."""
    annotation, answer = REQUESTS[step]
    item = await _get(client, Kind.TRUST_DOMAIN, "", domain)
    for role in _BROUGHT_BY.get(step, ()):
        if reference := item["spec"].get(role, {}).get("secretRef"):
            raise UsageError(f"the {role} of {domain} comes from Secret {reference['name']}: put the new one there")
    if step == "prepare" and "vault" in item["spec"].get("intermediate", {}):
        raise UsageError(f"the root of {domain} is the one above Vault's issuer: make the new one there")
    if step == "rewrap" and not _encrypts(item):
        raise UsageError(f"the private keys of {domain} are stored in plain: the operator has no --ca-key-encryption")
    if step in ("rotate-jwt", "revoke-jwt") and not _token_keys(item):
        raise UsageError(f"{domain} has no token keys: nobody asks for them")
    if step in _BROUGHT_BY and "vault" in item["spec"].get("leaves", {}):
        raise UsageError(f"the authorities of {domain} are Vault's: make the new one there")
    prepared = [one for one in _authorities(item) if one["state"] == AuthorityState.PREPARED]
    if step == "activate" and not prepared:
        # The request would be lost: it is about what is prepared when it is made.
        raise UsageError(f"nothing is prepared in {domain}; see `kubectl sid ca status {domain}`")
    if step == "prepare" and (roots := [one["secretName"] for one in prepared if one["role"] == Role.ROOT]):
        # Another one would be made as soon as this one is active.
        raise UsageError(f"{roots[0]} is prepared already; see `kubectl sid ca status {domain}`")
    await _annotate(client, Kind.TRUST_DOMAIN, "", domain, annotation)
    return f"{domain}: {answer}"


async def ca_status(client: KubeClient, domain: str) -> str:
    """Return a table of a trust domain's authorities, one of its token keys, if any, and one of its conditions."""
    item = await _get(client, Kind.TRUST_DOMAIN, "", domain)
    rows = [["AUTHORITY", "STATE", "NOT AFTER", "NEXT", "CRL", "FINGERPRINT"]]
    for found in _authorities(item):
        upcoming = ((field, found[field]) for field in _NEXT.get(found["state"], ()) if field in found)
        following = ", ".join(f"{field.removesuffix('Time')} {time}" for field, time in upcoming)
        last = [_list_of(found), found["fingerprint"]]
        rows.append([found["secretName"], found["state"], found["notAfter"], following or "-", *last])
    keys = [["TOKEN KEY", "STATE", "SIGNS FROM", "UNTIL"]]
    keys += [
        [key["keyID"], key["state"], key.get("activationTime", "-"), key.get("retirementTime", "-")]
        for key in _token_keys(item)
    ]
    tokens = f"{_table(keys)}\n\n" if len(keys) > 1 else ""
    return f"{_table(rows)}\n\n{tokens}{_conditions(item)}"


def _token_keys(item: Json) -> list[Json]:
    return list(((item.get("status") or {}).get("jwt") or {}).get("keys") or ())


def _encrypts(item: Json) -> bool:
    """Say whether the operator encrypts private keys, or did: there is a condition, or a key that is encrypted."""
    told = (item.get("status") or {}).get("conditions") or ()
    encrypted = any("keyEncryptionKey" in one for one in _authorities(item))
    return encrypted or any(one["type"] == KEYS_ENCRYPTED for one in told)


def _list_of(found: Json) -> str:
    crl = found.get("crl")
    return f"{crl['revoked']} revoked, until {crl['nextUpdate']}" if crl else "-"


async def taint(client: KubeClient, domain: str, authority: str, *, at_once: bool) -> str:
    """List an authority as tainted in the spec of its trust domain. One that left the bundle does not come back."""

    def add(item: Json, fingerprint: str) -> list[Json]:
        old = [one for one in _tainted(item) if _plain(one["fingerprint"]) == fingerprint]
        now = at_once or any(one.get("removeFromBundle") == "Immediately" for one in old)
        entry = {"fingerprint": fingerprint, "removeFromBundle": "Immediately" if now else "WhenUnused"}
        return [*_but(item, fingerprint), entry]

    fingerprint, tainted = await _change_tainted(client, domain, authority, add)
    listed = _as_yaml({"taintedAuthorities": tainted})
    return f"{domain}: {fingerprint} is tainted. If the TrustDomain comes from Git, its spec there needs:\n{listed}"


async def untaint(client: KubeClient, domain: str, authority: str) -> str:
    """Take an authority off the list."""

    def remove(item: Json, fingerprint: str) -> list[Json]:
        kept = _but(item, fingerprint)
        if len(kept) == len(_tainted(item)):
            raise UsageError(f"{authority} is not tainted")
        return kept

    fingerprint, _ = await _change_tainted(client, domain, authority, remove)
    return f"{domain}: {fingerprint} is not tainted any more; what was replaced stays replaced"


_NEXT: Final = {
    "Prepared": ("publishedTime", "activationTime"),
    "Active": ("renewalTime",),
    "Retiring": ("retirementTime",),
}


def _fingerprint(item: Json, authority: str) -> str:
    known = {found["secretName"]: found["fingerprint"] for found in _authorities(item)}
    listed = {_plain(old["fingerprint"]) for old in _tainted(item)}
    wanted = known.get(authority) or _plain(authority)
    if wanted not in known.values() and wanted not in listed:
        names = ", ".join(known) or "none"
        raise UsageError(f"{authority} is no authority of this trust domain; there are: {names}")
    if not _FINGERPRINT.fullmatch(wanted):
        raise UsageError(f"{authority} is no fingerprint")
    return wanted


async def _change_tainted(
    client: KubeClient, domain: str, authority: str, change: Callable[[Json, str], list[Json]]
) -> tuple[str, list[Json]]:
    """Change the list of tainted authorities and return the fingerprint in question, and the list as it is now.

    The version that was read goes along: a list that somebody else changed meanwhile is not overwritten. The operator
    may be writing the status all the time, so that is tried several times.
    """
    for _ in range(_ATTEMPTS - 1):
        with suppress(ConflictError):
            return await _try_tainted(client, domain, authority, change)
    return await _try_tainted(client, domain, authority, change)


async def _try_tainted(
    client: KubeClient, domain: str, authority: str, change: Callable[[Json, str], list[Json]]
) -> tuple[str, list[Json]]:
    item = await _get(client, Kind.TRUST_DOMAIN, "", domain)
    fingerprint = _fingerprint(item, authority)
    tainted = change(item, fingerprint)
    meta = {"resourceVersion": item["metadata"]["resourceVersion"]}
    patch = {"metadata": meta, "spec": {"taintedAuthorities": tainted or None}}
    path = f"{collection(Kind.TRUST_DOMAIN, '')}/{segment(item['metadata']['name'])}"
    await client.request("PATCH", path, patch, MERGE_PATCH)
    return fingerprint, tainted


async def _annotate(
    client: KubeClient, kind: Kind, namespace: str, name: str, annotation: str, more: Mapping[str, str | None] = _NONE
) -> None:
    """Give the annotation a value that it never had; `more` are set or, with None, removed along with it."""
    path = f"{collection(kind, namespace)}/{segment(name)}"
    body: Json = {"metadata": {"annotations": {annotation: secrets.token_hex(6), **more}}}
    try:
        await client.request("PATCH", path, body, MERGE_PATCH)
    except MissingError:
        raise _unknown(kind, namespace, name) from None


async def _get(client: KubeClient, kind: Kind, namespace: str, name: str) -> Json:
    try:
        return await client.request("GET", f"{collection(kind, namespace)}/{segment(name)}")
    except MissingError:
        raise _unknown(kind, namespace, name) from None


def _unknown(kind: Kind, namespace: str, name: str) -> UsageError:
    return UsageError(f"{kind} {namespace}/{name} does not exist" if namespace else f"{kind} {name} does not exist")


def _authorities(item: Json) -> list[Json]:
    return list((item.get("status") or {}).get("authorities") or ())


def _tainted(item: Json) -> list[Json]:
    return list(item["spec"].get("taintedAuthorities") or ())


def _but(item: Json, fingerprint: str) -> list[Json]:
    return [one for one in _tainted(item) if _plain(one["fingerprint"]) != fingerprint]


def _plain(fingerprint: str) -> str:
    return fingerprint.replace(":", "").lower()


def _ready(item: Json) -> dict[str, str]:
    conditions: Iterable[dict[str, str]] = (item.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == "Ready"), {})


def _details(item: Json) -> str:
    found: dict[str, Any] = item.get("status") or {}
    shown = {name: value for name, value in found.items() if name not in ("conditions", "observedGeneration")}
    return f"{_conditions(item)}\n\n{_as_yaml(shown)}" if shown else _conditions(item)


def _conditions(item: Json) -> str:
    rows = [["CONDITION", "STATUS", "REASON", "MESSAGE"]]
    told = (item.get("status") or {}).get("conditions") or ()
    rows += [[one["type"], one["status"], one["reason"], one["message"]] for one in told]
    return _table(rows) if told else "nothing is known yet"


def _as_yaml(value: object) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, width=120)).rstrip()


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
