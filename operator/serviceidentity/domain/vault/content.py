"""What goes into a Secret of what Vault has: fields under their own or other names, and values composed of them.

What the API server would refuse is refused here, in words that say what to change.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from serviceidentity.domain.vault.spec import VaultSecretSpec
from serviceidentity.domain.vault.templates import TemplateError
from serviceidentity.errors import ServiceIdentityError

LARGEST: Final = 1024 * 1024
# Controllers give tokens and let nodes join by these: a user's right to an identity must not be a right to that.
FORBIDDEN_TYPES: Final = ("kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token")
_KEY: Final = re.compile(r"(?!\.\.?$|\.\.)[A-Za-z0-9_.-]{1,253}")
_REQUIRED: Final = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
}
_JSON: Final = (".dockerconfigjson", ".dockercfg")
_NAMES_SHOWN: Final = 5
_NAME_SHOWN: Final = 64


class ContentError(ServiceIdentityError):
    """What Vault has is not what the spec asks for. The message names fields, and quotes no value."""


def compose(secret: VaultSecretSpec, values: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the data of the Secret. Texts and bytes stay as they are; every other value is JSON (RFC 8259).

    Raises ContentError when a field that is named is not there, a template can't be evaluated, or the API server would
    not take it.
    """
    missing = sorted(field for field in secret.keys.values() if field not in values)
    if missing:
        raise ContentError(f"there is no field {_listed(missing)} in {secret.source}")
    chosen = secret.keys if secret.keys or secret.templates else {name: name for name in values}
    data = {key: _as_bytes(field, values[field]) for key, field in chosen.items()}
    for key, template in secret.templates.items():
        try:
            data[key] = template.render(values).encode()
        except TemplateError as error:
            raise ContentError(f"the template of {key}: {error}") from None
    _check(secret.type, data)
    return data


def is_secret_key(name: str) -> bool:
    """Say whether a Secret can have a value under this name."""
    return _KEY.fullmatch(name) is not None


def _check(type_: str, data: Mapping[str, bytes]) -> None:
    """Raise ContentError for what the API server does not accept (its ValidateSecret)."""
    if wrong := sorted(name for name in data if not is_secret_key(name)):
        raise ContentError(f"a Secret can't have the key {_listed(wrong)}; give it another name under keys")
    if missing := [name for name in _REQUIRED.get(type_, ()) if not data.get(name)]:
        raise ContentError(f"a Secret of type {type_} needs the key {_listed(missing)}; see keys and templates")
    if type_ == "kubernetes.io/basic-auth" and not data.keys() & {"username", "password"}:
        raise ContentError(f"a Secret of type {type_} needs the key username or password; see keys and templates")
    for name in _JSON:
        if name in _REQUIRED.get(type_, ()) and not _is_json_object(data[name]):
            raise ContentError(f"{name} of a Secret of type {type_} has to be a JSON object")
    if sum(map(len, data.values())) > LARGEST:
        raise ContentError("it is larger than the 1 MiB that a Secret can hold; choose some of its fields with keys")


def _is_json_object(value: bytes) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except (ValueError, RecursionError):
        return False


def _as_bytes(field: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), sort_keys=True)
    try:
        return text.encode()
    except UnicodeEncodeError:  # JSON can say half of a surrogate pair
        raise ContentError(f"field {_listed([field])} is no Unicode text") from None


def _listed(names: list[str]) -> str:
    """Name fields, in ASCII and not too many: they may be anything."""
    shown = [ascii(name if len(name) <= _NAME_SHOWN else name[:_NAME_SHOWN] + "...") for name in names[:_NAMES_SHOWN]]
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(shown) + more
