"""Fixtures that every test of auth-service may use."""

import hypothesis
import pytest

from sdk.python.tests.jwt.tokens import Pair, jwks
from sdk.python.tests.volumes import Volume

# How long one example takes says more about the machine than about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def signing_files(active, *others):
    """Return what the operator mounts: the Active key, and others by their state; all of them published."""
    keys = [active.kept(state="Active"), *(pair.kept(state=state) for pair, state in others)]
    published = [active.published(), *(pair.published() for pair, _ in others)]
    return {"keys.json": jwks(*keys).encode(), "jwks.json": jwks(*published).encode()}


@pytest.fixture
def signing(tmp_path):
    pair = Pair("ES256")
    volume = Volume(tmp_path / "jwt", signing_files(pair))
    volume.pair = pair
    return volume
