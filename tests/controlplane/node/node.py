"""The node as one object."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.controlplane.cluster import ControlPlane


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

    def address(self, service: str, namespace: str, port: int) -> str:
        """Return where a Service's port is reached, as host and port: for clients outside of Pods.

        The address is the Service's own for as long as the node lives, also before the Service is there.
        """
        raise NotImplementedError

    def log(self, pod_prefix: str, namespace: str) -> list[Path]:
        """Return the log files of a workload's Pods, oldest first, those of Pods that are gone too.

        `pod_prefix` is the workload's name. Init containers log elsewhere: `<container>.log` beside these files.
        """
        raise NotImplementedError

    def pods(self, pod_prefix: str = "", namespace: str = "") -> list[PodState]:
        """Return the Pods that the node has now, oldest first; of one workload or namespace where given."""
        raise NotImplementedError


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
    Raises NotOursError for a cluster that the user named: it has nodes of its own.
    """
    raise NotImplementedError
    yield Node()
