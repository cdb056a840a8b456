"""python -m tests.controlplane up | down | status | build"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.controlplane import binaries
from tests.controlplane.cluster import ControlPlane, start_control_plane

STATE: Final = binaries.BUILD / "controlplane.json"


def main() -> int:
    """Run the command; 0 when it did what it says."""
    parser = argparse.ArgumentParser(prog="python -m tests.controlplane", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a control plane; Ctrl-C stops it")
    up.add_argument("--detach", action="store_true", help="leave it running in the background")
    commands.add_parser("down", help="stop the one in the background")
    commands.add_parser("status", help="say what runs")
    commands.add_parser("build", help="make sure that the programs are there")
    given = parser.parse_args()
    match given.command:
        case "build":
            for name in binaries.CONTROL_PLANE:
                print(f"{name}: {binaries.find(name)}")
            return 0
        case "up":
            return detach() if given.detach else serve()
        case "down":
            return down()
        case _:
            return status()


def serve() -> int:
    """Run a control plane until a signal comes."""
    try:
        with start_control_plane(openbao=True) as plane:
            announce(plane)
            signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        if _state().get("pid") == os.getpid():
            STATE.unlink(missing_ok=True)
    return 0


def announce(plane: ControlPlane) -> None:
    """Print how to use it, and leave the same in the state file."""
    environment = {"KUBECONFIG": str(plane.admin_kubeconfig)}
    if plane.openbao is not None:
        environment |= {"VAULT_ADDR": plane.openbao.address, "VAULT_TOKEN": plane.openbao.root_token}
    STATE.parent.mkdir(exist_ok=True)
    STATE.write_text(json.dumps({"pid": os.getpid(), "environment": environment, "processes": plane.pids()}))
    for name, value in environment.items():
        print(f"export {name}={value}", flush=True)


def detach() -> int:
    """Start `up` in the background and wait until it is ready."""
    if _alive(_state().get("pid")):
        print("a control plane runs already; see status", file=sys.stderr)
        return 1
    for name in binaries.CONTROL_PLANE:
        binaries.find(name)
    log = binaries.BUILD / "controlplane.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.controlplane", "up"],
            cwd=binaries.ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    while child.poll() is None:
        if _state().get("pid") == child.pid:
            return status()
        time.sleep(0.1)
    print(log.read_text(errors="replace"), file=sys.stderr)
    return 1


def down() -> int:
    """Stop the control plane in the background."""
    pid = _state().get("pid")
    if not _alive(pid):
        print("no control plane runs")
        STATE.unlink(missing_ok=True)
        return 0
    os.kill(int(pid), signal.SIGTERM)
    while _alive(pid):
        time.sleep(0.1)
    STATE.unlink(missing_ok=True)
    print("stopped")
    return 0


def status() -> int:
    """Print what runs; 1 when nothing does."""
    state = _state()
    if not _alive(state.get("pid")):
        print("no control plane runs")
        return 1
    for name, pid in state["processes"].items():
        print(f"{name}: running, process {pid}")
    for name, value in state["environment"].items():
        print(f"export {name}={value}")
    return 0


def _state() -> dict[str, Any]:
    try:
        return dict(json.loads(Path(STATE).read_text()))
    except (OSError, ValueError):
        return {}


def _alive(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
