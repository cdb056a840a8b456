"""Values that are encrypted in the identity's spec, decrypted in a Secret."""

from datetime import datetime
from typing import Any, Final

from serviceidentity.domain.credentials.base import Due, Made, MadeHere, Observed, Reason
from serviceidentity.domain.encryption.opening import Opened, key_id_of
from serviceidentity.domain.material import Held, SecretContent, SecretView
from serviceidentity.domain.model import EncryptedSpec, Identity, SecretTemplate

SECRET_TYPE: Final = "Opaque"  # noqa: S105  # a Secret's type, not a secret


class EncryptedValues(MadeHere):
    """The credential behind `spec.encrypted`.

    Decryption gives the same content each time, so what the Secret should hold is compared with what it holds; nothing
    else is kept of the values. As long as one can't be decrypted nothing is written, and what is there stays.
    """

    name = "encrypted"
    condition = "EncryptedReady"
    status_field = "encrypted"
    listed = False
    governed = False  # nothing in it is the trust domain's

    def requested(self, identity: Identity) -> bool:
        return identity.encrypted is not None

    def secret_name(self, identity: Identity) -> str:
        return identity.encrypted.secret_name if identity.encrypted else ""

    def template(self, identity: Identity) -> SecretTemplate:
        return identity.encrypted.template if identity.encrypted else SecretTemplate()

    def decide(self, seen: Observed, now: datetime) -> Due | Held | None:
        if isinstance(seen.decrypted, Held):
            return seen.decrypted
        view = seen.contents.get(self.secret_name(seen.identity))
        if view is None:
            return Due(Reason.DOES_NOT_EXIST, "the Secret does not exist yet")
        wanted = _content(seen.decrypted)
        if dict(view.data) == dict(wanted.data) and view.type == wanted.type:
            return None
        return Due(Reason.VALUES_CHANGED, "the Secret does not hold what the values decrypt to")

    def render(
        self, seen: Observed, due: Due, now: datetime, password: bytes | None, made: Made | None = None
    ) -> SecretContent:
        if not isinstance(seen.decrypted, Opened):
            raise LookupError("the values are not decrypted")  # noqa: TRY004  # `decide` said so before
        return _content(seen.decrypted)

    def consumed(self, content: SecretContent | SecretView) -> object:
        return dict(content.data)

    def deadline(self, seen: Observed, now: datetime) -> datetime | None:
        return None  # a change of the spec or of the keys wakes the identity

    def ends(self, seen: Observed) -> datetime | None:
        return None

    def report(self, seen: Observed, now: datetime) -> dict[str, Any]:
        spec = _spec(seen)
        return {
            "secretName": spec.secret_name,
            "values": [_value_status(name, text) for name, text in sorted(spec.values.items())],
        }

    def summary(self, seen: Observed, now: datetime) -> str:
        count = len(seen.contents[self.secret_name(seen.identity)].data)
        return f"{count} decrypted value{'s' * (count != 1)}"


def _content(opened: Opened) -> SecretContent:
    return SecretContent.of(SECRET_TYPE, {name: value.reveal() for name, value in opened.values.items()}, {})


def _value_status(name: str, text: str) -> dict[str, str]:
    key_id = key_id_of(text)
    return {"name": name, "form": "Symmetric"} if key_id is None else {"name": name, "keyID": key_id}


def _spec(seen: Observed) -> EncryptedSpec:
    if seen.identity.encrypted is None:
        raise LookupError("the identity has no encrypted values")
    return seen.identity.encrypted
