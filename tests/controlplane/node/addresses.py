"""Loopback addresses: each Pod and each Service has its own, as in a cluster (Linux routes all of 127/8 to itself)."""

import random
import socket
import threading
from typing import Final, Self

from tests.controlplane.processes import NotReadyError

KUBELET_PORT: Final = 10250
_POD_NETWORKS: Final = range(1, 256)
_HOSTS: Final = range(2, 255)


class Addresses:
    """127.N.0.0/16 for one node: 127.N.0.1 is the node's, 127.N.0.* are Services', the rest are Pods'.

    No other node on this machine, in whichever process, has the same N: it listens where a kubelet would.
    """

    def __init__(self, number: int, claim: socket.socket) -> None:
        self.number = number
        self._claim = claim
        self._services: dict[tuple[str, str], str] = {}
        self._pods = 0
        self._lock = threading.Lock()

    @classmethod
    def claim(cls) -> Self:
        """Return a free network. Raises NotReadyError when there is none."""
        for number in random.sample(range(2, 255), 253):
            claim = socket.socket()
            try:
                claim.bind((f"127.{number}.0.1", KUBELET_PORT))
                claim.listen(1)
            except OSError:
                claim.close()
            else:
                return cls(number, claim)
        raise NotReadyError("no network 127.N.0.0/16 is free on this machine")

    def release(self) -> None:
        """Let another node have the network."""
        self._claim.close()

    @property
    def node(self) -> str:
        """The node's own address."""
        return f"127.{self.number}.0.1"

    def service(self, name: str, namespace: str) -> str:
        """Return a Service's address, the same one each time. Raises NotReadyError when all 253 are given."""
        with self._lock:
            if (found := self._services.get((namespace, name))) is None:
                if len(self._services) == len(_HOSTS):
                    raise NotReadyError("a node has addresses for 253 Services")
                found = f"127.{self.number}.0.{_HOSTS[len(self._services)]}"
                self._services[namespace, name] = found
            return found

    def pod(self) -> str:
        """Return a Pod's address. It is given again after 64,000 others only."""
        with self._lock:
            network, host = divmod(self._pods, len(_HOSTS))
            self._pods += 1
        return f"127.{self.number}.{_POD_NETWORKS[network % len(_POD_NETWORKS)]}.{_HOSTS[host]}"
