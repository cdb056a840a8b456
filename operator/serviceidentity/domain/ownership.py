"""Whose Secret is it: labels, owner references and records that the operator keeps on a Secret."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from serviceidentity.domain.material import SecretContent, SecretView
from serviceidentity.domain.model import API_VERSION, GROUP, DeletionPolicy, Kind, Meta, SecretTemplate

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "serviceidentity-operator"
IDENTITY_LABEL: Final = "serviceidentity.dev/identity"
CREDENTIAL_LABEL: Final = "serviceidentity.dev/credential"
TRUST_DOMAIN_LABEL: Final = "serviceidentity.dev/trust-domain"
OWNER_UID_LABEL: Final = "serviceidentity.dev/owner-uid"
STORED_AS_ANNOTATION: Final = "serviceidentity.dev/stored-as"
TEMPLATE_ANNOTATION: Final = "serviceidentity.dev/secret-template"
CONTENT_ID_ANNOTATION: Final = "serviceidentity.dev/content-id"
CONSUMED_AS_ANNOTATION: Final = "serviceidentity.dev/consumed-as"
ADOPT_ANNOTATION: Final = "serviceidentity.dev/adopt"
VAULT_REQUEST_ANNOTATION: Final = "serviceidentity.dev/vault-request"
VAULT_VERSION_ANNOTATION: Final = "serviceidentity.dev/vault-version"
VAULT_MADE_ANNOTATION: Final = "serviceidentity.dev/vault-made"
VAULT_LEASE_ANNOTATION: Final = "serviceidentity.dev/vault-lease"
VAULT_REPLACED_ANNOTATION: Final = "serviceidentity.dev/vault-replaced-leases"
VAULT_RECORD_ANNOTATION: Final = "serviceidentity.dev/vault-lease-record"
VAULT_LEASE_LABEL: Final = "serviceidentity.dev/vault-lease"

_NAME_LABELS: Final = {Kind.SERVICE_IDENTITY: IDENTITY_LABEL, Kind.TRUST_DOMAIN: TRUST_DOMAIN_LABEL}

ROTATE_ANNOTATION: Final = "serviceidentity.dev/rotate"
ROTATED_ANNOTATION: Final = "serviceidentity.dev/rotated"
REVOKE_ANNOTATION: Final = "serviceidentity.dev/revoke"
REVOKE_REASON_ANNOTATION: Final = "serviceidentity.dev/revoke-reason"
REVOKED_ANNOTATION: Final = "serviceidentity.dev/revoked"
REVOKE_JWT_ANNOTATION: Final = "serviceidentity.dev/revoke-jwt"
REVOKED_JWT_ANNOTATION: Final = "serviceidentity.dev/revoked-jwt"


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata that a Secret of ours must have; what others added to it is left alone."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    owners: tuple[Mapping[str, Any], ...]


def metadata_for(
    kind: Kind,
    meta: Meta,
    policy: DeletionPolicy,
    name: str,
    labels: Mapping[str, str],
    content: SecretContent,
    template: SecretTemplate | None = None,
) -> Metadata:
    """Return the metadata of the Secret `name` that `meta` owns.

    With deletion policy Delete it has a controller reference, so the garbage collector removes it and no finalizer is
    needed; with Retain it has none, and the labels alone say whose it is.
    """
    template = template or SecretTemplate()
    ours = {MANAGED_BY_LABEL: MANAGED_BY, OWNER_UID_LABEL: meta.uid, **labels}
    reference = {
        "apiVersion": API_VERSION,
        "kind": kind.value,
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return Metadata(
        labels=template.labels | ours,
        annotations=template.annotations | dict(content.annotations) | {STORED_AS_ANNOTATION: name} | _record(template),
        owners=(reference,) if policy is DeletionPolicy.DELETE else (),
    )


def satisfied(view: SecretView, wanted: Metadata) -> bool:
    """Say whether the Secret's metadata has everything that is wanted, and no other controller."""
    return (
        view.annotations.get(TEMPLATE_ANNOTATION) == wanted.annotations.get(TEMPLATE_ANNOTATION)
        and wanted.labels.items() <= view.labels.items()
        and wanted.annotations.items() <= view.annotations.items()
        and tuple(_controllers(view)) == wanted.owners
    )


def foreign_labels(view: SecretView) -> dict[str, str]:
    """Return the labels that others put on the Secret: those of an earlier template go with it."""
    ours = _recorded(view).get("labels", ())
    return {name: value for name, value in view.labels.items() if name not in ours}


def foreign_annotations(view: SecretView) -> dict[str, str]:
    """Return the annotations that others put on the Secret: ours, and those of an earlier template, are replaced."""
    ours = _recorded(view).get("annotations", ())
    return {k: v for k, v in view.annotations.items() if k not in ours and not k.startswith(f"{GROUP}/")}


def records_of(content: SecretContent | SecretView) -> dict[str, str]:
    """Return the operator's own annotations on a Secret: what it has on record there."""
    return {name: value for name, value in content.annotations.items() if name.startswith(f"{GROUP}/")}


