"""A real control plane without containers: etcd, kube-apiserver, kube-controller-manager, and OpenBao where wanted.

    with start_control_plane() as cp:
        cp.kubectl("get", "namespaces")

Everything listens on 127.0.0.1 on free ports, lives in one temporary directory, and is gone afterwards.
"""

from tests.controlplane.cluster import ControlPlane, start_control_plane

__all__ = ["ControlPlane", "start_control_plane"]
