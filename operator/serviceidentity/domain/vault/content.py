"""What goes into a Secret of what Vault has: fields under their own or other names, and values composed of them."""

import json
from collections.abc import Mapping
from typing import Any

from serviceidentity.domain.vault.spec import VaultSecretSpec
from serviceidentity.domain.vault.templates import TemplateError
from serviceidentity.errors import ServiceIdentityError


class ContentError(ServiceIdentityError):
    """What Vault has is not what the spec asks for. The message names fields, and quotes no value."""


def compose(secret: VaultSecretSpec, values: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the data of the Secret. A text stays as it is; every other value is written as JSON (RFC 8259).

    Raises ContentError when a field that is named is not there, or a template can't be evaluated.
    """
    if not secret.keys and not secret.templates:
        return {name: _as_bytes(value) for name, value in values.items()}
    missing = sorted(field for field in secret.keys.values() if field not in values)
    if missing:
        raise ContentError(f"there is no field {', '.join(missing)} in {secret.source}")
    data = {key: _as_bytes(values[field]) for key, field in secret.keys.items()}
    for key, template in secret.templates.items():
        try:
            data[key] = template.render(values).encode()
        except TemplateError as error:
            raise ContentError(f"the template of {key}: {error}") from None
    return data


def _as_bytes(value: object) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), sort_keys=True)).encode()
