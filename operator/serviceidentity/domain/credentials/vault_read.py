"""Secrets that are only read: KV, and the passwords of static roles.

What the Secret should hold follows from what was read, so it is compared with that itself: nothing of it is stored
elsewhere, not even a hash.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from serviceidentity.domain import ownership
from serviceidentity.domain.credentials.base import Due, Made, Observed, Reason
from serviceidentity.domain.material import Held, SecretContent, SecretView
from serviceidentity.domain.vault.content import ContentError, compose
from serviceidentity.domain.vault.spec import StaticRoleSource, VaultSecretSpec, VaultSpec
from serviceidentity.domain.vault.views import Reading, VaultOrder

_VERSION: Final = re.compile("[0-9]{1,18}")
CONTENT: Final = "SecretNotAsExpected"
# What Vault says of a static role beside the credentials: only for those who name it.
_ABOUT_ROTATION: Final = frozenset({"last_vault_rotation", "rotation_period", "rotation_schedule", "rotation_window"})


class Read:
    """The way of secrets that are only read."""

    def decide(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> Due | Held | None:
        wanted = _wanted(secret, seen)
        if isinstance(wanted, Held):
            return wanted
        if (view.type, dict(view.data)) != (wanted.type, dict(wanted.data)):
            return Due(Reason.SOURCE_CHANGED, f"{secret.source} has another content")
        if wanted.annotations.items() <= view.annotations.items():
            return None
        return Due(Reason.SOURCE_CHANGED, f"{secret.source} has another version", fresh=False)

    def first(self, secret: VaultSecretSpec, seen: Observed) -> Held | None:
        wanted = _wanted(secret, seen)
        return wanted if isinstance(wanted, Held) else None

    def order(self, secret: VaultSecretSpec, vault: VaultSpec) -> VaultOrder | None:
        return None

    def content(self, secret: VaultSecretSpec, seen: Observed, made: Made | None) -> SecretContent:
        wanted = _wanted(secret, seen)
        if isinstance(wanted, Held):
            raise ContentError(wanted.message)
        return wanted

    def deadline(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> datetime | None:
        return None  # it is read again every while, which is not worth a line in the status

    def ends(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> datetime | None:
        return None

    def report(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> Mapping[str, Any]:
        version = view.annotations.get(ownership.VAULT_VERSION_ANNOTATION, "")
        return {"version": int(version)} if _VERSION.fullmatch(version) else {}

    def summary(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> str:
        return f"{secret.source.kind} {secret.source}"


def _wanted(secret: VaultSecretSpec, seen: Observed) -> SecretContent | Held:
    """Return what the Secret has to hold, with the version of it on record; or why that is not known."""
    reading = seen.vault.get(secret.name)
    if not isinstance(reading, Reading):
        return reading if isinstance(reading, Held) else Held("NotRead", "the secret was not read yet")
    values = reading.values
    if isinstance(secret.source, StaticRoleSource) and not secret.keys and not secret.templates:
        values = {name: value for name, value in values.items() if name not in _ABOUT_ROTATION}
    try:
        data = compose(secret, values)
    except ContentError as error:
        return Held(CONTENT, str(error))
    version = {} if reading.version is None else {ownership.VAULT_VERSION_ANNOTATION: str(reading.version)}
    return SecretContent.of(secret.type, data, version)
