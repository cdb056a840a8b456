"""A node without containers: the Pods that kube-controller-manager makes of Deployments run as local processes.

    with start_control_plane() as plane, start_node(plane, {"web": [sys.executable, "-m", "web"]}, namespaces=["shop"]):
        plane.kubectl("apply", "-k", "manifests")

What differs from a real node: no isolation of any kind. A program sees this machine's files and network; the node
replaces mount paths and the names of Services where it can, in environment variables and arguments.
"""

from tests.controlplane.node.node import Node, PodState, start_node

__all__ = ["Node", "PodState", "start_node"]