def _record(template: SecretTemplate) -> dict[str, str]:
    """Return the annotation that says which names came from the template, so that they go when it changes."""
    names = {"annotations": sorted(template.annotations), "labels": sorted(template.labels)}
    listed = {kind: found for kind, found in names.items() if found}
    return {TEMPLATE_ANNOTATION: json.dumps(listed, separators=(",", ":"))} if listed else {}


def _recorded(view: SecretView) -> dict[str, list[str]]:
    try:
        found = json.loads(view.annotations.get(TEMPLATE_ANNOTATION, "{}"))
    except (ValueError, RecursionError):
        return {}
    lists = found.items() if isinstance(found, dict) else ()
    return {kind: names for kind, names in lists if isinstance(names, list)}


def is_owned(view: SecretView, kind: Kind, meta: Meta) -> bool:
    """Say whether the Secret belongs to the object: by controller reference, or by label, or as left by a namesake.

    A Secret retained by a deleted object of the same name and kind is adopted by the new one: two of them can't exist
    at once, so nobody else can claim it. A copy of a Secret of ours carries our labels under another name, and is its
    maker's.
    """
    if view.annotations.get(STORED_AS_ANNOTATION, view.name) != view.name:
        return False
    controllers = list(_controllers(view))
    if controllers:
        owner = controllers[0]
        same_object = owner.get("uid") == meta.uid
        namesake = (owner.get("apiVersion"), owner.get("kind"), owner.get("name")) == (API_VERSION, kind, meta.name)
        return same_object or namesake
    return view.annotations.get(ADOPT_ANNOTATION) == meta.name or (
        view.labels.get(MANAGED_BY_LABEL) == MANAGED_BY and view.labels.get(_NAME_LABELS[kind]) == meta.name
    )


def rotation_requested(meta: Meta, view: SecretView) -> bool:
    """Say whether the rotate annotation has a value that this Secret has not been rotated for."""
    wanted = meta.annotations.get(ROTATE_ANNOTATION)
    return wanted is not None and wanted != view.annotations.get(ROTATED_ANNOTATION)


def rotation_record(meta: Meta) -> dict[str, str]:
    """Return the annotation that records which request has been served, written in one step with the new content."""
    wanted = meta.annotations.get(ROTATE_ANNOTATION)
    return {} if wanted is None else {ROTATED_ANNOTATION: wanted}


def earlier_rotation_record(view: SecretView) -> dict[str, str]:
    """Return the record as it is, while a rotation is under way: a request that comes meanwhile gets one of its own."""
    recorded = view.annotations.get(ROTATED_ANNOTATION)
    return {} if recorded is None else {ROTATED_ANNOTATION: recorded}


def revocation_requested(meta: Meta, view: SecretView) -> bool:
    """Say whether the revoke annotation has a value that this Secret's certificate was not made for."""
    wanted = meta.annotations.get(REVOKE_ANNOTATION)
    return wanted is not None and wanted != view.annotations.get(REVOKED_ANNOTATION)


def revocation_record(meta: Meta) -> dict[str, str]:
    """Return the annotation that records which request has been served, written in one step with the new content."""
    wanted = meta.annotations.get(REVOKE_ANNOTATION)
    return {} if wanted is None else {REVOKED_ANNOTATION: wanted}


def key_revocation_requested(meta: Meta, content: SecretContent | SecretView) -> bool:
    """Say whether the revoke-jwt annotation has a value that this Secret's signing keys were not made for."""
    wanted = meta.annotations.get(REVOKE_JWT_ANNOTATION)
    return wanted is not None and wanted != content.annotations.get(REVOKED_JWT_ANNOTATION)


def key_revocation_record(meta: Meta) -> dict[str, str]:
    """Return the annotation that records which request has been served, written in one step with the new content."""
    wanted = meta.annotations.get(REVOKE_JWT_ANNOTATION)
    return {} if wanted is None else {REVOKED_JWT_ANNOTATION: wanted}


def with_content_id(content: SecretContent, content_id: str, consumed_as: str | None = None) -> SecretContent:
    """Return the content with the ID under which it is told from other contents of the same Secret.

    `consumed_as` is the ID of an earlier content that is the same to whoever uses it.
    """
    ids = {CONTENT_ID_ANNOTATION: content_id} | ({CONSUMED_AS_ANNOTATION: consumed_as} if consumed_as else {})
    others = {name: value for name, value in content.annotations.items() if name != CONSUMED_AS_ANNOTATION}
    return SecretContent(content.type, content.data, others | ids)


def consumed_id(view: SecretView) -> str | None:
    """Return the ID that changes only with what the users of a Secret have to read anew; None if it has no ID."""
    return view.annotations.get(CONSUMED_AS_ANNOTATION) or view.annotations.get(CONTENT_ID_ANNOTATION)


def is_rewritten(found: SecretView, remembered: SecretView) -> bool:
    """Say whether an operator wrote the Secret anew since it was remembered.

    Every content that is rendered gets an ID; whoever edits a Secret leaves the ID as it is, or removes it. So another
    instance's work, or a backup put back, is examined on its own merits instead of being undone.
    """
    content_id = found.annotations.get(CONTENT_ID_ANNOTATION)
    return content_id is not None and content_id != remembered.annotations.get(CONTENT_ID_ANNOTATION)


def _controllers(view: SecretView) -> list[Mapping[str, Any]]:
    return [owner for owner in view.owners if owner.get("controller")]
