"""Fixtures that every kind of test may use."""

from collections.abc import Iterator

import pytest

from tests.controlplane import ControlPlane, start_control_plane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """One real control plane for the whole run."""
    with start_control_plane(openbao=False) as plane:
        yield plane
