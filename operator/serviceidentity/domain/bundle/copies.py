"""One copy of a trust bundle in one namespace: whose it is, and what has to be done about it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from serviceidentity.domain import ownership
from serviceidentity.domain.authority import ROLE_LABEL
from serviceidentity.domain.bundle.assembly import JWKS_KEY, PEM_KEY, PKCS12_KEY, Bundle
from serviceidentity.domain.material import SecretContent, SecretView
from serviceidentity.domain.model import API_VERSION, BundleSpec, Kind, Meta, StoreKind, TrustDomain
from serviceidentity.domain.ownership import Metadata

BUNDLE_LABEL: Final = "serviceidentity.dev/trust-bundle"
SEQUENCE_ANNOTATION: Final = "serviceidentity.dev/bundle-sequence"
DIGEST_ANNOTATION: Final = "serviceidentity.dev/bundle-digest"
_TYPES: Final = {StoreKind.CONFIG_MAP: "", StoreKind.SECRET: "Opaque"}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a copy is."""

    kind: StoreKind
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Store:
    """Write the copy: anew, or in place of what was `seen`."""

    target: Place
    seen: SecretView | None = None


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a copy that nobody is to have any more."""

    target: Place
    seen: SecretView


@dataclass(frozen=True, slots=True)
class Foreign:
    """Somebody else's object has the name; it is left alone."""

    target: Place


def is_ours(view: SecretView, meta: Meta, known: SecretView | None = None) -> bool:
    """Say whether an object is this trust domain's copy: by its label, or as the very one that was written here.

    Nothing else counts: an authority's Secret belongs to the trust domain as well and is never a copy. What somebody
    copied to another place is theirs. A user hands an object over with the adopt annotation.
    """
    if ROLE_LABEL in view.labels or ownership.IDENTITY_LABEL in view.labels:
        return False
    if known is not None and view.uid == known.uid:
        return True
    if view.annotations.get(ownership.STORED_AS_ANNOTATION, _place(view)) != _place(view):
        return False
    for owner in (owner for owner in view.owners if owner.get("controller")):
        namesake = (API_VERSION, Kind.TRUST_DOMAIN, meta.name)
        if owner.get("uid") != meta.uid and (owner.get("apiVersion"), owner.get("kind"), owner.get("name")) != namesake:
            return False
    return meta.name in (view.labels.get(BUNDLE_LABEL), view.annotations.get(ownership.ADOPT_ANNOTATION))


def decide(
    domain: TrustDomain, bundle: Bundle, target: Place, seen: SecretView | None, known: SecretView | None = None
) -> Store | Foreign | None:
    """Say what has to be done so that the target holds the bundle; None when it does.

    `known` is the copy as it was when it was right for the last time, if this process has seen that.
    """
    if seen is None:
        return Store(target)
    if not is_ours(seen, domain.meta, known):
        return Foreign(target)
    if bundle.is_held_by(seen.data):
        # The same roots in another PKCS#12 file are right if whoever wrote it recorded it: an earlier life of this
        # process, or another instance. Else two of them would undo each other's work for ever.
        kept = replace(bundle, data=seen.data)
        if ownership.satisfied(seen, metadata_for(domain, target, kept)):
            return None
    return Store(target, seen)


def leftover(domain: TrustDomain, target: Place, seen: SecretView, *, served: bool, selected: bool) -> Remove | None:
    """Say whether a copy of ours has to go: its namespace is not selected any more, or the copy is elsewhere now.

    What is in a namespace that the operator does not know or serve is left alone; so is the copy under an earlier name
    until its successor (`served`) is there.
    """
    spec = domain.bundle
    wanted = spec is not None and selected and (target.kind, target.name) == (spec.kind, spec.name)
    if wanted or not is_ours(seen, domain.meta):
        return None
    return Remove(target, seen) if served or not selected else None


def content_for(bundle: Bundle, spec: BundleSpec) -> SecretContent:
    """Return what a copy holds, and the record beside it. Who edits PKCS#12, which has no other form, leaves its ID."""
    record = {SEQUENCE_ANNOTATION: str(bundle.sequence), DIGEST_ANNOTATION: bundle.digest}
    if PKCS12_KEY in bundle.data:
        record[ownership.CONTENT_ID_ANNOTATION] = hashlib.sha256(bundle.data[PKCS12_KEY].encode()).hexdigest()[:16]
    return SecretContent(_TYPES[spec.kind], bundle.data, MappingProxyType(record))


def metadata_for(domain: TrustDomain, target: Place, bundle: Bundle) -> Metadata:
    """Return the metadata that a copy must have."""
    assert domain.bundle is not None  # noqa: S101  # nothing is published without
    return ownership.metadata_for(
        Kind.TRUST_DOMAIN,
        domain.meta,
        domain.deletion_policy,
        f"{target.namespace}/{target.name}",
        {BUNDLE_LABEL: domain.meta.name},
        content_for(bundle, domain.bundle),
        domain.bundle.template,
    )


def holds_roots(seen: SecretView | None, bundle: Bundle) -> bool:
    """Say whether a copy holds the bundle's roots, whatever else may be wrong with it."""
    return seen is not None and seen.data.get(PEM_KEY) == bundle.data[PEM_KEY]


def holds_jwks(seen: SecretView | None, bundle: Bundle) -> bool:
    """Say whether a copy holds the bundle's keys for tokens, whatever else may be wrong with it."""
    return seen is not None and seen.data.get(JWKS_KEY) == bundle.data.get(JWKS_KEY)


def recorded_sequence(annotations: Mapping[str, str]) -> tuple[int, str] | None:
    """Return the sequence number and the digest that a copy says it has."""
    try:
        return int(annotations[SEQUENCE_ANNOTATION]), annotations[DIGEST_ANNOTATION]
    except (KeyError, ValueError):
        return None


def _place(view: SecretView) -> str:
    return f"{view.namespace}/{view.name}"
