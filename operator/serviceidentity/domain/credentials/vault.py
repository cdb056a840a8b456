"""The credentials behind `spec.vault`: one for each secret of Vault, in a Secret of its own.

What differs between secrets that are only read, that have a lease, and that Vault makes on request is in the module of
each; what they share is here.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from serviceidentity.domain import ownership
from serviceidentity.domain.credentials import vault_leased, vault_pki, vault_read, vault_transit
from serviceidentity.domain.credentials.base import Due, Made, Observed, Reason
from serviceidentity.domain.material import Held, SecretContent, SecretView
from serviceidentity.domain.model import Identity, SecretTemplate
from serviceidentity.domain.vault.records import replaced_annotation
from serviceidentity.domain.vault.spec import (
    KvSource,
    LeaseSource,
    PkiSource,
    StaticRoleSource,
    VaultSecretSpec,
    VaultSpec,
)
from serviceidentity.domain.vault.views import Answer, Lease, VaultOrder


class Way(Protocol):
    """How one kind of secret is decided on, made and told of; a module for each."""

    def decide(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> Due | Held | None:
        """Say what is to be done about the Secret in `view`, whose request is the one that is asked for."""
        ...

    def first(self, secret: VaultSecretSpec, seen: Observed) -> Held | None:
        """Say why the Secret can't be made for the first time, or anew, now."""
        ...

    def order(self, secret: VaultSecretSpec, vault: VaultSpec) -> VaultOrder | None:
        """Return what Vault has to make; None when what was read is enough."""
        ...

    def content(self, secret: VaultSecretSpec, seen: Observed, made: Made | None) -> SecretContent:
        """Make the content, with the annotations that are the record of what it was made of. Raises ContentError."""
        ...

    def deadline(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> datetime | None:
        """When something is due, if nothing changes before; reading again every while does not count."""
        ...

    def ends(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> datetime | None:
        """When what is there stops being of use by itself."""
        ...

    def report(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> Mapping[str, Any]:
        """Return what its status has beside name, Secret and kind. Nothing secret; the same after a restart."""
        ...

    def summary(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> str:
        """One line about what is there."""
        ...


def _way(secret: VaultSecretSpec) -> Way:
    if isinstance(secret.source, KvSource | StaticRoleSource):
        return READ
    if isinstance(secret.source, LeaseSource):
        return LEASED
    return PKI if isinstance(secret.source, PkiSource) else TRANSIT


READ: Final[Way] = vault_read.Read()
LEASED: Final[Way] = vault_leased.Leased()
PKI: Final[Way] = vault_pki.FromPki()
TRANSIT: Final[Way] = vault_transit.FromTransit()


class VaultSecret:
    """The credential of one entry of `spec.vault.secrets`."""

    status_field = "vault"
    listed = True
    governed = False  # the connection says who may use it

    def __init__(self, secret: VaultSecretSpec) -> None:
        self.secret = secret
        self.name = f"vault.{secret.name}"
        self.condition = f"VaultReady.{secret.name}"
        self._way = _way(secret)

    def requested(self, identity: Identity) -> bool:
        return identity.vault is not None and self.secret in identity.vault.secrets

    def secret_name(self, identity: Identity) -> str:
        return self.secret.secret_name

    def template(self, identity: Identity) -> SecretTemplate:
        return SecretTemplate(dict(self.secret.labels), dict(self.secret.annotations))

    def decide(self, seen: Observed, now: datetime) -> Due | Held | None:
        view = seen.contents.get(self.secret.secret_name)
        if view is None:
            return self._anew(seen, Due(Reason.DOES_NOT_EXIST, "the Secret does not exist yet"))
        if view.annotations.get(ownership.VAULT_REQUEST_ANNOTATION) != request_id(_vault(seen), self.secret):
            return self._anew(seen, Due(Reason.REQUEST_CHANGED, "another secret is asked for, or in another form"))
        if ownership.rotation_requested(seen.identity.meta, view):
            return self._anew(seen, Due(Reason.ROTATION_REQUESTED, "a rotation was asked for"))
        return self._way.decide(self.secret, seen, view, now)

    def meanwhile(self, seen: Observed, now: datetime) -> Due | None:
        return None

    def order(self, seen: Observed, due: Due, now: datetime) -> VaultOrder | None:
        return self._way.order(self.secret, _vault(seen))

    def render(
        self, seen: Observed, due: Due, now: datetime, password: bytes | None, made: Made | None = None
    ) -> SecretContent:
        content = self._way.content(self.secret, seen, made)
        records = ownership.rotation_record(seen.identity.meta) | {
            ownership.VAULT_REQUEST_ANNOTATION: request_id(_vault(seen), self.secret)
        }
        records |= self._replaced(seen, made, now)
        return SecretContent(content.type, content.data, dict(content.annotations) | records)

    def consumed(self, content: SecretContent | SecretView) -> object:
        return content.data

    def deadline(self, seen: Observed, now: datetime) -> datetime | None:
        view = seen.contents.get(self.secret.secret_name)
        return self._way.deadline(self.secret, seen, view, now) if view is not None else None

    def ends(self, seen: Observed) -> datetime | None:
        view = seen.contents.get(self.secret.secret_name)
        return self._way.ends(self.secret, seen, view) if view is not None else None

    def report(self, seen: Observed, now: datetime) -> dict[str, Any]:
        view = seen.contents[self.secret.secret_name]
        told = self._way.report(self.secret, seen, view)
        return {
            "name": self.secret.name,
            "secretName": view.name,
            "source": self.secret.source.kind.value,
            "path": str(self.secret.source),
        } | dict(told)

    def summary(self, seen: Observed, now: datetime) -> str:
        return self._way.summary(self.secret, seen, seen.contents[self.secret.secret_name])

    def _replaced(self, seen: Observed, made: Made | None, now: datetime) -> dict[str, str]:
        """Return the record of the leases that live on for a while though others took their place, also a KV secret."""
        views = [
            view
            for name, view in seen.contents.items()
            if name == self.secret.secret_name or view.labels.get(ownership.CREDENTIAL_LABEL) == self.name
        ]
        lease = seen.vault.get(self.secret.name)
        is_lost = isinstance(lease, Lease) and (lease.lost is not None or lease.ends <= now)
        successor = made.record if isinstance(made, Answer) else ""
        return replaced_annotation(views, now, timedelta(0) if is_lost else self.secret.overlap, successor)

    def _anew(self, seen: Observed, due: Due) -> Due | Held:
        return self._way.first(self.secret, seen) or due


def request_id(vault: VaultSpec, secret: VaultSecretSpec) -> str:
    """Return what tells one request from another: where, as whom, for what, and in which form it is stored."""
    form = {
        "connection": vault.connection,
        "role": vault.role,
        "source": repr(secret.source),
        "keys": dict(secret.keys),
        "templates": {key: template.text for key, template in secret.templates.items()},
        "type": secret.type,
    }
    return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:16]


def _vault(seen: Observed) -> VaultSpec:
    if seen.identity.vault is None:
        raise LookupError("the identity asks nothing of Vault")
    return seen.identity.vault
