"""Permissions and their wildcards, as the SDK's authorisation has them.

A permission is names with colons between them: `orders:read`. `*` grants everything, `orders:*` whatever is below
`orders:`, at any depth. A `*` anywhere else makes it no permission: it grants nothing.
"""

import re
from collections.abc import Iterable
from typing import Final

EVERYTHING: Final = "*"
_WILDCARD: Final = ":*"
_PERMISSION: Final = re.compile(r"\*|[^\s:*]+(?::[^\s:*]+)*(?::\*)?")


def is_permission(text: str) -> bool:
    """Say whether a text is a permission, with or without a wildcard."""
    return text.isprintable() and _PERMISSION.fullmatch(text) is not None


def grants(granted: str, required: str) -> bool:
    """Say whether one permission grants another. Whatever is not a permission grants nothing and is never granted."""
    if not (is_permission(granted) and is_permission(required)):
        return False
    if granted in (EVERYTHING, required):
        return True
    return granted.endswith(_WILDCARD) and required.startswith(granted.removesuffix(EVERYTHING))


def granted_by(have: Iterable[str], required: str) -> bool:
    """Say whether any of some permissions grants `required`."""
    return any(grants(granted, required) for granted in have)
