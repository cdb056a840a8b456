"""What a node does all the time: say that it lives, take Pods, follow the objects they are made of."""

import asyncio
import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.controlplane.binaries import ROOT
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.node.addresses import Addresses
from tests.controlplane.node.api import AWAY, MERGE, PAUSE, ApiClient, ApiError, Mirror, Object
from tests.controlplane.node.containers import rfc3339
from tests.controlplane.node.pods import Pod, Pulse, Site
from tests.controlplane.node.services import Services
from tests.controlplane.processes import kill_all

LEASE_SECONDS: Final = 40  # the kubelet's default, renewed four times in it
LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
GOODBYE: Final = 3.0  # seconds that the API server gets to hear that we go
# What a program on this machine needs of our environment; an image would bring it.
_INHERITED: Final = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV", "PYTHONPATH")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """A Pod that the node has or had, with the directory of its logs."""

    namespace: str
    name: str
    containers: tuple[str, ...]
    directory: Path


class Kubelet:
    """The node inside its event loop."""

    def __init__(
        self,
        plane: ControlPlane,
        images: Mapping[str, Sequence[str]],
        namespaces: Collection[str],
        hosts: Mapping[str, str],
        sync: tuple[float, float],
        addresses: Addresses,
    ) -> None:
        self.name = f"node-{addresses.number}-{secrets.token_hex(2)}"
        self.directory = plane.directory / self.name
        self.pods: dict[str, Pod] = {}  # by UID
        self.services = Services(addresses, namespaces, hosts, self.pods.values)
        self.records: list[Record] = []  # oldest first
        self._plane = plane
        self._images = images
        self._namespaces = namespaces
        self._sync = sync
        self._addresses = addresses
        self._mirrors: dict[tuple[str, str], Mirror] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, up: Callable[[], None]) -> None:
        """Be a node until cancelled; `up` is called once it takes Pods. Raises OSError and ApiError before that."""
        async with ApiClient(self._plane) as api:
            self._api = api
            try:
                await self.services.open_outside()
                await self._register()
                self._follow()
                self._start(self._renew(), "lease")
                self._start(self.services.run(), "services")
                up()
                await asyncio.Event().wait()
            finally:
                await self._leave()

    # The node itself.

    async def _register(self) -> None:
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": labels}}
        created = await self._api.request("POST", "/api/v1/nodes", node)
        now = rfc3339()
        condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "runs local processes"}
        room = {"cpu": str(os.cpu_count()), "memory": "64Gi", "pods": "1000"}
        status = {
            "conditions": [condition | {"lastHeartbeatTime": now, "lastTransitionTime": now}],
            "addresses": [{"type": "InternalIP", "address": self._addresses.node}],
            "capacity": room,
            "allocatable": room,
        }
        await self._api.request("PATCH", f"/api/v1/nodes/{self.name}/status", {"status": status}, MERGE)
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": created["metadata"]["uid"]}
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "ownerReferences": [owner]},
            "spec": self._lease(),
        }
        await self._api.request("POST", LEASES, lease)

    async def _renew(self) -> None:
        """Keep the lease: a node without is taken for dead, and its Pods are evicted."""
        pause = LEASE_SECONDS / 4
        while True:
            await asyncio.sleep(pause)
            try:
                await self._api.request("PATCH", f"{LEASES}/{self.name}", {"spec": self._lease()}, MERGE)
                pause = LEASE_SECONDS / 4
            except (ApiError, *AWAY) as error:
                _log.info("lease of %s: %s", self.name, error)
                pause = PAUSE

    def _lease(self) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"holderIdentity": self.name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}

    async def _leave(self) -> None:
        """End everything at once, and say so if somebody listens."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        kill_all([process for pod in self.pods.values() for process in pod.processes()])
        self.services.cut()
        now = {"gracePeriodSeconds": 0}
        gone = [f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}" for pod in self.pods.values()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE):
                paths = [f"/api/v1/nodes/{self.name}", *gone]
                asked = (self._api.request("DELETE", path, now) for path in paths)
                await asyncio.gather(*asked, return_exceptions=True)

    # What it follows.

    def _follow(self) -> None:
        for namespace in self._namespaces:
            objects = Pulse()
            site = self._site(namespace, objects)
            follows: dict[str, Callable[[Object, bool], None]] = {
                "secrets": lambda _item, _there, pulse=objects: pulse.beat(),  # type: ignore[misc]
                "configmaps": lambda _item, _there, pulse=objects: pulse.beat(),  # type: ignore[misc]
                "services": self.services.update,
                "pods": lambda item, there, site=site: self._pod_changed(item, there, site),  # type: ignore[misc]
            }
            for kind, changed in follows.items():
                mirror = Mirror(self._api, f"/api/v1/namespaces/{namespace}/{kind}", changed)
                self._mirrors[namespace, kind] = mirror
                self._start(mirror.run(), f"{kind} of {namespace}")

    def _site(self, namespace: str, objects: Pulse) -> Site:
        def lookup(kind: str, name: str) -> Object | None:
            mirror = self._mirrors[namespace, "secrets" if kind == "Secret" else "configmaps"]
            return mirror.objects.get(name)

        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return Site(
            api=self._api,
            lookup=lookup,
            objects_changed=objects,
            images=self._images,
            host=self.services.address,
            sync=self._sync,
            environment={**inherited, "PATH": path, "PYTHONUNBUFFERED": "1"},
            cwd=ROOT,
            node_address=self._addresses.node,
        )

    def _pod_changed(self, item: Object, there: bool, site: Site) -> None:
        metadata = item["metadata"]
        known = self.pods.get(metadata["uid"])
        if known is not None:
            known.update(item) if there else known.vanish()
        elif there and "deletionTimestamp" not in metadata and not item["spec"].get("nodeName"):
            self._start(self._bind(item), f"binding {metadata['name']}")
        elif there and item["spec"].get("nodeName") == self.name:
            directory = self.directory / metadata["namespace"] / metadata["name"]
            directory.mkdir(parents=True, exist_ok=True)
            containers = tuple(str(container["name"]) for container in item["spec"]["containers"])
            self.records.append(Record(metadata["namespace"], metadata["name"], containers, directory))
            pod = Pod(item, site, self._addresses.pod(), directory)
            self.pods[metadata["uid"]] = pod
            self._start(self._live(pod), f"Pod {metadata['name']}")
            pod.update(item)

    async def _live(self, pod: Pod) -> None:
        await pod.run()
        self.pods.pop(pod.uid, None)

    async def _bind(self, pod: Object) -> None:
        """Be the scheduler: there is one node."""
        name, namespace, uid = (pod["metadata"][key] for key in ("name", "namespace", "uid"))
        target = {"apiVersion": "v1", "kind": "Node", "name": self.name}
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "target": target,
        }
        while True:
            try:
                await self._api.request("POST", f"/api/v1/namespaces/{namespace}/pods/{name}/binding", binding)
            except AWAY:
                await asyncio.sleep(PAUSE)
            except ApiError as error:
                if error.status >= 500 or error.status == 429:
                    await asyncio.sleep(PAUSE)
                    continue
                if error.status not in {404, 409}:  # gone, or bound already
                    _log.warning("%s", error)
                return
            else:
                return

    def _start(self, work: Coroutine[object, object, None], what: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("the node failed at %s", task.get_name(), exc_info=error)
