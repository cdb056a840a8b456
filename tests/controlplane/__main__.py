"""A real control plane on this machine: etcd, kube-apiserver, kube-controller-manager and OpenBao."""

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from tests.controlplane import (
    ControlPlane,
    MissingProgramError,
    NotReadyError,
    UnnamedContextError,
    binaries,
    start_control_plane,
)
from tests.controlplane.kubeapi import write_private
from tests.controlplane.named import named_cluster

STATE: Final = binaries.BUILD / "controlplane.json"
LOCK: Final = binaries.BUILD / "controlplane.lock"  # held by `up` for as long as it runs
LOG: Final = binaries.BUILD / "controlplane.log"
ALREADY_UP: Final = "a control plane is up already; `status` shows it, `down` stops it"
GREEN, RED, YELLOW, BOLD = 32, 31, 33, 1


class AlreadyUpError(RuntimeError):
    """One control plane at a time is kept by this command; tests start as many of their own as they like."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Return 0 when it did what it says, 1 when it could not (2, from argparse, for a misuse)."""
    parser = argparse.ArgumentParser(prog="python -m tests.controlplane", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it; Ctrl-C stops it")
    up.add_argument("--detach", action="store_true", help="leave it running in the background")
    commands.add_parser("down", help="stop the one that `up` started")
    commands.add_parser("status", help="say what runs (exit code 1 when nothing does) and where the programs are from")
    commands.add_parser("build", help="make sure that the programs are there")
    given = parser.parse_args(arguments)
    if given.command == "status":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `status | head` is no error; `up` must live to clean up
    run = {"up": detach if getattr(given, "detach", False) else serve, "down": down, "status": status, "build": build}
    try:
        return run[given.command]()
    except (AlreadyUpError, MissingProgramError, NotReadyError, UnnamedContextError) as error:
        print(paint(str(error), RED, sys.stderr), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0 if given.command == "up" else 130


def build() -> int:
    """Build what is missing; print where each program is."""
    for name in binaries.CONTROL_PLANE:
        binaries.find(name)
    show_programs()
    return 0


def serve() -> int:
    """Run a control plane until a signal comes, or one of its programs ends."""
    if named_cluster():
        raise UnnamedContextError("SIO_TEST_KUBECONFIG names a cluster that is up already: there is nothing to start")
    start = time.monotonic()
    with only_one(), start_control_plane(openbao=True) as plane:
        try:
            remember(plane)
            say(f"{paint('up', GREEN)} in {time.monotonic() - start:.1f} s, in {plane.directory}; Ctrl-C stops it")
            show_environment(environment(plane))
            while all(process.running for process in plane.processes.values()):
                time.sleep(0.3)
            ended = next(process for process in plane.processes.values() if not process.running)
            raise NotReadyError(f"{ended.name} ended with {ended.exit_code}:\n{ended.last_words()}")
        finally:
            STATE.unlink(missing_ok=True)


def detach() -> int:
    """Run `up` in the background; return when it is ready."""
    if holder():
        raise AlreadyUpError(ALREADY_UP)
    for name in binaries.CONTROL_PLANE:
        binaries.find(name)
    STATE.unlink(missing_ok=True)
    with LOG.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.controlplane", "up"],
            cwd=binaries.ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while child.poll() is None:
            if recall().get("pid") == child.pid:
                show_environment(recall()["environment"])
                return 0
            time.sleep(0.05)
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    raise NotReadyError(LOG.read_text(errors="replace").strip())


def down() -> int:
    """Stop the control plane that `up` started; nothing to stop is fine too."""
    if pid := holder():
        os.kill(pid, signal.SIGTERM)
        while holder() == pid:
            time.sleep(0.05)
        say(paint("stopped", GREEN))
    else:
        say("no control plane is up")
    # What is left when `up` itself was killed: its servers went with it, its directory did not.
    left = Path(recall().get("directory", ""))
    if left.name.startswith("sio-"):
        shutil.rmtree(left, ignore_errors=True)
    STATE.unlink(missing_ok=True)
    return 0


def status() -> int:
    """Print what runs and where the programs are from; 1 when nothing runs yet."""
    pid = holder()
    state = recall() if pid else {}
    if state:
        print(f"control plane: {paint('up', GREEN, sys.stdout)}, process {pid}, in {state['directory']}")
    else:
        print(f"control plane: {paint(*(('starting', YELLOW) if pid else ('down', RED)), sys.stdout)}")
    show_programs(state.get("processes", {}))
    show_environment(state.get("environment", {}))
    return 0 if state else 1


def show_programs(pids: dict[str, int] | None = None) -> None:
    """Print each program's version and where it was found; with process IDs, of those that run."""
    for name in (*binaries.CONTROL_PLANE, *reversed(binaries.CLIENTS)):
        found = binaries.locate(name)
        what = f"{found.version():<9} {found.path} ({found.origin})" if found else "not there yet; `build` makes it"
        pid = (pids or {}).get("openbao" if name == "bao" else name)
        print(f"  {paint(f'{name:<24}', BOLD, sys.stdout)} {what}{f', process {pid}' if pid else ''}")


def show_environment(variables: dict[str, str]) -> None:
    """Print the lines that a shell needs."""
    for name, value in variables.items():
        print(f"export {name}={value}", flush=True)


def environment(plane: ControlPlane) -> dict[str, str]:
    """Return the variables by which kubectl and bao find the control plane."""
    found = {"KUBECONFIG": str(plane.admin_kubeconfig)}
    if plane.openbao is not None:
        found |= {"VAULT_ADDR": plane.openbao.address, "VAULT_TOKEN": plane.openbao.root_token}
    return found


def remember(plane: ControlPlane) -> None:
    """Leave what the other commands need in the state file, all at once."""
    state = {
        "pid": os.getpid(),
        "directory": str(plane.directory),
        "environment": environment(plane),
        "processes": plane.pids(),
    }
    write_private(STATE.with_suffix(".new"), json.dumps(state, indent=2).encode()).replace(STATE)


def recall() -> dict[str, Any]:
    """Return what the state file says; empty when there is none."""
    try:
        return dict(json.loads(STATE.read_text()))
    except (OSError, ValueError):
        return {}


@contextmanager
def only_one() -> Iterator[None]:
    """Hold the lock for the block. Raises AlreadyUpError when another process holds it."""
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("a+") as file:
        if not _locked(file, patience=0.5):
            raise AlreadyUpError(ALREADY_UP)
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        yield


def holder() -> int | None:
    """Return the process ID of the `up` that runs; None when none does.

    A lock, unlike a process ID in a file, cannot be mistaken for another's, even after a power cut.
    """
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("a+") as file:
        if _locked(file):
            return None
        file.seek(0)
        return int(file.read() or 0) or None


def _locked(file: TextIO, patience: float = 0) -> bool:
    """Whether this process has the lock now. Patience outlasts the instant for which `holder` has it."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def say(line: str) -> None:
    """Tell a person; standard output is for what a shell can evaluate."""
    print(line, file=sys.stderr, flush=True)


def paint(text: str, colour: int, stream: TextIO = sys.stderr) -> str:
    """Return the text coloured, on a terminal and unless NO_COLOR is set (no-color.org)."""
    return f"\033[{colour}m{text}\033[0m" if stream.isatty() and not os.environ.get("NO_COLOR") else text


if __name__ == "__main__":
    sys.exit(main())
