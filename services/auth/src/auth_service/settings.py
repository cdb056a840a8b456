"""Settings: environment variables `AUTH_*`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from auth_service.domain.refresh import ACCESS_LIFETIME
from auth_service.errors import RejectedError

_LOGIN: Final = re.compile(r"(?:^|[\s?&])(?:user|password)\s*=|@")
_SECONDS: Final = re.compile(r"[1-9][0-9]{0,2}")
_INTERVAL: Final = re.compile(r"(?!0(?:\.0+)?$)[0-9]{1,2}(?:\.[0-9]{1,3})?")
_REDIS: Final = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are. The login at PostgreSQL is in none of these: it comes from a directory, and changes."""

    jwt: str  # AUTH_JWT: where the `<name>-jwt` Secret is mounted
    database: str  # AUTH_DATABASE: host=... dbname=..., without user and password
    login: str  # AUTH_DATABASE_LOGIN: directory with `username` and `password`
    redis: str  # AUTH_REDIS
    tls: str | None  # AUTH_TLS: where the `<name>-tls` Secret is mounted
    trust: str | None  # AUTH_TRUST: where the trust bundle is mounted
    callers: tuple[str, ...]  # AUTH_CALLERS: SPIFFE IDs; without any, whoever has a password may come
    origins: frozenset[str]  # AUTH_ORIGINS: of pages whose browsers send no Sec-Fetch-Site
    trusted_hops: int  # AUTH_TRUSTED_HOPS: proxies before the service that append to X-Forwarded-For
    issuer: str  # AUTH_ISSUER
    audience: str  # AUTH_AUDIENCE
    access_lifetime: timedelta = ACCESS_LIFETIME  # AUTH_ACCESS_SECONDS
    look_every: float = 2.0  # AUTH_LOOK_EVERY: seconds between looks at the mounted files
    access_log: bool = False  # AUTH_ACCESS_LOG: on, or off


def read_settings(env: Mapping[str, str]) -> Settings:
    """Read the variables. Raises RejectedError that names all that are wrong."""
    wrong = [name for name in ("AUTH_JWT", "AUTH_DATABASE", "AUTH_DATABASE_LOGIN", "AUTH_REDIS") if not env.get(name)]
    if not env.get("AUTH_REDIS", "redis://").startswith(_REDIS):
        wrong.append("AUTH_REDIS")
    hops = env.get("AUTH_TRUSTED_HOPS", "0")
    if not (hops.isascii() and hops.isdigit() and len(hops) < 3):  # noqa: PLR2004
        wrong.append("AUTH_TRUSTED_HOPS")
    seconds = env.get("AUTH_ACCESS_SECONDS") or str(int(ACCESS_LIFETIME.total_seconds()))
    if not _SECONDS.fullmatch(seconds) or int(seconds) > ACCESS_LIFETIME.total_seconds():
        wrong.append("AUTH_ACCESS_SECONDS")
    every = env.get("AUTH_LOOK_EVERY") or "2"
    if not _INTERVAL.fullmatch(every):
        wrong.append("AUTH_LOOK_EVERY")
    log = env.get("AUTH_ACCESS_LOG") or "off"
    if log not in {"on", "off"}:
        wrong.append("AUTH_ACCESS_LOG")
    if _LOGIN.search(env.get("AUTH_DATABASE", "")):
        wrong.append("AUTH_DATABASE (user and password come from AUTH_DATABASE_LOGIN)")
    if wrong:
        raise RejectedError(f"missing or wrong: {', '.join(wrong)}")
    return Settings(
        jwt=env["AUTH_JWT"],
        database=env["AUTH_DATABASE"],
        login=env["AUTH_DATABASE_LOGIN"],
        redis=env["AUTH_REDIS"],
        tls=env.get("AUTH_TLS") or None,
        trust=env.get("AUTH_TRUST") or None,
        callers=tuple(env.get("AUTH_CALLERS", "").split()),
        origins=frozenset(env.get("AUTH_ORIGINS", "").split()),
        trusted_hops=int(hops),
        issuer=env.get("AUTH_ISSUER") or "auth-service",
        audience=env.get("AUTH_AUDIENCE") or "microservices",
        access_lifetime=timedelta(seconds=int(seconds)),
        look_every=float(every),
        access_log=log == "on",
    )
