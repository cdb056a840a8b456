"""Fixtures that every kind of test may use."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.controlplane import ControlPlane, start_control_plane

settings.register_profile("shared-machine", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("shared-machine")


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """One real control plane for the whole run."""
    with start_control_plane(openbao=False) as plane:
        yield plane
