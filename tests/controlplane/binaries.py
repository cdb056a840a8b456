"""Where the programs come from: KUBEBUILDER_ASSETS, PATH, or built from the Go module beside this file."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.controlplane.processes import Process

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ROOT / "build"
BIN: Final = BUILD / "bin"
MODULE: Final = Path(__file__).resolve().parent / "go"
CONTROL_PLANE: Final = ("etcd", "kube-apiserver", "kube-controller-manager")
CLIENTS: Final = {"kubectl": ["version", "--client"], "bao": ["version"]}


class MissingProgramError(RuntimeError):
    """A program is neither there nor can it be built here."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program and where it was found."""

    name: str
    path: Path
    origin: str

    def version(self) -> str:
        """Return the version that it tells of itself, `unknown` when it tells none."""
        command = [str(self.path), *CLIENTS.get(self.name, ["--version"])]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        found = re.search(r"v?\d+\.\d+\.\d+[-+.\w]*", result.stdout)
        return found.group().removeprefix("v") if found else "unknown"


def find(name: str) -> Path:
    """Return one of the control plane's programs, building all of them if there is no other way.

    Raises MissingProgramError when it is nowhere and cannot be built.
    """
    if found := locate(name):
        return found.path
    build()
    return BIN / name


def locate(name: str) -> Program | None:
    """Return a program if it is there already. The order is envtest's: named, on PATH, built; nothing is started."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and os.access(Path(assets) / name, os.X_OK):
        return Program(name, Path(assets) / name, "KUBEBUILDER_ASSETS")
    if name in CLIENTS:
        here = Path(sys.executable).with_name(name)  # not resolved: a virtual environment's python is a link
        if os.access(here, os.X_OK):
            return Program(name, here, "Python package")
    if found := shutil.which(name):
        return Program(name, Path(found), "PATH")
    return Program(name, BIN / name, "built here") if name in CONTROL_PLANE and _is_built() else None


def beside_python(name: str) -> Path:
    """Return a client that a locked Python package installs (kubectl, bao), else one on PATH.

    Raises MissingProgramError when there is neither.
    """
    if found := locate(name):
        return found.path
    raise MissingProgramError(f"{name} is not installed; run make .venv/ready")


def build() -> None:
    """Build etcd and the Kubernetes programs into build/bin, unless that is done for the locked modules.

    Takes about five minutes on two cores the first time. Raises MissingProgramError when it cannot be done.
    """
    if _is_built():
        return
    go = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if go is None:
        raise MissingProgramError("no Go toolchain: install Go 1.26 or newer, or requirements/go.txt")
    BIN.mkdir(parents=True, exist_ok=True)
    with _alone():
        if not _is_built():
            (BIN / "stamp").unlink(missing_ok=True)
            _compile(go)
            (BIN / "server").replace(BIN / "etcd")  # etcd's main package is called server
            (BIN / "stamp").write_text(_digest())


def _compile(go: str) -> None:
    stamp = f"-X k8s.io/component-base/version.gitVersion={_kubernetes_version()}"
    environment = {"CGO_ENABLED": "0", "GOBIN": str(BIN), "GOWORK": "off", "GOOS": "", "GOARCH": ""}
    compiler = Process("build", [go, "install", "-ldflags", f"-s -w {stamp}", "tool"], BUILD, environment, cwd=MODULE)
    compiler.log.unlink(missing_ok=True)
    start = said = time.monotonic()
    _tell("building etcd and Kubernetes from source; about five minutes on two cores, the first time only")
    compiler.start()
    try:
        while compiler.running:
            time.sleep(0.2)
            if time.monotonic() - said >= 10:
                said = time.monotonic()
                _tell(f"  still building: {said - start:.0f} s")
    finally:
        compiler.stop()
    if compiler.exit_code:
        raise MissingProgramError(f"the control plane could not be built:\n{compiler.last_words()}")
    _tell(f"  built in {time.monotonic() - start:.0f} s")


def _is_built() -> bool:
    stamp = BIN / "stamp"
    return (
        stamp.is_file()
        and stamp.read_text() == _digest()
        and all(os.access(BIN / name, os.X_OK) for name in CONTROL_PLANE)
    )


def _digest() -> str:
    return hashlib.sha256(b"".join((MODULE / name).read_bytes() for name in ("go.mod", "go.sum"))).hexdigest()


def _kubernetes_version() -> str:
    found = re.search(r"k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text())
    if found is None:
        raise MissingProgramError("go.mod names no version of k8s.io/kubernetes")
    return found.group(1)


@contextmanager
def _alone() -> Iterator[None]:
    """Let one build at a time into the block; whoever comes second waits, and is told so."""
    with (BIN / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell("another build is under way; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
