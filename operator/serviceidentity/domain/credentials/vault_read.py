"""Secrets that are only read: KV, and the passwords of static roles.

What the Secret should hold follows from what was read, so it is compared with that itself: nothing of it is stored
elsewhere, not even a hash.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from serviceidentity.domain.credentials.base import Due, Made, Observed, Reason
from serviceidentity.domain.material import Held, SecretContent, SecretView
from serviceidentity.domain.vault.content import ContentError, compose
from serviceidentity.domain.vault.spec import VaultSecretSpec, VaultSpec
from serviceidentity.domain.vault.views import Reading, VaultOrder

CONTENT: str = "SecretNotAsExpected"


class Read:
    """The way of secrets that are only read."""

    def decide(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> Due | Held | None:
        if (held := self.first(secret, seen)) is not None:
            return held
        wanted = self.content(secret, seen, None)
        if (view.type, dict(view.data)) == (wanted.type, dict(wanted.data)):
            return None
        return Due(Reason.SOURCE_CHANGED, f"{secret.source} has another content")

    def first(self, secret: VaultSecretSpec, seen: Observed) -> Held | None:
        reading = seen.vault.get(secret.name)
        if not isinstance(reading, Reading):
            return reading if isinstance(reading, Held) else Held("NotRead", "the secret was not read yet")
        try:
            compose(secret, reading.values)
        except ContentError as error:
            return Held(CONTENT, str(error))
        return None

    def order(self, secret: VaultSecretSpec, vault: VaultSpec) -> VaultOrder | None:
        return None

    def content(self, secret: VaultSecretSpec, seen: Observed, made: Made | None) -> SecretContent:
        reading = seen.vault[secret.name]
        if not isinstance(reading, Reading):
            raise ContentError("the secret was not read")
        return SecretContent.of(secret.type, compose(secret, reading.values), {})

    def deadline(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> datetime | None:
        return None  # it is read again every while, which is not worth a line in the status

    def ends(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> datetime | None:
        return None

    def report(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> Mapping[str, Any]:
        reading = seen.vault.get(secret.name)
        version = reading.version if isinstance(reading, Reading) else None
        return {} if version is None else {"version": version}

    def summary(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> str:
        return f"{secret.source.kind} {secret.source}"
