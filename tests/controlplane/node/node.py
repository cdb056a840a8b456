"""The node as one object."""

import asyncio
import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.controlplane.cluster import ControlPlane, NotOursError
from tests.controlplane.node.addresses import Addresses
from tests.controlplane.node.kubelet import Kubelet
from tests.controlplane.node.pods import Pod
from tests.controlplane.processes import NotReadyError, ended_by_signals

PATIENCE: Final = 30.0  # seconds for the node to come up, or to go


@dataclass(frozen=True, slots=True)
class PodState:
    """One Pod as the node sees it. `reason` says what it waits for, or what went wrong last; else it is empty."""

    name: str
    namespace: str
    phase: str
    ready: bool
    restarts: int
    terminating: bool
    address: str
    reason: str


class Node:
    """A running node. Its methods may be called from any thread."""

    def __init__(self, kubelet: Kubelet, addresses: Addresses) -> None:
        self._kubelet = kubelet
        self._addresses = addresses

    @property
    def name(self) -> str:
        """The name of its Node object."""
        return self._kubelet.name

    def address(self, service: str, namespace: str, port: int) -> str:
        """Return where a Service's port is reached, as host and port: for clients outside of Pods.

        The address is the Service's own for as long as the node lives, also before the Service is there.
        """
        return f"{self._addresses.service(service, namespace)}:{port}"

    def log(self, pod_prefix: str, namespace: str, container: str = "") -> list[Path]:
        """Return the log files of a workload's Pods, oldest first, those of Pods that are gone too.

        `pod_prefix` is the workload's name. Of a Pod with several containers these are the logs of all that are no
        init containers; or of the one that is named, which may be one.
        """
        return [
            path
            for record in list(self._kubelet.records)
            if record.namespace == namespace and _is_of(record.name, pod_prefix)
            for name in ([container] if container else record.containers)
            if (path := record.directory / f"{name}.log").exists()
        ]

    def pods(self, pod_prefix: str = "", namespace: str = "") -> list[PodState]:
        """Return the Pods that the node has now, oldest first; of one workload or namespace where given."""
        return [
            _state(pod)
            for pod in list(self._kubelet.pods.values())
            if _is_of(pod.name, pod_prefix) and namespace in {"", pod.namespace}
        ]


@contextmanager
def start_node(
    plane: ControlPlane,
    images: Mapping[str, Sequence[str]],
    *,
    namespaces: Collection[str],
    hosts: Mapping[str, str] | None = None,
    sync: tuple[float, float] = (0.0, 1.0),
) -> Iterator[Node]:
    """Run the Pods of some namespaces as local processes; at the end of the block all of them are gone.

    `images` gives, for an image's name without its tag, the command that stands for its ENTRYPOINT.
    `hosts` says where what is outside of the cluster really is: {"postgres.shop.svc:5432": "127.0.0.1:34567"}.
    `sync` bounds the seconds, chosen at random, by which a changed Secret or ConfigMap comes late into a volume.
    Raises ValueError for `hosts` of another form, NotReadyError when the node does not come up, OSError when a port of
    `hosts` cannot be listened on, NotOursError for a cluster that the user named: it has
    nodes of its own.
    """
    if "kube-apiserver" not in plane.processes:
        raise NotOursError(f"the named cluster {plane.context} has nodes of its own")
    with ended_by_signals():
        addresses = Addresses.claim()
        try:
            kubelet = Kubelet(plane, images, namespaces, hosts or {}, sync, addresses)
            with _running(kubelet):
                yield Node(kubelet, addresses)
        finally:
            addresses.release()


@contextmanager
def _running(kubelet: Kubelet) -> Iterator[None]:
    """Run it in an event loop of its own, in a thread of its own."""
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()
    up: Future[None] = Future()

    async def live() -> None:
        work = asyncio.create_task(kubelet.run(lambda: up.set_result(None)))
        begun.set_result((asyncio.get_running_loop(), work))
        await asyncio.wait({work})
        if work.cancelled() or (error := work.exception()) is None:
            return
        if up.done():
            raise error
        up.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(live()), name=kubelet.name, daemon=True)
    thread.start()
    loop, work = begun.result(PATIENCE)
    try:
        try:
            up.result(PATIENCE)
        except TimeoutError as error:
            raise NotReadyError(f"the node was not up within {PATIENCE:.0f} s") from error
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended already
            loop.call_soon_threadsafe(work.cancel)
        thread.join(PATIENCE)


def _is_of(pod: str, prefix: str) -> bool:
    """Whether a Pod is a workload's, by name."""
    return not prefix or pod == prefix or pod.startswith(f"{prefix}-")


def _state(pod: Pod) -> PodState:
    return PodState(
        name=pod.name,
        namespace=pod.namespace,
        phase=pod.phase,
        ready=pod.ready,
        restarts=pod.restarts,
        terminating=pod.terminating,
        address=pod.address,
        reason=pod.reason,
    )
