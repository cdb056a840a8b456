"""The SDK as it is installed: on its own, typed, and clear about what is missing."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

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


def _imported(code):
    """Run a line where no optional dependency is installed; return what it said."""
    missing = "import sys; sys.modules.update(dict.fromkeys(['httpx', 'uvicorn', 'starlette', 'redis', 'hvac']))\n"
    done = subprocess.run([sys.executable, "-c", missing + code], capture_output=True, text=True, check=False)
    return done.stderr


def test_certificates_need_no_extra():
    assert not _imported("import serviceidentity_sdk.credentials, serviceidentity_sdk.mtls")


@pytest.mark.parametrize(("module", "extra"), [("client", "httpx"), ("server", "uvicorn")])
def test_an_edge_says_which_extra_is_missing(module, extra):
    assert f"pip install 'serviceidentity-sdk[{extra}]'" in _imported(f"import serviceidentity_sdk.mtls.{module}")
