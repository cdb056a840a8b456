"""The SDK as it is installed: on its own, typed, and clear about what is missing."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

HERE = Path(__file__).parents[1]


def test_all_is_every_extra():
    extras = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    everything = extras.pop("all")
    assert everything == [f"serviceidentity-sdk[{','.join(extras)}]"]


def test_the_wheel_holds_the_package_its_types_and_nothing_else(tmp_path):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=HERE, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "serviceidentity_sdk/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"serviceidentity_sdk", "serviceidentity_sdk-0.1.0.dist-info"}
