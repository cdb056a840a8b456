"""Fixtures: one PostgreSQL and one Redis for all, a database and a service for each module."""

import tempfile
from pathlib import Path

import pytest

from auth_service.adapters import accounts
from sdk.python.tests.hardening.servers import running
from sdk.python.tests.jwt.tokens import Pair
from sdk.python.tests.volumes import Volume
from services.auth.tests.conftest import signing_files
from services.auth.tests.contract.servers import Bed, Client, service
from tests.controlplane import start_postgres


@pytest.fixture(scope="session")
def postgres():
    with start_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server():
    with tempfile.TemporaryDirectory() as directory, running(Path(directory)) as server:
        yield server


@pytest.fixture(scope="session")
def bed(postgres):
    found = Bed(postgres)
    found.migrate()
    with found.connect() as connection:
        accounts.add_role(connection, "customer", ["orders:read", "orders:create"])
        accounts.add_role(connection, "admin", ["*"])
    found.add("alice", "customer")
    return found


class Running:
    """The service with what is mounted into it."""

    def __init__(self, directory, bed):
        self.pair = Pair("ES256")
        self.signing = Volume(directory / "jwt", signing_files(self.pair))
        self.user = bed.new_user()
        self.login = Volume(directory / "database", self.user)


@pytest.fixture(scope="module")
def served(bed, redis_server):
    with tempfile.TemporaryDirectory() as directory:
        found = Running(Path(directory), bed)
        with service(bed, found.signing, found.login, redis_server) as url:
            found.url = url
            yield found


@pytest.fixture
def client(served):
    found = Client(served.url)
    yield found
    found.http.close()
