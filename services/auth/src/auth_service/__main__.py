"""The command line: serve, migrate, and what an administrator does to roles and accounts."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg
import uvicorn

from auth_service.adapters import accounts, administration, migrations
from auth_service.app.sessions import REVOKED_FOR
from auth_service.domain.accounts import check_new, normalised
from auth_service.domain.passwords import Passwords
from auth_service.domain.refresh import ACCESS_LIFETIME
from auth_service.errors import AuthError, RejectedError, UnavailableError
from auth_service.http.api import OPEN
from auth_service.settings import read_settings
from auth_service.wiring import application, now
from serviceidentity_sdk.asgi import Application
from serviceidentity_sdk.config import SecretsError, load_secrets
from serviceidentity_sdk.credentials import CredentialError, Directory
from serviceidentity_sdk.mtls import ClientCertificate, MutualTLS, MutualTLSMiddleware, Peers
from serviceidentity_sdk.mtls.server import run
from serviceidentity_sdk.postgres import Login, PostgresError, read_login

_LAST_WORDS: Final = 10  # seconds for requests under way, and for clients that keep a connection open


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    chosen = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        chosen.command(chosen, load_secrets(os.environ))
    except (AuthError, CredentialError, PostgresError, SecretsError) as error:
        print(f"auth-service: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="auth-service", description="Settings are environment variables AUTH_*.")
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="serve HTTPS, with the mounted certificate")
    serve.add_argument("--host", default="0.0.0.0")  # noqa: S104  # a Pod has its own
    serve.add_argument("--port", type=int, default=8443)
    serve.add_argument("--plain", action="store_true", help="HTTP, behind a proxy on the same machine")
    serve.set_defaults(command=_serve)
    commands.add_parser("migrate", help="bring the database up to date, as its owner").set_defaults(command=_migrate)
    role = commands.add_parser("add-role", help="store a role with its permissions, as the owner of the database")
    role.add_argument("name")
    role.add_argument("permissions", nargs="*")
    role.set_defaults(command=_add_role)
    user = commands.add_parser("add-user", help="store a user whose password is read from standard input, as the owner")
    user.add_argument("name")
    user.add_argument("--role", action="append", default=[])
    user.set_defaults(command=_add_user)
    for name, command, text in (
        ("disable-user", _disable_user, "lock an account out and end its sessions"),
        ("enable-user", _enable_user, "let an account log in again"),
        ("set-password", _set_password, "read another password from standard input, and end the account's sessions"),
    ):
        found = commands.add_parser(name, help=f"{text}, as the owner")
        found.add_argument("name")
        found.set_defaults(command=command)
    roles = commands.add_parser("set-roles", help="give an account exactly these roles, as the owner")
    roles.add_argument("name")
    roles.add_argument("roles", nargs="*")
    roles.set_defaults(command=_set_roles)
    return parser


def _serve(chosen: argparse.Namespace, env: Mapping[str, str]) -> None:
    settings = read_settings(env)
    options: dict[str, Any] = {"server_header": False, "proxy_headers": False, "access_log": False}
    options["timeout_graceful_shutdown"] = _LAST_WORDS
    if chosen.plain:
        uvicorn.run(application(settings), host="127.0.0.1", port=chosen.port, **options)
        return
    if settings.tls is None:
        raise RejectedError("missing: AUTH_TLS, where the certificate is mounted")
    tls = MutualTLS(settings.tls, settings.trust, interval=settings.look_every)

    def guard(app: Application) -> Application:
        if not settings.callers:
            return app
        return MutualTLSMiddleware(app, tls=tls, allowed=Peers(spiffe_ids=settings.callers), exempt=OPEN)

    run(
        application(settings, guard=guard),
        tls,
        host=chosen.host,
        port=chosen.port,
        client_certificate=ClientCertificate.OPTIONAL,
        **options,
    )


def _migrate(_chosen: argparse.Namespace, env: Mapping[str, str]) -> None:
    for name in migrations.migrate(_address(env), _owner(env)):
        print(name)  # noqa: T201


def _add_role(chosen: argparse.Namespace, env: Mapping[str, str]) -> None:
    with _connected(env) as connection:
        accounts.add_role(connection, chosen.name, chosen.permissions)


def _add_user(chosen: argparse.Namespace, env: Mapping[str, str]) -> None:
    password = sys.stdin.readline().rstrip("\r\n")
    check_new(chosen.name, password)
    with _connected(env) as connection:
        found = accounts.add_user(connection, normalised(chosen.name), Passwords().hash(password), chosen.role)
    print(found)  # noqa: T201


def _disable_user(chosen: argparse.Namespace, env: Mapping[str, str]) -> None:
    _ending_sessions(env, lambda *rest: administration.disable(rest[0], normalised(chosen.name), *rest[1:]))


def _enable_user(chosen: argparse.Namespace, env: Mapping[str, str]) -> None:
    with _connected(env) as connection:
        administration.enable(connection, normalised(chosen.name))


def _set_password(chosen: argparse.Namespace, env: Mapping[str, str]) -> None:
    password = sys.stdin.readline().rstrip("\r\n")
    check_new(chosen.name, password)
    new = Passwords().hash(password)
    _ending_sessions(env, lambda *rest: administration.set_password(rest[0], normalised(chosen.name), new, *rest[1:]))


def _set_roles(chosen: argparse.Namespace, env: Mapping[str, str]) -> None:
    with _connected(env) as connection:
        administration.set_roles(connection, normalised(chosen.name), chosen.roles)


def _ending_sessions(
    env: Mapping[str, str], change: Callable[[administration.Owner, datetime, datetime], list[UUID]]
) -> None:
    """Make a change that ends sessions, then revoke their access tokens; doing it again does no harm."""
    moment = now()
    with _connected(env) as connection:
        ended = change(connection, moment, moment - ACCESS_LIFETIME)
    minutes = int(ACCESS_LIFETIME.total_seconds() // 60)
    if not env.get("AUTH_REDIS"):
        print(f"sessions have ended; without AUTH_REDIS, access tokens that are out live up to {minutes} minutes more")  # noqa: T201
        return
    try:
        administration.revoke(env["AUTH_REDIS"], ended, moment + REVOKED_FOR)
    except UnavailableError:
        raise UnavailableError(
            "done, and sessions have ended, but Redis does not answer: access tokens that are out live up to"
            f" {minutes} minutes more; run it again to revoke them"
        ) from None
    print("sessions have ended, and their access tokens are revoked")  # noqa: T201


def _connected(env: Mapping[str, str]) -> "psycopg.Connection[tuple[Any, ...]]":
    """Return a connection as the owner. Raises UnavailableError."""
    address, owner = _address(env), _owner(env)
    try:
        connection = psycopg.connect(
            address,
            user=owner.user,
            password=owner.password.reveal().decode(),
            options=f"-c search_path={migrations.SCHEMA}",
            connect_timeout=10,
        )
    except psycopg.Error as error:
        raise UnavailableError(f"the database does not let the owner in: {type(error).__name__}") from None
    return connection


def _address(env: Mapping[str, str]) -> str:
    if not env.get("AUTH_DATABASE"):
        raise RejectedError("missing: AUTH_DATABASE")
    return env["AUTH_DATABASE"]


def _owner(env: Mapping[str, str]) -> Login:
    """Return the owner's login, of the directory AUTH_DATABASE_OWNER."""
    if not env.get("AUTH_DATABASE_OWNER"):
        raise RejectedError("missing: AUTH_DATABASE_OWNER, a directory with username and password")
    return read_login(Directory(env["AUTH_DATABASE_OWNER"]).read())


if __name__ == "__main__":
    sys.exit(main())
