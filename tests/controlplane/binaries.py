"""Where the programs come from: KUBEBUILDER_ASSETS, PATH, or built from the Go modules beside this file."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ROOT / "build"
BIN: Final = BUILD / "bin"
MODULE: Final = Path(__file__).resolve().parent / "go"
KUBERNETES_VERSION: Final = "v1.37.2"
CONTROL_PLANE: Final = ("etcd", "kube-apiserver", "kube-controller-manager")


class MissingProgramError(RuntimeError):
    """A program is neither there nor can it be built here."""


def find(name: str) -> Path:
    """Return one of the control plane's programs, building all of them if there is no other way."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (Path(assets) / name).is_file():
        return Path(assets) / name
    if found := shutil.which(name):
        return Path(found)
    build()
    return BIN / name


def beside_python(name: str) -> Path:
    """Return a program that a locked Python package installs (kubectl, bao), else one on PATH."""
    here = Path(sys.executable).parent / name
    if here.is_file():
        return here
    if found := shutil.which(name):
        return Path(found)
    raise MissingProgramError(f"{name} is not installed; run make .venv/ready")


def build() -> None:
    """Build etcd and the Kubernetes programs into build/bin, unless that is done for the locked modules.

    Takes about five minutes on two cores the first time. Raises MissingProgramError without a Go toolchain.
    """
    stamp, wanted = BIN / "stamp", _digest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    BIN.mkdir(parents=True, exist_ok=True)
    with _lock():
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        command = [
            str(_go()),
            "install",
            "-ldflags",
            f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}",
            "tool",
        ]
        environment = os.environ | {"CGO_ENABLED": "0", "GOBIN": str(BIN), "GOFLAGS": "-buildvcs=false"}
        with _progress("building the control plane from its Go modules"):
            result = subprocess.run(command, cwd=MODULE, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise MissingProgramError("the control plane could not be built:\n" + result.stderr[-4000:])
        (BIN / "server").replace(BIN / "etcd")
        stamp.write_text(wanted)


def _digest() -> str:
    content = b"".join((MODULE / name).read_bytes() for name in ("go.mod", "go.sum"))
    return hashlib.sha256(content).hexdigest()


def _go() -> Path:
    try:
        return beside_python("go") if not shutil.which("go") else Path(shutil.which("go") or "")
    except MissingProgramError:
        raise MissingProgramError("no Go toolchain: install Go 1.26 or newer, or requirements/go.txt") from None


@contextmanager
def _lock() -> Iterator[None]:
    with (BIN / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _progress(what: str) -> Iterator[None]:
    """Print a line every ten seconds, so that nobody thinks that it hangs."""
    done, start = threading.Event(), time.monotonic()

    def tell() -> None:
        print(f"{what} (about five minutes the first time) ...", file=sys.stderr, flush=True)
        while not done.wait(10):
            print(f"  {what}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        print(f"  done after {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
