"""A real control plane without containers: etcd, kube-apiserver, kube-controller-manager, and OpenBao where wanted.

    with start_control_plane() as cp:
        cp.kubectl("get", "namespaces")

Everything listens on 127.0.0.1 on free ports, lives in one temporary directory, and is gone afterwards.
"""

from tests.controlplane.binaries import MissingProgramError
from tests.controlplane.cluster import ControlPlane, KubectlError, NotOursError, start_control_plane
from tests.controlplane.named import UnnamedContextError
from tests.controlplane.node import Node, PodState, start_node
from tests.controlplane.openbao import OpenBao
from tests.controlplane.postgres import Postgres, start_postgres
from tests.controlplane.processes import NotReadyError
from tests.controlplane.redis import Redis, start_redis

__all__ = [
    "ControlPlane",
    "KubectlError",
    "MissingProgramError",
    "Node",
    "NotOursError",
    "NotReadyError",
    "OpenBao",
    "PodState",
    "Postgres",
    "Redis",
    "UnnamedContextError",
    "start_control_plane",
    "start_node",
    "start_postgres",
    "start_redis",
]
