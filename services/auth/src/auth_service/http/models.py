"""What goes in and out, as the OpenAPI document says."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, SecretStr, StrictBool

from auth_service.domain import refresh
from auth_service.domain.accounts import LONGEST_PASSWORD, NAME


class Delivery(StrEnum):
    """How tokens are handed over."""

    BEARER = "bearer"  # in the body
    COOKIE = "cookie"  # in HttpOnly cookies, out of reach of scripts


def _is_text(value: SecretStr) -> SecretStr:
    try:
        value.get_secret_value().encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write
        raise ValueError("must be Unicode text") from None
    return value


Password = Annotated[SecretStr, Field(min_length=1, max_length=LONGEST_PASSWORD), AfterValidator(_is_text)]


class LoginRequest(BaseModel):
    """Name and password."""

    username: str = Field(pattern=NAME)
    password: Password
    delivery: Delivery = Delivery.BEARER


class RefreshRequest(BaseModel):
    """A refresh token; without one, that of the cookie."""

    refresh_token: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]+$", max_length=refresh.LONGEST)


class LogoutRequest(BaseModel):
    """Which sessions end: this one, or all of the account."""

    all: StrictBool = False


class TokenResponse(BaseModel):
    """Tokens; with delivery in cookies they are in those, and absent here. Times in seconds from now."""

    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105
    expires_in: int
    refresh_expires_in: int
    access_token: str | None = None
    refresh_token: str | None = None


class MeResponse(BaseModel):
    """Whom the access token stands for."""

    id: str
    username: str
    roles: list[str]
    permissions: list[str]


class KeySetResponse(BaseModel):
    """A JWK Set (RFC 7517)."""

    keys: list[dict[str, Any]]


class StatusResponse(BaseModel):
    """Health."""

    status: Literal["ok"] = "ok"


class Problem(BaseModel):
    """Why not."""

    error: str


class InvalidProblem(Problem):
    """A request that is not valid, with everything that is wrong in it."""

    details: list[dict[str, str]] = []


class LimitedProblem(Problem):
    """Too many requests."""

    retryAfter: int  # noqa: N815  # the SDK's answer
