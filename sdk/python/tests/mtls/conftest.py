"""Mounted certificates."""

import pytest

from sdk.python.tests.volumes import Volume
from serviceidentity_sdk.mtls import MutualTLS


@pytest.fixture
def mounted(tmp_path):
    """Mount files and return the volume and what reads it."""
    count = iter(range(100))

    def mount(files, **options):
        volume = Volume(tmp_path / f"volume{next(count)}", files)
        return volume, MutualTLS(volume.path, **options)

    return mount
