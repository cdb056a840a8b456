"""Services as kube-proxy serves them: one address each, whose ports lead to the Pods that are ready."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping

from tests.controlplane.node.addresses import Addresses
from tests.controlplane.node.api import Object
from tests.controlplane.node.pods import Pod
from tests.controlplane.node.probes import port_of
from tests.controlplane.node.proxy import Proxy, Target

Port = tuple[str, str, int]  # namespace, name of the Service, port

_log = logging.getLogger(__name__)


class Services:
    """The Services of some namespaces, and what is outside of the cluster but reached by a Service's name."""

    def __init__(
        self,
        addresses: Addresses,
        namespaces: Collection[str],
        hosts: Mapping[str, str],
        pods: Callable[[], Iterable[Pod]],
    ) -> None:
        """Prepare them. Raises ValueError when `hosts` is not of the form NAME.NAMESPACE.svc:PORT -> HOST:PORT."""
        self._addresses = addresses
        self._pods = pods
        self._outside = {_outside(name): _target(real) for name, real in hosts.items()}
        self._namespaces = {*namespaces, *(namespace for namespace, _, _ in self._outside)}
        self._manifests: dict[tuple[str, str], Object] = {}
        self._proxies: dict[Port, Proxy] = {}
        self._asked = asyncio.Event()

    def address(self, name: str, namespace: str) -> str | None:
        """Return a Service's address, also before it is there; None in a namespace that the node does not serve."""
        return self._addresses.service(name, namespace) if namespace in self._namespaces else None

    def update(self, service: Object, there: bool) -> None:
        """Take in what the API server says of a Service."""
        key = (service["metadata"]["namespace"], service["metadata"]["name"])
        if there:
            self._manifests[key] = service
        else:
            self._manifests.pop(key, None)
        self._asked.set()

    async def open_outside(self) -> None:
        """Listen for what is outside of the cluster. Raises OSError."""
        for port, target in self._outside.items():
            await self._open(port, lambda real=target: [real])  # type: ignore[misc]

    async def run(self) -> None:
        """Listen for each port of each Service, for ever."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            wanted = {
                (*key, int(port["port"])): port
                for key, service in self._manifests.items()
                for port in service["spec"].get("ports") or []
                if port.get("protocol", "TCP") == "TCP"
            }
            for port in self._proxies.keys() - wanted.keys() - self._outside.keys():
                self._proxies.pop(port).close()
            for port in wanted.keys() - self._proxies.keys():
                try:
                    await self._open(port, lambda port=port: self._targets(port))  # type: ignore[misc]
                except OSError as error:
                    _log.warning("Service %s/%s, port %d: %s", *port, error)

    def cut(self) -> None:
        """Stop listening and cut off who is connected."""
        for proxy in self._proxies.values():
            proxy.cut()

    async def _open(self, port: Port, targets: Callable[[], list[Target]]) -> None:
        namespace, name, number = port
        proxy = Proxy(targets)
        await proxy.listen(self._addresses.service(name, namespace), number)
        self._proxies[port] = proxy

    def _targets(self, port: Port) -> list[Target]:
        """Return where a new connection may go now: the ready Pods that the Service selects."""
        namespace, name, number = port
        service = self._manifests.get((namespace, name))
        if service is None or not (selector := service["spec"].get("selector")):
            return []
        wanted = next((p.get("targetPort", number) for p in service["spec"]["ports"] if p["port"] == number), number)
        found = []
        for pod in self._pods():
            labels = pod.manifest["metadata"].get("labels") or {}
            if pod.namespace == namespace and pod.serves and selector.items() <= labels.items():
                ports = [known for c in pod.manifest["spec"]["containers"] for known in c.get("ports") or []]
                try:
                    found.append((pod.address, port_of(wanted, ports)))
                except LookupError as error:
                    _log.warning("Service %s/%s: %s", namespace, name, error)
        return found


def _outside(host: str) -> Port:
    name, _, port = host.rpartition(":")
    labels = name.removesuffix(".cluster.local").split(".")
    if len(labels) != 3 or labels[2] != "svc" or not port.isdecimal():
        raise ValueError(f"{host} is not NAME.NAMESPACE.svc:PORT")
    return labels[1], labels[0], int(port)


def _target(real: str) -> Target:
    host, _, port = real.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{real} is not HOST:PORT")
    return host, int(port)
