"""The control plane as one object."""

import json
import subprocess
import tempfile
import urllib.error
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from tests.controlplane import kubeapi
from tests.controlplane.binaries import beside_python
from tests.controlplane.kubeapi import CONTEXT
from tests.controlplane.named import NamedCluster, UnnamedContextError, named_cluster
from tests.controlplane.openbao import OpenBao
from tests.controlplane.processes import Process, ended_by_signals, kill_all
from tests.controlplane.programs import Layout

__all__ = ["ControlPlane", "KubectlError", "NotOursError", "UnnamedContextError", "start_control_plane"]

# Made by kube-controller-manager; what every workload and test in them needs before its first Pod or token.
FIRST_SERVICE_ACCOUNTS: Final = tuple(
    f"/api/v1/namespaces/{namespace}/serviceaccounts/default" for namespace in ("default", "kube-system")
)


class KubectlError(RuntimeError):
    """kubectl exited with an error; the message ends with what it said."""


class NotOursError(RuntimeError):
    """The cluster was named by the user: its servers are not ours to stop or to look into."""


@dataclass
class ControlPlane:
    """A running control plane, or a cluster that the user named (then without processes, maybe without a token)."""

    directory: Path
    url: str
    ca_file: Path
    admin_token: str = field(repr=False)
    admin_kubeconfig: Path
    context: str = CONTEXT
    processes: dict[str, Process] = field(default_factory=dict)
    openbao: OpenBao | None = None
    etcd_url: str = ""
    _kubeconfigs: int = field(default=0, repr=False)

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,
        check: bool = True,
    ) -> "subprocess.CompletedProcess[str]":
        """Run kubectl as admin, with `input` on its standard input, and return what came of it.

        Raises KubectlError when it fails and `check` is set.
        """
        command = [
            str(beside_python("kubectl")),
            f"--kubeconfig={self.admin_kubeconfig}",
            f"--context={self.context}",
            # kubectl remembers what a server offers by its address; ports here are used again by other servers.
            f"--cache-dir={self.directory / 'kubectl-cache'}",
        ]
        result = subprocess.run([*command, *arguments], input=input, capture_output=True, text=True, check=False)
        if check and result.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments[:4])} failed: {result.stderr.strip()}")
        return result

    def get(self, kind: str, *arguments: str) -> Any:
        """Return what `kubectl get ... -o json` prints, decoded. Raises KubectlError."""
        found = self.find(kind, *arguments)
        if found is None:
            raise KubectlError(f"kubectl get {kind} {' '.join(arguments)} failed: there is none")
        return found

    def find(self, kind: str, *arguments: str) -> Any:
        """Return what `get` does, or None where there is no such object. Raises KubectlError.

        A test that waits asks twenty times a second, and each kubectl is 0.04 s of work: the server is asked directly.
        """
        path = kubeapi.path_of(kind, *arguments)
        if path is None or not self.admin_token:
            result = self.kubectl("get", kind, *arguments, "-o", "json", check=False)
            if result.returncode and "(NotFound)" not in result.stderr:
                raise KubectlError(f"kubectl get {kind} failed: {result.stderr.strip()}")
            return None if result.returncode else json.loads(result.stdout)
        try:
            return json.loads(self.raw(path))
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise KubectlError(f"GET {path} failed: {error}") from error
        except OSError as error:
            raise KubectlError(f"GET {path} failed: {error}") from error

    def create(self, path: str, body: dict[str, Any]) -> Any:
        """POST an object to `path`, as admin; return the answer. Raises OSError, or KubectlError without token."""
        if self.admin_token:
            return kubeapi.post_json(self.url + path, body, self.ca_file, self.admin_token)
        return json.loads(self.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(body)).stdout)

    def raw(self, path: str) -> str:
        """Return the API server's answer to a GET of `path`, as admin. Raises OSError, or KubectlError without token."""
        if self.admin_token:
            return kubeapi.fetch(self.url + path, self.ca_file, self.admin_token)
        return self.kubectl("get", "--raw", path).stdout

    def kubeconfig_for(self, namespace: str, service_account: str) -> Path:
        """Return a kubeconfig with a token of the service account, good for a day. Raises KubectlError."""
        result = self.kubectl("create", "token", service_account, f"--namespace={namespace}", "--duration=24h")
        self._kubeconfigs += 1
        path = self.directory / f"{namespace}-{service_account}-{self._kubeconfigs}.kubeconfig"
        return kubeapi.write_kubeconfig(path, self.url, self.ca_file, result.stdout.strip())

    def metrics(self) -> str:
        """Return the API server's metrics as text. Raises as `raw` does."""
        return self.raw("/metrics")

    def api_writes(self, *, failed_too: bool = False) -> Counter[tuple[str, str, str]]:
        """Return how many writes succeeded since the API server started, by verb, resource and subresource.

        With `failed_too`, those that did not succeed as well. The API server itself renews a lease every ten seconds.
        """
        return kubeapi.count_writes(self.metrics(), failed_too=failed_too)

    def ready(self) -> bool:
        """Whether the API server answers, and serves."""
        return self._answers("/readyz")

    def stop_api_server(self) -> None:
        """Stop the API server; etcd keeps its state. Watches and what else is under way get two seconds."""
        self._ours("kube-apiserver").stop(timeout=2)

    def start_api_server(self) -> None:
        """Start the API server again, on the same port; return when it serves. Raises NotReadyError."""
        server = self._ours("kube-apiserver")
        server.start()
        server.wait_until(self.ready)

    def restart_api_server(self) -> None:
        """Stop and start the API server."""
        self.stop_api_server()
        self.start_api_server()

    def compact_etcd(self) -> None:
        """Compact etcd at its present revision.

        A watch from an earlier revision is then refused with 410 (Gone), once the API server's own memory of recent
        events is gone too: after `restart_api_server`.
        """
        self._ours("etcd")
        status = kubeapi.post_json(f"{self.etcd_url}/v3/maintenance/status", {})
        revision = status["header"]["revision"]
        kubeapi.post_json(f"{self.etcd_url}/v3/kv/compaction", {"revision": revision, "physical": True})

    def pids(self) -> dict[str, int]:
        """Return the process IDs of what runs, by program."""
        return {name: process.pid for name, process in self.processes.items() if process.running}

    def _ours(self, name: str) -> Process:
        if name not in self.processes:
            raise NotOursError(f"{name} of the named cluster {self.context} is not ours")
        return self.processes[name]

    def _answers(self, path: str) -> bool:
        try:
            self.raw(path)
        except (OSError, KubectlError):
            return False
        return True


