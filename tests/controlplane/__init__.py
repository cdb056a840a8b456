"""A real control plane without containers: etcd, kube-apiserver, kube-controller-manager, and OpenBao where wanted.

    with start_control_plane() as cp:
        cp.kubectl("get", "namespaces")

Everything listens on 127.0.0.1 on free ports, lives in one temporary directory, and is gone afterwards.
"""

from tests.controlplane.binaries import MissingProgramError
from tests.controlplane.cluster import ControlPlane, KubectlError, NotOursError, start_control_plane
from tests.controlplane.named import UnnamedContextError
from tests.controlplane.openbao import OpenBao
from tests.controlplane.postgres import Postgres, start_postgres
from tests.controlplane.processes import NotReadyError

__all__ = [
    "ControlPlane",
    "KubectlError",
    "MissingProgramError",
    "NotOursError",
    "NotReadyError",
    "OpenBao",
    "Postgres",
    "UnnamedContextError",
    "start_control_plane",
    "start_postgres",
]
