"""Fixtures of the tests of hardening."""

import tempfile
from pathlib import Path

import pytest

from sdk.python.tests.hardening.servers import program, running


@pytest.fixture(scope="session")
def redis_server():
    if program() is None:
        pytest.skip("NO REDIS HERE: rate limits are tested in memory only; install redis-server")
    with tempfile.TemporaryDirectory() as directory, running(Path(directory)) as server:
        yield server
