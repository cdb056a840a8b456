"""Requests against a pydantic model: all errors at once, in a form that stays; unknown fields are dropped."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar, get_origin

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
except ImportError as error:
    raise ImportError("serviceidentity_sdk.hardening needs: pip install 'serviceidentity-sdk[asgi]'") from error
try:
    from pydantic import BaseModel, ValidationError
except ImportError as error:
    raise ImportError("serviceidentity_sdk.hardening needs: pip install 'serviceidentity-sdk[hardening]'") from error

Model = TypeVar("Model", bound=BaseModel)
LARGEST_BODY: Final = 100 * 1024  # bytes
_MANY: Final = 100  # errors in one answer
_TOO_LARGE: Final = 413
_UNSUPPORTED: Final = 415
_INVALID: Final = 400


class InvalidRequestError(HTTPException):
    """A request is not what the model says. `details` has an entry for each error."""

    def __init__(self, details: Iterable[Mapping[str, str]], status: int = _INVALID) -> None:
        super().__init__(status, "Validation failed")
        self.details = [dict(one) for one in details]

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        return {"error": "Validation failed", "details": self.details}


def validate(model: type[Model], value: Any, where: str = "body") -> Model:
    """Return what `value` (decoded JSON) is in terms of the model. Raises InvalidRequestError with all errors."""
    try:
        return model.model_validate(value, extra="ignore")
    except ValidationError as error:
        raise InvalidRequestError(_details(error.errors(**_BARE), where)) from None


async def body_of(request: Request, model: type[Model], *, largest: int = LARGEST_BODY) -> Model:
    """Return a request's JSON body. Raises InvalidRequestError; 413 when it is too large, 415 when it is not JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise InvalidRequestError(
            [_detail("body", "", "media_type", "Content-Type must be application/json")], _UNSUPPORTED
        )
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > largest:
            message = f"must have at most {largest} bytes"
            raise InvalidRequestError([_detail("body", "", "too_large", message)], _TOO_LARGE)
    try:
        return model.model_validate_json(bytes(body), extra="ignore")
    except ValidationError as error:
        raise InvalidRequestError(_details(error.errors(**_BARE), "body")) from None


def query_of(request: Request, model: type[Model]) -> Model:
    """Return a request's query parameters. Raises InvalidRequestError.

    A parameter that comes more than once, or whose field is a list, is a list.
    """
    found: dict[str, Any] = {}
    for name in request.query_params:
        values = request.query_params.getlist(name)
        field = model.model_fields.get(name)
        several = field is not None and get_origin(field.annotation) in (list, set, tuple, frozenset)
        found[name] = values if several or len(values) > 1 else values[0]
    return validate(model, found, "query")


def validation_errors(app: Starlette, status: int = _INVALID) -> None:
    """Answer requests that are not valid in one form, those that FastAPI finds too. `status` is 400 or 422."""

    async def answer(_request: Request, error: Exception) -> Response:
        if isinstance(error, InvalidRequestError):
            return JSONResponse(error.body, status if error.status_code == _INVALID else error.status_code)
        details = [
            detail
            for one in error.errors()  # type: ignore[attr-defined]  # a RequestValidationError of FastAPI
            for detail in _details([one | {"loc": one["loc"][1:]}], str(one["loc"][0]))
        ]
        return JSONResponse({"error": "Validation failed", "details": details[:_MANY]}, status)

    app.add_exception_handler(InvalidRequestError, answer)
    try:
        from fastapi.exceptions import RequestValidationError  # noqa: PLC0415  # only where FastAPI is installed
    except ImportError:
        return
    app.add_exception_handler(RequestValidationError, answer)


# What was sent is not sent back: it may be a password, and whoever sent it has it.
_BARE: Final[Any] = {"include_url": False, "include_context": False, "include_input": False}


def _details(errors: Iterable[Any], where: str) -> list[dict[str, str]]:
    found = []
    for error in errors:
        at, code, message = error["loc"], str(error["type"]), str(error["msg"])
        if code == "json_invalid":
            at, message = (), "not valid JSON"  # the parser's words quote nothing, but change with it
        found.append(_detail(where, ".".join(map(str, at)), code, message))
    return found[:_MANY]


def _detail(where: str, field: str, code: str, message: str) -> dict[str, str]:
    return {"in": where, "field": field, "code": code, "message": message}
