"""What is on record of leases, so that none of them is ever lost.

Two kinds of record. The *lease record* is a Secret in the operator's namespace that is written before credentials are
read: with the token that they hang on, it is all that is needed to take them back. The *annotations* on the Secret that
the credentials are in say which record is theirs, and which ones they replaced a while ago.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.domain.material import KeyMaterial, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import Key, identity_key
from serviceidentity.domain.ownership import (
    MANAGED_BY,
    MANAGED_BY_LABEL,
    VAULT_LEASE_ANNOTATION,
    VAULT_LEASE_LABEL,
    VAULT_RECORD_ANNOTATION,
    VAULT_REPLACED_ANNOTATION,
    Metadata,
)
from serviceidentity.domain.schedule import format_duration, format_time, parse_duration, parse_time
from serviceidentity.domain.vault.views import Lease

_TOKEN: Final = "token"  # noqa: S105  # the name of a key of the Secret
_LEASE_ID: Final = "lease_id"
_LAST_YEAR: Final = 2999  # so that what is calculated with it is a time, too


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """Whose credentials hang on which token.

    `secret` is the entry of spec.vault.secrets, `secret_name` its Secret. `token` None: they hang on the login itself,
    which must not be revoked, so that `lease_id` is known. `ends` is there when revoking failed: when nothing of it can
    be left at the latest.
    """

    name: str
    connection: str
    role: str | None
    login_namespace: str
    service_account: str
    owner: Key
    uid: str
    secret: str
    secret_name: str
    path: str
    created: datetime
    token: KeyMaterial | None
    accessor: str
    lease_id: str = ""
    ends: datetime | None = None

    @property
    def shared(self) -> bool:
        """Say whether the credentials hang on a login that others use as well."""
        return self.token is None


@dataclass(frozen=True, slots=True)
class Bond:
    """What the annotation on the Secret says of the lease behind it. `first` is how long it was granted at first."""

    record: str
    lease_id: str
    issued: datetime
    first: timedelta
    renewable: bool

    def begun(self, asked: datetime) -> Lease:
        """Return the lease as it began, asked about at `asked`."""
        return Lease(self.lease_id, self.issued, asked, self.first, self.first, self.renewable)


@dataclass(frozen=True, slots=True)
class Replaced:
    """A lease whose place another one took, and that lives on until then, for those who still use it."""

    record: str
    lease_id: str
    until: datetime


def content_of(record: LeaseRecord) -> SecretContent:
    """Return the content of a record's Secret."""
    data = {_TOKEN: record.token.reveal()} if record.token is not None else {}
    if record.lease_id:
        data[_LEASE_ID] = record.lease_id.encode()
    facts: dict[str, Any] = {
        "connection": record.connection,
        "namespace": record.owner.namespace,
        "identity": record.owner.name,
        "uid": record.uid,
        "secret": record.secret,
        "secretName": record.secret_name,
        "path": record.path,
        "created": format_time(record.created),
    }
    login = {
        "role": record.role,
        "loginNamespace": record.login_namespace,
        "serviceAccount": record.service_account,
        "accessor": record.accessor,
    }
    facts |= {name: value for name, value in login.items() if value}
    if record.ends is not None:
        facts["ends"] = format_time(record.ends)
    return SecretContent.of("Opaque", data, {VAULT_RECORD_ANNOTATION: _json(facts)})


def metadata_of(content: SecretContent) -> Metadata:
    """Return the metadata of a record's Secret. It has no owner: it must outlive the identity and its namespace."""
    return Metadata({MANAGED_BY_LABEL: MANAGED_BY, VAULT_LEASE_LABEL: "true"}, dict(content.annotations), ())


def read_record(view: SecretView) -> LeaseRecord:
    """Read a record. Raises MalformedError."""
    facts = _facts(view.annotations.get(VAULT_RECORD_ANNOTATION))
    try:
        return LeaseRecord(
            name=view.name,
            connection=str(facts["connection"]),
            role=facts.get("role"),
            login_namespace=str(facts.get("loginNamespace", "")),
            service_account=str(facts.get("serviceAccount", "")),
            owner=identity_key(str(facts["namespace"]), str(facts["identity"])),
            uid=str(facts["uid"]),
            secret=str(facts["secret"]),
            secret_name=str(facts["secretName"]),
            path=str(facts.get("path", "")),
            created=parse_time(facts["created"]),
            token=KeyMaterial(view.value(_TOKEN)) if _TOKEN in view.data else None,
            accessor=str(facts.get("accessor", "")),
            lease_id=view.value(_LEASE_ID).decode() if _LEASE_ID in view.data else "",
            ends=parse_time(facts["ends"]) if "ends" in facts else None,
        )
    except (KeyError, TypeError, ValueError):
        raise MalformedError("the record of a lease can't be read") from None


def annotation_of(record: str, lease: Lease) -> str:
    """Return the annotation that names the lease behind a Secret. It stays as it is when the lease is renewed."""
    return _json(
        {
            "record": record,
            "id": lease.lease_id,
            "issued": format_time(lease.issued),
            "duration": format_duration(lease.first),
            "renewable": lease.renewable,
        }
    )


def bond_of(view: SecretView) -> Bond | None:
    """Return which lease is behind a Secret; None when there is none, or that can't be read."""
    facts = _facts(view.annotations.get(VAULT_LEASE_ANNOTATION))
    try:
        return Bond(
            record=str(facts["record"]),
            lease_id=str(facts["id"]),
            issued=_instant(facts["issued"]),
            first=parse_duration(facts["duration"]),
            renewable=facts["renewable"] is True,
        )
    except (KeyError, TypeError, ValueError):
        return None


def replaced_of(view: SecretView) -> tuple[Replaced, ...]:
    """Return the leases that those behind a Secret replaced, as far as they were alive then."""
    try:
        found = json.loads(view.annotations.get(VAULT_REPLACED_ANNOTATION, "[]"))
        return tuple(Replaced(str(one["record"]), str(one["id"]), _instant(one["until"])) for one in found)
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()


def replaced_annotation(
    views: Iterable[SecretView], now: datetime, overlap: timedelta, successor: str
) -> dict[str, str]:
    """Return the annotation of a Secret that takes the place of those in `views`: whose leases live on, how long.

    It is written in one step with the new credentials, so what becomes of the old ones is never in doubt.
    """
    living: dict[str, Replaced] = {}
    for view in views:
        for one in replaced_of(view):
            if one.until > now:
                living[one.record] = one
        if (bond := bond_of(view)) is not None and overlap > timedelta(0):
            living.setdefault(bond.record, Replaced(bond.record, bond.lease_id, now + overlap))
    living.pop(successor, None)
    listed = [
        {"record": one.record, "id": one.lease_id, "until": format_time(one.until)}
        for one in sorted(living.values(), key=lambda one: (one.until, one.record))
    ]
    return {VAULT_REPLACED_ANNOTATION: _json(listed)} if listed else {}


def _instant(text: str) -> datetime:
    """Read an instant that anybody may have written. Raises ValueError and TypeError."""
    instant = parse_time(text)
    if instant.year > _LAST_YEAR:
        raise ValueError("too far away")
    return instant


def _facts(text: str | None) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
