"""Fixtures that every test of the SDK may use."""

import hypothesis
import pytest

from sdk.python.tests.ca import Pki

# How long one example takes says more about the machine than about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def pki():
    """One authority for the tests that don't change it."""
    return Pki()
