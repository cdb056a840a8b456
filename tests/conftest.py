"""Fixtures that every kind of test may use."""

from collections.abc import Iterator

import hypothesis
import pytest

from tests.controlplane import ControlPlane, Postgres, start_control_plane, start_postgres

# How long one example takes says more about the machine than about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """One real control plane for the whole run."""
    with start_control_plane(openbao=False) as plane:
        yield plane


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One real PostgreSQL for the whole run; a test that stops it starts it again."""
    with start_postgres() as server:
        yield server
