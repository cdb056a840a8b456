"""Objects of our kinds as they were last seen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from serviceidentity.domain import parse
from serviceidentity.domain.model import Identity, Meta, TrustDomain
from serviceidentity.domain.vault.spec import VaultConnection
from serviceidentity.errors import InvalidSpecError

Spec = TypeVar("Spec", Identity, TrustDomain, VaultConnection)


@dataclass(slots=True)
class Entry(Generic[Spec]):
    """An object as last seen: its spec, or why it can't be understood; and the status that is stored."""

    meta: Meta
    spec: Spec | InvalidSpecError
    status: dict[str, Any]
    resource_version: int


def read_entry(body: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Spec]) -> Entry[Spec]:
    """Return an object's JSON as an entry."""
    spec: Spec | InvalidSpecError
    try:
        spec = read(body)
    except InvalidSpecError as error:
        spec = error
    meta = body["metadata"]
    return Entry(
        meta=parse.meta_of(body),
        spec=spec,
        status=dict(body.get("status") or {}),
        resource_version=int(meta.get("resourceVersion") or 0),
    )


def is_older(new: Entry[Any], old: Entry[Any] | None) -> bool:
    """Say whether a list or watch tells what has been known before (KEP-5504: versions may be compared)."""
    return old is not None and new.resource_version <= old.resource_version


def same_request(old: Entry[Any], new: Entry[Any]) -> bool:
    """Say whether nothing but the status is another one."""
    return old.meta == new.meta
