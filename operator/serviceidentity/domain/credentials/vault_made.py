"""What secrets that Vault makes on request have in common: nothing is known of them but what their Secrets say.

So the Secret has on record when it was made. Nobody is asked anything before something is due: with Vault away, what
was made goes on being served, and is what was asked for.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from serviceidentity.domain import ownership
from serviceidentity.domain.credentials.base import Due, Made, Observed
from serviceidentity.domain.material import Held, SecretView
from serviceidentity.domain.schedule import format_time, parse_time
from serviceidentity.domain.vault.content import ContentError
from serviceidentity.domain.vault.spec import VaultSecretSpec
from serviceidentity.domain.vault.views import Answer


def held(secret: VaultSecretSpec, seen: Observed) -> Held | None:
    """Return why Vault can't be asked for it now."""
    view = seen.vault.get(secret.name)
    return view if isinstance(view, Held) else None


def unless_held(secret: VaultSecretSpec, seen: Observed, due: Due | None) -> Due | Held | None:
    """Return what is due; if it can't be done now, then why."""
    return held(secret, seen) or due if due is not None else None


def answer(made: Made | None) -> Answer:
    """Return what came of the order. Raises ContentError when nothing did."""
    if not isinstance(made, Answer) or made.made is None:
        raise ContentError("Vault has made nothing")
    return made


def record(made: datetime, **more: Any) -> dict[str, str]:
    """Return the annotation that says when it was made."""
    found = {"at": format_time(made)} | more
    return {ownership.VAULT_MADE_ANNOTATION: json.dumps(found, separators=(",", ":"), sort_keys=True)}


def recorded(view: SecretView) -> Mapping[str, Any]:
    """Return what the annotation says; nothing when it can't be read."""
    try:
        found = json.loads(view.annotations.get(ownership.VAULT_MADE_ANNOTATION, ""))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def made_at(view: SecretView) -> datetime | None:
    """Return when it was made, if that is on record."""
    text = recorded(view).get("at")
    try:
        return parse_time(text) if isinstance(text, str) else None
    except ValueError:
        return None
