"""Placeholder of made secrets."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from serviceidentity.domain.credentials.base import Due, Made, Observed
from serviceidentity.domain.material import Held, SecretContent, SecretView
from serviceidentity.domain.vault.content import ContentError
from serviceidentity.domain.vault.spec import VaultSecretSpec, VaultSpec
from serviceidentity.domain.vault.views import VaultOrder


class MadeByVault:
    """To come."""

    def decide(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> Due | Held | None:
        return self.first(secret, seen)

    def first(self, secret: VaultSecretSpec, seen: Observed) -> Held | None:
        return Held("NotSupported", "not supported yet")

    def order(self, secret: VaultSecretSpec, vault: VaultSpec) -> VaultOrder | None:
        return None

    def content(self, secret: VaultSecretSpec, seen: Observed, made: Made | None) -> SecretContent:
        raise ContentError("not supported yet")

    def deadline(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> datetime | None:
        return None

    def ends(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> datetime | None:
        return None

    def report(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> Mapping[str, Any]:
        return {}

    def summary(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> str:
        return str(secret.source)
