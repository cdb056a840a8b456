"""auth-service as it runs: a real server over loopback, on a real PostgreSQL and a real Redis."""

import contextlib
import itertools
import secrets
import threading
import time

import httpx
import psycopg
import uvicorn
from psycopg import sql

from auth_service.adapters import accounts, migrations
from auth_service.domain.passwords import Cost, Passwords
from auth_service.settings import Settings
from auth_service.wiring import application
from sdk.python.tests.volumes import Volume
from serviceidentity_sdk.credentials import KeyMaterial
from serviceidentity_sdk.postgres import Login

CHEAP = Cost(memory=64, passes=1)
PASSWORD = "correct horse battery"
SAME_ORIGIN = {"sec-fetch-site": "same-origin"}
_clients = itertools.count(1)


def elsewhere():
    """Return the headers of a client that nobody has counted yet."""
    number = next(_clients)
    return {"x-forwarded-for": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}


class Bed:
    """A database of its own in the server, migrated, with the role that the service's users are members of."""

    def __init__(self, postgres):
        self.postgres = postgres
        self.name = f"auth_{secrets.token_hex(4)}"
        self.owner, self.owner_password = f"owner_{self.name}", secrets.token_urlsafe(16)
        self.conninfo = f"host=127.0.0.1 port={postgres.port} dbname={self.name}"
        with postgres.connect() as connection:
            with contextlib.suppress(psycopg.errors.DuplicateObject):
                connection.execute("CREATE ROLE auth_service NOLOGIN")
            self._run(connection, "CREATE ROLE {} LOGIN PASSWORD {}", self.owner, password=self.owner_password)
            self._run(connection, "CREATE DATABASE {} OWNER {}", self.name, self.owner)

    def administered(self, monkeypatch, directory):
        """Have the command line run as the owner, whose Secret is mounted below `directory`."""
        owner = Volume(directory / "owner", {"username": self.owner.encode(), "password": self.owner_password.encode()})
        monkeypatch.setenv("AUTH_DATABASE", self.conninfo)
        monkeypatch.setenv("AUTH_DATABASE_OWNER", str(owner.path))

    def migrate(self):
        return migrations.migrate(self.conninfo, Login(self.owner, KeyMaterial(self.owner_password.encode())))

    def connect(self):
        options = f"-c search_path={migrations.SCHEMA}"
        return psycopg.connect(
            self.conninfo, user=self.owner, password=self.owner_password, options=options, autocommit=True
        )

    def new_user(self):
        """Make a user as the operator has OpenBao make it; return the files of its Secret."""
        user, password = f"v-auth-{secrets.token_hex(6)}", secrets.token_urlsafe(16)
        with self.postgres.connect() as connection:
            self._run(connection, "CREATE ROLE {} LOGIN PASSWORD {} IN ROLE auth_service", user, password=password)
        return {"username": user.encode(), "password": password.encode()}

    def drop_user(self, files):
        """Do what OpenBao does at the end of a lease; open connections stay, without rights."""
        with self.postgres.connect() as connection:
            self._run(connection, "DROP ROLE {}", files["username"].decode())

    def sessions_of(self, files):
        with self.postgres.connect() as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = %s", (files["username"].decode(),)
            )
            return found.fetchone()[0]

    def add(self, name, *roles, password=PASSWORD, cost=CHEAP):
        with self.connect() as connection:
            return accounts.add_user(connection, name, Passwords(cost).hash(password), list(roles))

    @staticmethod
    def _run(connection, statement, *names, password=None):
        parts = [sql.Identifier(name) for name in names] + ([sql.Literal(password)] if password else [])
        connection.execute(sql.SQL(statement).format(*parts))


def settings(bed, signing, login, redis_server):
    return Settings(
        jwt=str(signing.path),
        database=bed.conninfo,
        login=str(login.path),
        redis=f"unix://{redis_server.path}",
        tls=None,
        trust=None,
        callers=(),
        origins=frozenset({"https://shop.example.org"}),
        trusted_hops=1,
        issuer="auth-service",
        audience="microservices",
    )


@contextlib.contextmanager
def serving(app):
    """Serve an application on loopback; yield its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


def service(bed, signing, login, redis_server):
    return serving(application(settings(bed, signing, login, redis_server), cost=CHEAP, interval=0.05, prune_every=0.2))


def eventually(condition, timeout=15):
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


class Client:
    """A user's client; each request comes from another address unless told otherwise."""

    def __init__(self, url):
        self.http = httpx.Client(base_url=url, timeout=30)

    def post(self, path, body=None, headers=None):
        return self.http.post(path, json=body, headers=elsewhere() | (headers or {}))

    def get(self, path, headers=None):
        return self.http.get(path, headers=elsewhere() | (headers or {}))

    def login(self, name="alice", password=PASSWORD, headers=None, **more):
        return self.post("/login", {"username": name, "password": password} | more, headers)

    def refresh(self, token, headers=None):
        return self.post("/refresh", {"refresh_token": token}, headers)

    def me(self, token):
        return self.get("/me", bearer(token))

    def logout(self, token, **body):
        return self.post("/logout", body, bearer(token))


def bearer(token):
    return {"authorization": f"Bearer {token}"}
