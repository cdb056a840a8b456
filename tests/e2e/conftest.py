"""One operator runs for all tests that do not stop it; those that do have a control plane of their own."""

from collections.abc import Iterator

import pytest

from tests.controlplane import ControlPlane, start_control_plane
from tests.controlplane.operator import OperatorProcess, install, running_operator
from tests.e2e.support import Space, new_space, trust_domain


@pytest.fixture(scope="session")
def operator(control_plane: ControlPlane) -> Iterator[OperatorProcess]:
    install(control_plane)
    trust_domain(control_plane, "default")
    with running_operator(control_plane) as process:
        yield process


@pytest.fixture
def space(control_plane: ControlPlane, operator: OperatorProcess) -> Iterator[Space]:
    found = new_space(control_plane)
    yield found
    control_plane.kubectl("delete", "namespace", found.name, "--wait=false")


@pytest.fixture
def own_plane() -> Iterator[ControlPlane]:
    """A control plane for tests that kill things."""
    with start_control_plane() as plane:
        install(plane)
        trust_domain(plane, "default")
        yield plane
