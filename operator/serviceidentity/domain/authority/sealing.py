"""Private keys of authorities at rest: when one has to be encrypted, wrapped anew or stored in plain, and what is told.

Pure decisions; who holds the key-encryption keys carries them out.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from serviceidentity.domain.authority.records import Authority
from serviceidentity.domain.material import SecretContent, SecretView
from serviceidentity.domain.model import Meta

REWRAP_ANNOTATION: Final = "serviceidentity.dev/rewrap"
REWRAPPED_ANNOTATION: Final = "serviceidentity.dev/rewrapped"
KEYS_ENCRYPTED: Final = "KeysEncrypted"
NOT_ENCRYPTED: Final = "NotEncrypted"
ENCRYPTED: Final = "Encrypted"
KEYS_STORED: Final = "KeysStored"
KEY_ENCRYPTION_FAILED: Final = "KeyEncryptionFailed"
_KEY: Final = "tls.key"
_NAMED: Final = 3


class Sealing(StrEnum):
    """What has to be done to a stored private key, by how it is told. The key and its certificate stay the same."""

    ENCRYPT = "encrypted"  # it is stored in plain
    REENCRYPT = "encrypted anew"  # with a new data key, because somebody asked
    REWRAP = "wrapped anew"  # the data key is wrapped by a key-encryption key that is not the newest
    DECRYPT = "decrypted"  # keys are to be stored in plain again


def sealing_due(authority: Authority, current: str | None, meta: Meta) -> Sealing | None:
    """Return what is due for an authority whose key can be read.

    `current` names the key-encryption key that wraps now; None means that keys are stored in plain.
    """
    return due_for(authority.view, authority.kek, current, meta) if authority.key_is_here else None


def due_for(view: SecretView, kek: str | None, current: str | None, meta: Meta) -> Sealing | None:
    """Return what is due for private keys in a Secret; `kek` names the key that they are encrypted with now."""
    if current is None:
        return None if kek is None else Sealing.DECRYPT
    if kek is None:
        return Sealing.ENCRYPT
    wanted = meta.annotations.get(REWRAP_ANNOTATION)
    if wanted is not None and wanted != view.annotations.get(REWRAPPED_ANNOTATION):
        return Sealing.REENCRYPT
    return Sealing.REWRAP if kek != current else None


def rewrap_asked(authorities: Sequence[Authority], meta: Meta) -> bool:
    """Say whether the rewrap annotation has a value that some authority has not followed yet."""
    wanted = meta.annotations.get(REWRAP_ANNOTATION)
    kept = (a for a in authorities if a.key is not None)
    return wanted is not None and any(wanted != a.view.annotations.get(REWRAPPED_ANNOTATION) for a in kept)


def with_key(content: SecretContent, stored: bytes, meta: Meta, field: str = _KEY) -> SecretContent:
    """Return the content of an authority's Secret with its private key stored like this, under the data key `field`."""
    wanted = meta.annotations.get(REWRAP_ANNOTATION)
    record = {} if wanted is None else {REWRAPPED_ANNOTATION: wanted}
    data = {**content.data, field: b64encode(stored).decode()}
    return SecretContent(content.type, data, {**content.annotations, **record})


def report(
    authorities: Sequence[Authority], current: str | None, trouble: str | None, more_keys: Mapping[str, str | None]
) -> tuple[str, bool, str, str]:
    """Return the condition KeysEncrypted, for an operator that is to encrypt.

    `current` is None when it is not known yet, `trouble` is what went wrong last. `more_keys` has, for other Secrets
    with private keys, the name of the key that they are encrypted with.
    """
    stored = {a.view.name: a.kek for a in authorities if a.key is not None} | dict(more_keys)
    plain = [name for name, kek in stored.items() if kek is None]
    more = f"; {trouble}" if trouble else ""
    if plain:
        named = ", ".join(sorted(plain)[:_NAMED]) + (f" and {len(plain) - _NAMED} more" if len(plain) > _NAMED else "")
        return KEYS_ENCRYPTED, False, NOT_ENCRYPTED, f"stored in plain: the key of {named}{more}"
    used = sorted({kek or "an unknown key" for kek in stored.values()})
    due = f"; {current} is newer" if current is not None and used != [current] else ""
    return KEYS_ENCRYPTED, True, ENCRYPTED, f"encrypted with {', '.join(used)}{due}{more}"
