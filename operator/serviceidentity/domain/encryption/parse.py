"""From the JSON of `spec.encrypted` to its value."""

import re
from collections.abc import Callable
from typing import Final

from serviceidentity.domain.encryption.values import PREFIX
from serviceidentity.domain.fields import Json, block, text
from serviceidentity.domain.model import EncryptedSpec, SecretTemplate
from serviceidentity.errors import InvalidSpecError

PATH: Final = "spec.encrypted"
_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")


def is_secret_key(name: str) -> bool:
    """Say whether a Secret may have a value under this key, as the API server sees it."""
    return _KEY.fullmatch(name) is not None and name != "." and not name.startswith("..")


def encrypted_values(given: Json, identity: str, template: Callable[[Json, str], SecretTemplate]) -> EncryptedSpec:
    """Read the values as they are, encrypted. Raises InvalidSpecError, which quotes none: one may be in plain."""
    values = block(given, "values", PATH)
    for key, value in values.items():
        if not is_secret_key(key):
            raise InvalidSpecError(f"{PATH}.values", "every key must be a Secret's key, such as STRIPE_KEY")
        if not isinstance(value, str) or not value.startswith(PREFIX):
            raise InvalidSpecError(f"{PATH}.values.{key}", f"must be an encrypted value, which begins with {PREFIX}")
    if not values:
        raise InvalidSpecError(f"{PATH}.values", "must have at least one value")
    return EncryptedSpec(text(given, "secretName", PATH, f"{identity}-encrypted"), dict(values), template(given, PATH))
