"""Fixtures of the tests of hardening."""

import tempfile
from pathlib import Path

import pytest

from sdk.python.tests.hardening.servers import running


@pytest.fixture(scope="session")
def redis_server():
    with tempfile.TemporaryDirectory() as directory, running(Path(directory)) as server:
        yield server
