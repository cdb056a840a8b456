"""Data keys that a transit engine makes and wraps, for services that do envelope encryption.

What was encrypted with an earlier one is read by having its wrapped form unwrapped, which is kept with the ciphertext:
a data key that was replaced need not be kept here.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from serviceidentity.domain.credentials import vault_made
from serviceidentity.domain.credentials.base import Due, Made, Observed, Reason
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.schedule import format_time, jitter
from serviceidentity.domain.vault.content import compose
from serviceidentity.domain.vault.spec import TransitSource, VaultSecretSpec, VaultSpec
from serviceidentity.domain.vault.views import VaultOrder

PLAINTEXT, CIPHERTEXT = "plaintext", "ciphertext"
_PREFIX: Final = b"vault:v"


class FromTransit:
    """The way of data keys."""

    def decide(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> Due | Held | None:
        return vault_made.unless_held(secret, seen, _due(secret, seen, view, now))

    def first(self, secret: VaultSecretSpec, seen: Observed) -> Held | None:
        return vault_made.held(secret, seen)

    def order(self, secret: VaultSecretSpec, vault: VaultSpec) -> VaultOrder | None:
        return VaultOrder(vault, secret)

    def content(self, secret: VaultSecretSpec, seen: Observed, made: Made | None) -> SecretContent:
        answer = vault_made.answer(made)
        version = _version(str(answer.values[CIPHERTEXT]))
        more = {} if version is None else {"keyVersion": version}
        annotations = vault_made.record(answer.made, **more) if answer.made is not None else {}
        return SecretContent.of(secret.type, compose(secret, answer.values), annotations)

    def deadline(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> datetime | None:
        return _rotation(secret, seen, view)

    def ends(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> datetime | None:
        return None

    def report(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> Mapping[str, Any]:
        made, rotation = vault_made.made_at(view), _rotation(secret, seen, view)
        version = vault_made.recorded(view).get("keyVersion")
        found = {
            "issueTime": format_time(made) if made else None,
            "rotationTime": format_time(rotation) if rotation else None,
            "wrappingKeyVersion": version if isinstance(version, int) else None,
        }
        return {"dataKey": {name: value for name, value in found.items() if value is not None}}

    def summary(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> str:
        return f"data key of {secret.source}"


def _due(secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> Due | None:
    names = _names(secret)
    if missing := sorted(name for name in names if not view.data.get(name)):
        return Due(Reason.MISSING_DATA, f"{missing[0]} is missing from the Secret")
    if view.type != secret.type or view.data.keys() - names:
        return Due(Reason.SECRET_MISMATCH, "the Secret is not in the form that is asked for")
    if vault_made.made_at(view) is None or not _is_whole(secret, view, names):
        return Due(Reason.SECRET_MISMATCH, "the Secret does not hold the data key that was made")
    rotation = _rotation(secret, seen, view)
    if rotation is not None and now >= rotation:
        return Due(Reason.ROTATING, f"rotation time {format_time(rotation)} has passed")
    return None


def _names(secret: VaultSecretSpec) -> Mapping[str, str | None]:
    """Return the keys of the Secret, with the field under each; None under what a template makes."""
    if not secret.keys and not secret.templates:
        return {PLAINTEXT: PLAINTEXT, CIPHERTEXT: CIPHERTEXT}
    return {**dict(secret.keys), **dict.fromkeys(secret.templates)}


def _is_whole(secret: VaultSecretSpec, view: SecretView, names: Mapping[str, str | None]) -> bool:
    """Say whether what is under the names of fields can be what it should be."""
    try:
        for name, field in names.items():
            value = view.value(name)
            if field == CIPHERTEXT and not value.startswith(_PREFIX):
                return False
            if field == PLAINTEXT and len(value) * 8 != _source(secret).bits:
                return False
    except MalformedError:
        return False
    return True


def _rotation(secret: VaultSecretSpec, seen: Observed, view: SecretView) -> datetime | None:
    made, every = vault_made.made_at(view), _source(secret).rotate_every
    if made is None or every is None:
        return None
    return made + every - jitter(every, f"{seen.identity.meta.uid}/{secret.name}/{format_time(made)}")


def _version(wrapped: str) -> int | None:
    """Return the version of the key that wrapped, of `vault:v3:...`."""
    _, version, *_ = (*wrapped.split(":", 2), "")
    number = version.removeprefix("v")
    return int(number) if number.isascii() and number.isdigit() and len(number) <= 9 else None  # noqa: PLR2004


def _source(secret: VaultSecretSpec) -> TransitSource:
    if not isinstance(secret.source, TransitSource):
        raise TypeError("not a secret of a transit engine")
    return secret.source
