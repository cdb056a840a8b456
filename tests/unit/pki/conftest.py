"""Other implementations that have a say: Go, OpenSSL, Java and a linter."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.pki import builders

GO_SOURCE = Path(__file__).parent / "gocases"


@pytest.fixture(scope="session")
def all_keys() -> None:
    builders.prepare_keys()


@pytest.fixture(scope="session")
def go_cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Hand cases to Go's crypto/x509 and crypto/tls; see gocases/main.go for what they look like."""
    go = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if go is None:
        pytest.skip("no Go toolchain: neither on PATH nor installed with requirements/go.txt")
    program = tmp_path_factory.mktemp("gocases") / "gocases"
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "", "GOPROXY": "off", "GOWORK": "off"}
    command = [go, "build", "-o", str(program), "."]
    subprocess.run(command, cwd=GO_SOURCE, env=environment, check=True, timeout=300)

    def verify(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # The input may hold keys: a failure must not show it.
        done = subprocess.run(
            [program], input=json.dumps(cases), capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            pytest.fail(f"gocases ended with {done.returncode}: {done.stderr}", pytrace=False)
        answers: list[dict[str, Any]] = json.loads(done.stdout)
        return answers

    return verify


@pytest.fixture(scope="session")
def openssl() -> Callable[..., str]:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl on PATH")

    def run(*arguments: str | Path, fails: bool = False) -> str:
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
        if (done.returncode != 0) is not fails:
            pytest.fail(f"openssl {arguments[0]} ended with {done.returncode}: {done.stderr}", pytrace=False)
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def keytool() -> Callable[..., str]:
    program = shutil.which("keytool")
    if program is None:
        pytest.skip("no keytool (Java) on PATH")
    quick = ["-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", "-J-Duser.language=en"]

    def run(*arguments: str | Path, fails: bool = False) -> str:
        done = subprocess.run(
            [program, *quick, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
        )
        if (done.returncode != 0) is not fails:
            pytest.fail(f"keytool {arguments[0]} ended with {done.returncode}: {done.stdout}", pytrace=False)
        return done.stdout + done.stderr

    return run
