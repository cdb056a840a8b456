"""Objects of our kinds as they were last seen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from serviceidentity.domain import parse
from serviceidentity.domain.access.spec import AccessPolicy
from serviceidentity.domain.model import Identity, Meta, TrustDomain
from serviceidentity.domain.vault.spec import VaultConnection
from serviceidentity.errors import InvalidSpecError

Spec = TypeVar("Spec", Identity, TrustDomain, VaultConnection, AccessPolicy)


@dataclass(slots=True)
class Entry(Generic[Spec]):
    """An object as last seen: its spec, or why it can't be understood; and the status that is stored."""

    meta: Meta
    spec: Spec | InvalidSpecError
    status: dict[str, Any]
    resource_version: int


def read_entry(
    body: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Spec], old: Entry[Spec] | None
) -> Entry[Spec]:
    """Return an object's JSON as an entry; `old` is what it was before."""
    meta = parse.meta_of(body)
    spec: Spec | InvalidSpecError
    if old is not None and old.meta == meta:
        spec = old.spec  # the same generation: most often this is the echo of a status
    else:
        try:
            spec = read(body)
        except InvalidSpecError as error:
            spec = error
    return Entry(meta=meta, spec=spec, status=dict(body.get("status") or {}), resource_version=_version(body))


def is_older(body: Mapping[str, Any], old: Entry[Any] | None) -> bool:
    """Say whether a list or watch tells what has been known before (KEP-5504: versions may be compared)."""
    return old is not None and _version(body) <= old.resource_version


def _version(body: Mapping[str, Any]) -> int:
    return int(body["metadata"].get("resourceVersion") or 0)
