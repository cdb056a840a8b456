"""Permissions and their wildcards.

A permission is one or more names with colons between them, such as `orders:read` or `orders:read:own`. A wildcard is
`*` or ends in `:*`:

- `*` grants everything.
- `orders:*` grants what is below `orders:`, at any depth: `orders:read`, `orders:read:own`. It does not grant `orders`.
- Anything else grants itself and nothing more, letter by letter: `orders:read` does not grant `orders:read:own`.

A `*` anywhere else (`ord*`, `*:read`, `orders:*:own`) is no permission: it grants nothing, and can't be required. A
wildcard that is required is granted by the same or a wider one: `orders:*` by `orders:*` and `*`.
"""

import re
from collections.abc import Iterable
from typing import Final

EVERYTHING: Final = "*"
_WILDCARD: Final = ":*"
_PERMISSION: Final = re.compile(r"\*|[^\s:*]+(?::[^\s:*]+)*(?::\*)?")


def is_permission(text: object) -> bool:
    """Say whether a text is a permission, with or without a wildcard."""
    return isinstance(text, str) and text.isprintable() and _PERMISSION.fullmatch(text) is not None


def grants(granted: str, required: str) -> bool:
    """Say whether one permission grants another. Whatever is not a permission grants nothing and is never granted."""
    return is_permission(required) and _covers(granted, required)


def granted_by(have: Iterable[str], required: str) -> bool:
    """Say whether any of some permissions grants `required`."""
    return is_permission(required) and any(_covers(granted, required) for granted in have)


def _covers(granted: object, required: str) -> bool:
    """Say whether `granted` grants a permission. What is in front of its `*` then begins one, so it is one as well."""
    if not isinstance(granted, str):
        return False
    if granted in (EVERYTHING, required):
        return True
    return granted.endswith(_WILDCARD) and required.startswith(granted[:-1])
