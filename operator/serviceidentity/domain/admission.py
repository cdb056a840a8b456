"""What the API server asks before it stores an object of ours, and the answer: AdmissionReview, admission.k8s.io/v1.

An object is refused for what would end as the reason InvalidSpec in its condition, in the same words, and for nothing
else. An object that is being deleted, and an update that leaves the spec as it was, are let through unread: a finalizer
can be removed from an object that has been invalid for long.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from serviceidentity.domain.credentials.base import Reason
from serviceidentity.domain.fields import Json
from serviceidentity.domain.material import MalformedError
from serviceidentity.domain.model import GROUP, VERSION
from serviceidentity.errors import InvalidSpecError

API_VERSION: Final = "admission.k8s.io/v1"
KIND: Final = "AdmissionReview"
INVALID: Final = 422  # HTTP, as for an object that the schema refuses
LONGEST_UID: Final = 128
_LOOKED_AT: Final = ("CREATE", "UPDATE")

Readers = Mapping[str, Callable[[Json], object]]  # by kind; each raises InvalidSpecError


@dataclass(frozen=True, slots=True)
class Review:
    """One question. `body` is the object to look at; None when the answer is yes whatever it holds."""

    uid: str
    kind: str
    name: str
    body: Json | None


def answer(text: bytes, readers: Readers) -> bytes:
    """Return the answer to a question, both as JSON. Raises MalformedError when it is no AdmissionReview of v1.

    It follows from the question alone. Whoever asks is not known, so it tells nothing of what else there is.
    """
    try:
        review = _review(_document(text))
        refused = _judge(review, readers.get(review.kind))
    except RecursionError:
        raise MalformedError("is nested too deeply") from None
    response: dict[str, Any] = {"uid": review.uid, "allowed": refused is None}
    if refused is not None:
        response["status"] = _status(review, refused)
    return json.dumps({"apiVersion": API_VERSION, "kind": KIND, "response": response}).encode()


def _judge(review: Review, read: Callable[[Json], object] | None) -> InvalidSpecError | None:
    if review.body is None or read is None:
        return None
    try:
        read(review.body)
    except InvalidSpecError as error:
        return error
    return None


def _status(review: Review, refused: InvalidSpecError) -> dict[str, Any]:
    """Return a Status that clients show as they show what a schema refuses."""
    message = str(refused)
    cause = {"reason": Reason.INVALID_SPEC, "field": refused.path, "message": message.removeprefix(f"{refused.path}: ")}
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": INVALID,
        "reason": "Invalid",
        "message": message,
        "details": {"group": GROUP, "kind": review.kind, "name": review.name, "causes": [cause]},
    }


def _document(text: bytes) -> Json:
    try:
        found = json.loads(text.decode(), parse_constant=_not_json)
    except ValueError:
        raise MalformedError("is not JSON") from None
    return _mapping(found)


def _review(document: Json) -> Review:
    if document.get("apiVersion") != API_VERSION or document.get("kind") != KIND:
        raise MalformedError(f"is not {KIND} of {API_VERSION}")
    request = _mapping(document.get("request"))
    uid, kind = _text(request.get("uid")), _mapping(request.get("kind"))
    if not 0 < len(uid) <= LONGEST_UID:
        raise MalformedError("has no uid to answer to")
    name = _text(request.get("name") or "")
    ours = (kind.get("group"), kind.get("version")) == (GROUP, VERSION)
    found = Review(uid, _text(kind.get("kind")) if ours else "", name, None)
    if not ours or request.get("subResource") or request.get("operation") not in _LOOKED_AT:
        return found
    new = _mapping(request.get("object"))
    old = _mapping(request.get("oldObject") or {}) if request["operation"] == "UPDATE" else {}
    meta = _mapping(new.get("metadata"))
    if meta.get("deletionTimestamp") or (old and old.get("spec") == new.get("spec")):
        return found
    return Review(uid, found.kind, name or _text(meta.get("name") or ""), _body(meta, new.get("spec")))


def _body(meta: Json, spec: object) -> Json:
    """Return what is read of an object: its spec, and of the metadata what defaults and selectors look at."""
    texts = {field: _text(meta.get(field) or "") for field in ("name", "namespace", "uid")}
    labels = {field: _texts(meta.get(field) or {}) for field in ("labels", "annotations")}
    return {"metadata": {**texts, **labels}, "spec": spec}


def _mapping(value: object) -> Json:
    if not isinstance(value, Mapping):
        raise MalformedError("has something else where an object belongs")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise MalformedError("has something else where a text belongs")
    return value


def _texts(value: object) -> dict[str, str]:
    return {name: _text(text) for name, text in _mapping(value).items()}


def _not_json(_: str) -> NoReturn:
    raise ValueError
