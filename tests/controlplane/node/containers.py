"""One container as a local process: started, probed, and what the API server is told of it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from tests.controlplane.node.api import Object
from tests.controlplane.node.probes import Probe
from tests.controlplane.processes import NotReadyError, Process

EAGER: Final = 0.25  # seconds between probes until the first success: a test bed does not wait for a whole period
RESTART_DELAYS: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)  # the kubelet's are 0, 10, 20 ... 300 s
RESTART_FORGIVEN: Final = 60.0  # seconds of life after which the delays begin anew


class Container:
    """A container of a Pod, in one of three states: waiting, running, terminated. `changed` is called on each change."""

    def __init__(self, spec: Object, changed: Callable[[], None], *, init: bool = False) -> None:
        self.name = str(spec["name"])
        self.spec = spec
        self.init = init
        self.process: Process | None = None
        self.restarts = 0
        self.ready = False
        self.started = False  # its startup probe has succeeded, if there is one
        self.state: dict[str, dict[str, Any]] = {"waiting": {"reason": "ContainerCreating"}}
        self._last: dict[str, dict[str, Any]] = {}
        self._changed = changed
        self._fails = 0

    @property
    def running(self) -> bool:
        """Whether its process was there at the last look."""
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        """The exit code of its last run, if that is over."""
        return self.state["terminated"]["exitCode"] if "terminated" in self.state else None

    @property
    def reason(self) -> str:
        """What it waits for or how it ended; empty when it runs."""
        state = self.state.get("waiting") or self.state.get("terminated") or {}
        return ": ".join(state[key] for key in ("reason", "message") if state.get(key))

    def wait_for(self, reason: str, message: str = "") -> None:
        """Say why it does not run yet, in the kubelet's words."""
        wanted = {"waiting": {"reason": reason, "message": message}}
        if self.state != wanted:
            if "terminated" in self.state:
                self._last = self.state
            self.state = wanted
            self._changed()

    async def run(self, process: Process, address: str, grace: float) -> int:
        """Run it once, from start to exit; return the exit code as a shell tells it.

        The process outlives a cancellation: whoever cancels stops it.
        """
        self.process = process
        process.start()
        begun = time.monotonic()
        if "terminated" in self.state:
            self._last = self.state
        self.state = {"running": {"startedAt": rfc3339()}}
        self.started = "startupProbe" not in self.spec
        self.ready = self.started and "readinessProbe" not in self.spec
        self._changed()
        probes = asyncio.create_task(self._probe(address, grace))
        try:
            code = await ended(process)
        finally:
            probes.cancel()
            await asyncio.wait({probes})
        if time.monotonic() - begun > RESTART_FORGIVEN:
            self._fails = 0
        self.exited(code)
        return code

    def exited(self, code: int) -> None:
        """Take in that its process has ended."""
        since = self.state.get("running", {}).get("startedAt")
        reason = "Completed" if code == 0 else "Error"
        self.state = {"terminated": {"exitCode": code, "reason": reason, "startedAt": since, "finishedAt": rfc3339()}}
        self.ready = self.started = False
        self._changed()

    async def back_off(self) -> None:
        """Wait before the next run, the longer the more often it failed."""
        delay = RESTART_DELAYS[min(self._fails, len(RESTART_DELAYS) - 1)]
        self._fails += 1
        if delay:
            self.wait_for("CrashLoopBackOff", f"back-off {delay:g}s restarting failed container {self.name}")
        await asyncio.sleep(delay)
        self.restarts += 1

    def status(self) -> Object:
        """Return what the API server is told."""
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "ready": self.ready or (self.init and self.exit_code == 0),
            "started": self.started,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self._last,
        }

    async def _probe(self, address: str, grace: float) -> None:
        ports = self.spec.get("ports") or []
        if startup := self.spec.get("startupProbe"):
            if not await self._start_up(Probe.of(startup), address):
                await self._end(grace)
                return
            self.started = True
            self.ready = "readinessProbe" not in self.spec
            self._changed()
        async with asyncio.TaskGroup() as group:
            if readiness := self.spec.get("readinessProbe"):
                group.create_task(self._check_readiness(Probe.of(readiness), address, ports))
            if liveness := self.spec.get("livenessProbe"):
                group.create_task(self._check_liveness(Probe.of(liveness), address, ports, grace))

    async def _start_up(self, probe: Probe, address: str) -> bool:
        await asyncio.sleep(probe.initial_delay)
        deadline = time.monotonic() + probe.failures * probe.period
        while time.monotonic() < deadline:
            if await probe.succeeds(address, self.spec.get("ports") or []):
                return True
            await asyncio.sleep(min(EAGER, probe.period))
        return False

    async def _check_readiness(self, probe: Probe, address: str, ports: list[Object]) -> None:
        await asyncio.sleep(probe.initial_delay)
        good = bad = 0
        first = True
        while True:
            if await probe.succeeds(address, ports):
                good, bad = good + 1, 0
            else:
                good, bad = 0, bad + 1
            ready = good >= probe.successes or (self.ready and bad < probe.failures)
            first = first and not ready
            if ready != self.ready:
                self.ready = ready
                self._changed()
            await asyncio.sleep(min(EAGER, probe.period) if first else probe.period)

    async def _check_liveness(self, probe: Probe, address: str, ports: list[Object], grace: float) -> None:
        await asyncio.sleep(probe.initial_delay)
        bad = 0
        while bad < probe.failures:
            await asyncio.sleep(probe.period)
            bad = 0 if await probe.succeeds(address, ports) else bad + 1
        await self._end(grace)

    async def _end(self, grace: float) -> None:
        """End a process that does not live; `run` sees it end."""
        if self.process is not None:
            await end([self.process], grace)


async def ended(process: Process) -> int:
    """Wait until a process has ended; return its exit code, 128 + N when signal N killed it."""
    with contextlib.suppress(NotReadyError, ProcessLookupError):
        leader = process.pid
        watched = os.pidfd_open(leader)  # Linux: no polling
        try:
            over = asyncio.Event()
            asyncio.get_running_loop().add_reader(watched, over.set)
            await over.wait()
            os.killpg(leader, signal.SIGKILL)  # what it started goes with it, as in a container
        finally:
            asyncio.get_running_loop().remove_reader(watched)
            os.close(watched)
    while (code := process.exit_code) is None:
        await asyncio.sleep(0.01)
    return 128 - code if code < 0 else code


async def end(processes: list[Process], grace: float) -> None:
    """Ask processes to end; kill those that have not after `grace` seconds."""
    for process in processes:
        process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace):
            await asyncio.gather(*map(ended, processes))
    for process in processes:
        process.kill()


def rfc3339() -> str:
    """Return the time as the API server writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