@contextmanager
def start_control_plane(*, openbao: bool = False) -> Iterator[ControlPlane]:
    """Start a control plane and stop it at the end of the block, also on Ctrl-C, SIGTERM and SIGHUP.

    With SIO_TEST_KUBECONFIG and SIO_TEST_CONTEXT set, use that cluster instead; nothing else is ever guessed.
    Raises UnnamedContextError for half a name, MissingProgramError when a program is neither there nor can be built,
    and NotReadyError, with the end of its log, when one does not come up.
    """
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        named = named_cluster()
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sio-")))  # made with mode 0700
        plane = _of_named(named, directory) if named else _own(directory)
        if openbao:
            plane.openbao = OpenBao(directory)
            plane.processes["openbao"] = plane.openbao.process
        stack.callback(lambda: kill_all(plane.processes.values()))  # all state goes with the directory
        _start(plane)
        yield plane


def _own(directory: Path) -> ControlPlane:
    layout = Layout(directory)
    layout.write()
    return ControlPlane(
        directory,
        layout.url,
        layout.ca_file,
        layout.admin_token,
        layout.admin_kubeconfig,
        processes=layout.processes(),
        etcd_url=layout.etcd_url,
    )


def _of_named(named: NamedCluster, directory: Path) -> ControlPlane:
    ca_file = kubeapi.write_private(directory / "ca.crt", named.ca)
    return ControlPlane(directory, named.url, ca_file, named.token, named.kubeconfig, named.context)


def _start(plane: ControlPlane) -> None:
    if "etcd" in plane.processes:
        plane.processes["etcd"].start()
        plane.processes["kube-apiserver"].start()
    if plane.openbao is not None:
        plane.openbao.start()
    if manager := plane.processes.get("kube-controller-manager"):
        plane.processes["kube-apiserver"].wait_until(plane.ready)
        manager.start()
        manager.wait_until(lambda: all(plane._answers(path) for path in FIRST_SERVICE_ACCOUNTS))
