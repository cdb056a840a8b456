"""The life of one Pod: volumes, init containers, containers, status, and its end."""

import asyncio
import contextlib
import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.controlplane.node import spec, volumes
from tests.controlplane.node.api import AWAY, MERGE, PAUSE, ApiClient, ApiError, Object
from tests.controlplane.node.containers import Container, end, rfc3339
from tests.controlplane.node.probes import Probe
from tests.controlplane.node.spec import NotSupportedError, Surroundings
from tests.controlplane.processes import Process

TOKEN_SECONDS: Final = 3607  # the API's default for a projected token

_log = logging.getLogger(__name__)


class Pulse:
    """Wakes whoever waits, each time."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Return at the next beat."""
        await self._event.wait()


@dataclass(frozen=True)
class Site:
    """What the Pods of a namespace share: the API server, the objects that volumes are made of, this machine."""

    api: ApiClient
    lookup: volumes.Lookup
    objects_changed: Pulse
    images: Mapping[str, Sequence[str]]
    host: Callable[[str, str], str | None]
    sync: tuple[float, float]
    environment: Mapping[str, str]
    cwd: Path
    node_address: str


class Pod:
    """One Pod that is bound to the node. `run` lives as long as it."""

    def __init__(self, pod: Object, site: Site, address: str, directory: Path) -> None:
        self.manifest = pod
        self.address = address
        self.directory = directory
        self.terminating = False
        self.problem = ""
        self._gone = False
        self._site = site
        self._since = rfc3339()
        self._conditions: dict[str, Object] = {}
        self._unreported = asyncio.Event()
        self._ending = asyncio.Event()
        self._forced = asyncio.Event()
        self._initialised = False
        body = pod["spec"]
        self._init = [Container(item, self._changed, init=True) for item in body.get("initContainers") or []]
        self._containers = [Container(item, self._changed) for item in body["containers"]]
        self._volumes = {item["name"]: item for item in body.get("volumes") or []}
        self._tokens: dict[str, dict[str, str]] = {}

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        return str(self.manifest["metadata"]["uid"])

    @property
    def ready(self) -> bool:
        """Whether it serves: all containers are ready."""
        return self._initialised and all(container.ready for container in self._containers)

    @property
    def serves(self) -> bool:
        """Whether new connections may go to it."""
        return self.ready and not self.terminating

    @property
    def restarts(self) -> int:
        return sum(container.restarts for container in (*self._init, *self._containers))

    @property
    def phase(self) -> str:
        """Pending, Running, Succeeded or Failed."""
        codes = [container.exit_code for container in self._containers]
        if self._policy != "Always" and all(code is not None for code in codes) and not self._will_restart(*codes):
            return "Failed" if any(codes) else "Succeeded"
        if self._policy == "Never" and any(container.exit_code for container in self._init):
            return "Failed"
        begun = any("waiting" not in container.state or container.restarts for container in self._containers)
        return "Running" if self._initialised and begun else "Pending"

    @property
    def reason(self) -> str:
        """What it waits for, or what went wrong."""
        whys = (f"{c.name}: {c.reason}" for c in (*self._init, *self._containers) if c.reason and c.exit_code != 0)
        return self.problem or ("" if self.ready else next(whys, ""))

    def processes(self) -> list[Process]:
        """Return what runs of it."""
        made = [container.process for container in (*self._init, *self._containers)]
        return [process for process in made if process is not None and process.running]

    def update(self, pod: Object) -> None:
        """Take in what the API server says of it now; end it when it is deleted."""
        self.manifest = pod
        if "deletionTimestamp" in pod["metadata"]:
            self._terminate()

    def vanish(self) -> None:
        """Take in that the API server has it no more: nothing of it may stay."""
        self._gone = True
        self._forced.set()
        self._terminate()

    async def run(self) -> None:
        """Live from being bound to being gone. Cancelled, it leaves processes that the caller kills."""
        reporter = asyncio.create_task(self._report_for_ever())
        work = asyncio.create_task(self._work())
        try:
            await self._ending.wait()
            work.cancel()
            await asyncio.wait({work})
            await self._end()
            reporter.cancel()
            await asyncio.wait({reporter})
            await self._remove()
        finally:
            for task in (work, reporter):
                task.cancel()
        shutil.rmtree(self.directory / "volumes", ignore_errors=True)

    def _terminate(self) -> None:
        if not self.terminating:
            self.terminating = True  # from here on no Service sends anybody here
            self._ending.set()
            self._changed()

    async def _work(self) -> None:
        try:
            self._check()
            await self._mount()
            async with asyncio.TaskGroup() as group:
                for volume in self._volumes.values():
                    group.create_task(self._keep_fresh(volume))
                for container in self._init:
                    await self._keep(container, again=self._policy != "Never")
                    if container.exit_code:
                        return
                self._initialised = True
                async with asyncio.TaskGroup() as containers:
                    for container in self._containers:
                        containers.create_task(self._keep(container, again=self._policy == "Always"))
        except* NotSupportedError as errors:
            self.problem = f"not supported by a node without containers: {_first(errors)}"
            _log.warning("Pod %s/%s: %s", self.namespace, self.name, self.problem)
            for container in (*self._init, *self._containers):
                container.wait_for("CreateContainerError", self.problem)

    def _check(self) -> None:
        """Raise NotSupportedError now rather than halfway."""
        for container in (*self._init, *self._containers):
            if container.init and container.spec.get("restartPolicy") == "Always":
                raise NotSupportedError(f"init container {container.name} as a sidecar")
            if (container.spec.get("lifecycle") or {}).get("preStop", {}).keys() - {"sleep"}:
                raise NotSupportedError(f"container {container.name}: preStop other than sleep")
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                if kind in container.spec:
                    Probe.of(container.spec[kind])

    async def _mount(self) -> None:
        """Make all volumes; wait for what is not there yet, as a kubelet does."""
        for name, volume in self._volumes.items():
            tokens = volumes.wants_token(volume)
            self._tokens[name] = {token["path"]: await self._token(token) for token in tokens}
        while True:
            try:
                content = {name: self._files(volume) for name, volume in self._volumes.items()}
                break
            except volumes.WaitError as error:
                self._wait(f"MountVolume.SetUp failed: {error}")
                await self._site.objects_changed.wait()
        for name, files in content.items():
            volumes.write(self._directory_of(name), files)
        self._wait("")

    def _wait(self, problem: str) -> None:
        self.problem = problem
        for container in (*self._init, *self._containers):
            container.wait_for("PodInitializing" if self._init and not container.init else "ContainerCreating", problem)
        self._changed()

    async def _keep_fresh(self, volume: Object) -> None:
        """Bring what changes into a volume, late by a random time; what is deleted stays as it was."""
        wanted = volumes.sources(volume)
        if not wanted:
            return
        shown = self._versions(wanted)
        while True:
            while self._versions(wanted) == shown:
                await self._site.objects_changed.wait()
            await asyncio.sleep(random.uniform(*self._site.sync))
            shown = self._versions(wanted)
            with contextlib.suppress(volumes.WaitError):
                volumes.write(self._directory_of(volume["name"]), self._files(volume))

    async def _keep(self, container: Container, *, again: bool) -> None:
        """Run a container, and again when it ends: an init container until it succeeds."""
        grace = float(self.manifest["spec"].get("terminationGracePeriodSeconds", 30))
        while True:
            process = await self._prepare(container)
            code = await container.run(process, self.address, grace)
            if (container.init and code == 0) or not (again or self._will_restart(code)):
                return
            _log.info("Pod %s/%s: %s ended with %d", self.namespace, self.name, container.name, code)
            await container.back_off()

    async def _prepare(self, container: Container) -> Process:
        entry = spec.entrypoint(container.spec["image"], self._site.images)
        while entry is None and not container.spec.get("command"):
            container.wait_for("ErrImagePull", f"no command was given for image {container.spec['image']}")
            await asyncio.Event().wait()  # only another Pod will have another image
        pod = self.manifest | {"status": {"podIP": self.address, "hostIP": self._site.node_address}}
        while True:
            try:
                around = Surroundings(self._mounts(container), self._site.host)
                variables = spec.environment(container.spec, pod, self._content, around)
                break
            except LookupError as error:
                container.wait_for("CreateContainerConfigError", str(error.args[0]))
                await self._site.objects_changed.wait()
        return Process(
            container.name,
            spec.command(container.spec, entry or [], variables, around),
            self.directory,
            {**self._site.environment, "HOSTNAME": self.name, **variables},
            inherit=False,
            cwd=self._site.cwd,
        )

    def _mounts(self, container: Container) -> dict[str, Path]:
        found = {}
        for mount in container.spec.get("volumeMounts") or []:
            if mount["name"] not in self._volumes:
                raise NotSupportedError(f"mount {mount['name']} without a volume")
            directory = self._directory_of(mount["name"])
            found[mount["mountPath"]] = directory / mount["subPath"] if mount.get("subPath") else directory
        return found

    def _content(self, kind: str, name: str) -> dict[str, bytes] | None:
        item = self._site.lookup(kind, name)
        return None if item is None else volumes.content_of(kind, item)

    def _files(self, volume: Object) -> dict[str, volumes.File]:
        return volumes.files(volume, self.manifest, self._site.lookup, self._tokens[volume["name"]])

    def _versions(self, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
        items = {source: self._site.lookup(*source) for source in wanted}
        return {source: item["metadata"]["resourceVersion"] for source, item in items.items() if item is not None}

    def _directory_of(self, volume: str) -> Path:
        return self.directory / "volumes" / volume

    async def _token(self, wanted: Object) -> str:
        account = self.manifest["spec"].get("serviceAccountName", "default")
        body: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [wanted["audience"]] if wanted.get("audience") else [],
                "expirationSeconds": wanted.get("expirationSeconds", TOKEN_SECONDS),
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid},
            },
        }
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        while True:
            try:
                return str((await self._site.api.request("POST", path, body))["status"]["token"])
            except (ApiError, *AWAY) as error:
                self._wait(f"no token for service account {account}: {error}")
                await asyncio.sleep(PAUSE)

    @property
    def _policy(self) -> str:
        return str(self.manifest["spec"].get("restartPolicy", "Always"))

    def _will_restart(self, *codes: int | None) -> bool:
        return self._policy == "OnFailure" and any(codes)

    async def _end(self) -> None:
        """End what runs: SIGTERM, and SIGKILL when the grace period is over; at once when it was forced."""
        deadline = time.monotonic() + self.manifest["metadata"].get("deletionGracePeriodSeconds", 0)
        ending = asyncio.create_task(self._end_in_time(deadline))
        forced = asyncio.create_task(self._forced.wait())
        await asyncio.wait({ending, forced}, return_when=asyncio.FIRST_COMPLETED)
        for task in (ending, forced):
            task.cancel()
        for process in self.processes():
            process.kill()
        for container in (*self._init, *self._containers):
            if container.running and container.process is not None:
                code = container.process.exit_code or 0
                container.exited(128 - code if code < 0 else code)

    async def _end_in_time(self, deadline: float) -> None:
        hooks = [(c.spec.get("lifecycle") or {}).get("preStop") or {} for c in self._containers if c.running]
        naps = [float(hook["sleep"]["seconds"]) for hook in hooks if "sleep" in hook]
        await asyncio.sleep(min(max(naps, default=0.0), max(0.0, deadline - time.monotonic())))
        await end(self.processes(), max(0.0, deadline - time.monotonic()))

    def _changed(self) -> None:
        self._unreported.set()

    # What the API server is told.

    async def _report_for_ever(self) -> None:
        told: Object = {}
        while True:
            await self._unreported.wait()
            self._unreported.clear()
            if (status := self._status()) != told:
                await self._persist("PATCH", "/status", {"metadata": {"uid": self.uid}, "status": status})
                told = json.loads(json.dumps(status))

    async def _remove(self) -> None:
        """Tell the API server how it ended, and that it may forget it."""
        await self._persist("PATCH", "/status", {"metadata": {"uid": self.uid}, "status": self._status()})
        await self._persist("DELETE", "", {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}})

    async def _persist(self, method: str, of: str, body: Object) -> None:
        """Make a request until it is answered; a Pod that is not there (any more) needs none."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}{of}"
        while not self._gone:
            try:
                await self._site.api.request(method, path, body, MERGE if method == "PATCH" else "")
            except ApiError as error:
                if error.status in {404, 409}:  # gone, or another of the same name
                    return
                if error.status < 500 and error.status != 429:
                    _log.warning("%s", error)
                    return
            except AWAY:
                pass
            else:
                return
            await asyncio.sleep(PAUSE)

    def _status(self) -> Object:
        ready = "True" if self.ready else "False"
        for kind, value in {
            "PodScheduled": "True",
            "Initialized": "True" if self._initialised else "False",
            "ContainersReady": ready,
            "Ready": ready,
        }.items():
            if self._conditions.get(kind, {}).get("status") != value:
                self._conditions[kind] = {"type": kind, "status": value, "lastTransitionTime": rfc3339()}
        return {
            "phase": self.phase,
            "conditions": list(self._conditions.values()),
            "hostIP": self._site.node_address,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": self._since,
            "initContainerStatuses": [container.status() for container in self._init],
            "containerStatuses": [container.status() for container in self._containers],
        }


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
