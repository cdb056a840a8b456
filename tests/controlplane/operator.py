"""The operator as its own process on a control plane, with the rights that deploy/ ships and no others."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.controlplane.binaries import ROOT
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.processes import Process

NAMESPACE: Final = "serviceidentity-system"
SERVICE_ACCOUNT: Final = "serviceidentity-operator"
CLUSTER_WIDE: Final = ("cluster-secrets.yaml", "cluster-configmaps.yaml")
READY_LINE: Final = "started with"


def install(plane: ControlPlane, *, cluster_wide: bool = True) -> None:
    """Apply what deploy/ ships, but for the Deployment: there is no node to run it on.

    Without `cluster_wide` the operator may touch Secrets and ConfigMaps only where deploy/namespaced/namespace-access.yaml is applied.
    """
    plane.kubectl("apply", "-k", str(ROOT / "crds"))
    files = ["base/namespace.yaml", "base/rbac.yaml", *(CLUSTER_WIDE if cluster_wide else ())]
    plane.kubectl("apply", *(f"--filename={ROOT / 'deploy' / name}" for name in files))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


class OperatorProcess:
    """One operator process. `start` returns when it has begun to work."""

    _count = 0

    def __init__(
        self,
        plane: ControlPlane,
        *arguments: str,
        kubeconfig: Path | None = None,
        events: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        OperatorProcess._count += 1
        kubeconfig = kubeconfig or plane.kubeconfig_for(NAMESPACE, SERVICE_ACCOUNT)
        command = [
            sys.executable,
            "-m",
            "serviceidentity",
            f"--kubeconfig={kubeconfig}",
            f"--authority-namespace={NAMESPACE}",
            f"--events={'on' if events else 'off'}",
            *arguments,
        ]
        self.process = Process(f"operator-{OperatorProcess._count}", command, plane.directory, environment)

    def start(self, *, wait: bool = True) -> None:
        """Start it; with `wait`, until it has read what is there and works."""
        before = self.log.count(READY_LINE)
        self.process.start()
        if wait:
            self.process.wait_until(lambda: self.log.count(READY_LINE) > before)

    def stop(self) -> None:
        """Ask it to end."""
        self.process.stop()

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.process.kill()

    @property
    def pid(self) -> int:
        """Its process ID."""
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything it has logged."""
        return self.process.log.read_text(errors="replace") if self.process.log.exists() else ""


@contextmanager
def running_operator(plane: ControlPlane, *arguments: str, events: bool = True) -> Iterator[OperatorProcess]:
    """Run the operator for the block."""
    operator = OperatorProcess(plane, *arguments, events=events)
    operator.start()
    try:
        yield operator
    finally:
        operator.stop()
