"""Secrets with a lease: credentials that are made when they are read, and live as long as they are renewed."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from serviceidentity.domain.credentials.base import Due, Made, Observed, Reason
from serviceidentity.domain.material import Held, SecretContent, SecretView
from serviceidentity.domain.ownership import VAULT_LEASE_ANNOTATION
from serviceidentity.domain.schedule import earliest, format_time
from serviceidentity.domain.vault import lease as rules
from serviceidentity.domain.vault.content import ContentError, compose
from serviceidentity.domain.vault.records import annotation_of
from serviceidentity.domain.vault.spec import VaultSecretSpec, VaultSpec
from serviceidentity.domain.vault.views import Answer, Lease, VaultOrder


class Leased:
    """The way of secrets with a lease. Renewing it changes nothing in the Secret."""

    def decide(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> Due | Held | None:
        lease = seen.vault.get(secret.name)
        if not isinstance(lease, Lease):
            return self.first(secret, seen) or Due(Reason.LEASE_LOST, "the Secret does not say which lease is its own")
        if missing := sorted((secret.keys.keys() | secret.templates.keys()) - view.data.keys()):
            return lease.trouble or Due(Reason.MISSING_DATA, f"there is no {', '.join(missing)} in the Secret")
        step = rules.next_step(lease, now)
        if isinstance(step, rules.Replace):
            return Due(Reason(step.reason), step.message)
        return lease.trouble if isinstance(step, rules.Renew) else None

    def first(self, secret: VaultSecretSpec, seen: Observed) -> Held | None:
        known = seen.vault.get(secret.name)
        return known if isinstance(known, Held) else None

    def order(self, secret: VaultSecretSpec, vault: VaultSpec) -> VaultOrder | None:
        return VaultOrder(vault, secret)

    def content(self, secret: VaultSecretSpec, seen: Observed, made: Made | None) -> SecretContent:
        if not isinstance(made, Answer) or made.lease is None:
            raise ContentError("no credentials were made")
        records = {VAULT_LEASE_ANNOTATION: annotation_of(made.record, made.lease)}
        return SecretContent.of(secret.type, compose(secret, made.values), records)

    def deadline(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> datetime | None:
        lease = seen.vault.get(secret.name)
        if not isinstance(lease, Lease):
            return None
        due = rules.deadline(lease)
        return due if due is None or due > now else earliest(rules.last_call(lease))

    def ends(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> datetime | None:
        lease = seen.vault.get(secret.name)
        return lease.ends if isinstance(lease, Lease) else None

    def report(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> Mapping[str, Any]:
        lease = seen.vault.get(secret.name)
        return {"lease": rules.report(lease)} if isinstance(lease, Lease) else {}

    def summary(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> str:
        lease = seen.vault.get(secret.name)
        until = f", lease until {format_time(lease.ends)}" if isinstance(lease, Lease) else ""
        return f"{secret.source.kind} {secret.source}{until}"
