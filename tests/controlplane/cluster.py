"""The control plane as one object."""

import base64
import json
import os
import re
import signal
import ssl
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.controlplane.binaries import beside_python, find
from tests.controlplane.openbao import OpenBao
from tests.controlplane.processes import Process, free_port

CONTEXT: Final = "sio-local"
WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE", "APPLY"})


class UnnamedContextError(RuntimeError):
    """A cluster of the user's must be named twice: its kubeconfig and its context."""


@dataclass
class ControlPlane:
    """A running control plane, or a cluster that the user named."""

    directory: Path
    url: str
    ca_file: Path
    admin_token: str
    admin_kubeconfig: Path
    context: str = CONTEXT
    processes: dict[str, Process] = field(default_factory=dict)
    openbao: OpenBao | None = None
    _kubeconfigs: int = 0

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run kubectl as admin. Raises CalledProcessError when it fails and `check` is set."""
        command = [
            str(beside_python("kubectl")),
            f"--kubeconfig={self.admin_kubeconfig}",
            f"--context={self.context}",
            # kubectl remembers what a server offers by its address; ports here are used again by other servers.
            f"--cache-dir={self.directory / 'kubectl-cache'}",
        ]
        result = subprocess.run([*command, *arguments], input=input, capture_output=True, text=True, check=False)
        if check and result.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments[:4])} failed: {result.stderr.strip()}")
        return result

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get ... -o json` prints, decoded."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)

    def kubeconfig_for(self, namespace: str, service_account: str) -> Path:
        """Return a kubeconfig with a token of the service account, good for a day."""
        result = self.kubectl("create", "token", service_account, f"--namespace={namespace}", "--duration=24h")
        self._kubeconfigs += 1
        path = self.directory / f"{namespace}-{service_account}-{self._kubeconfigs}.kubeconfig"
        return _write_kubeconfig(path, self.url, self.ca_file, result.stdout.strip())

    def metrics(self) -> str:
        """Return the API server's metrics."""
        return _http(f"{self.url}/metrics", self.ca_file, self.admin_token)

    def api_writes(self) -> Counter[tuple[str, str, str]]:
        """Return how many writes succeeded so far, by verb, resource and subresource."""
        writes: Counter[tuple[str, str, str]] = Counter()
        for labels, value in re.findall(r"^apiserver_request_total\{(.*?)\} (\S+)$", self.metrics(), re.MULTILINE):
            found = dict(re.findall(r'(\w+)="(.*?)"', labels))
            if found["verb"] in WRITES and found["code"].startswith("2"):
                writes[found["verb"], found["resource"], found["subresource"]] += int(float(value))
        return writes

    def stop_api_server(self) -> None:
        """Stop the API server; etcd keeps its state."""
        self.processes["kube-apiserver"].stop()

    def start_api_server(self) -> None:
        """Start the API server again, on the same port."""
        self.processes["kube-apiserver"].start()
        self.processes["kube-apiserver"].wait_until(self.ready)

    def compact_etcd(self) -> None:
        """Compact etcd at its present revision: a watch that is behind has to list anew."""
        endpoint = self.processes["etcd"].log.with_name("etcd.endpoint").read_text()
        status = _post(f"{endpoint}/v3/maintenance/status", {})
        _post(f"{endpoint}/v3/kv/compaction", {"revision": status["header"]["revision"], "physical": True})

    def ready(self) -> bool:
        """Whether the API server answers, and serves."""
        try:
            return _http(f"{self.url}/readyz", self.ca_file, self.admin_token) == "ok"
        except OSError:
            return False

    def pids(self) -> dict[str, int]:
        """Return the process IDs by program."""
        return {name: process.pid for name, process in self.processes.items() if process.running}


@contextmanager
def start_control_plane(*, openbao: bool = False) -> Iterator[ControlPlane]:
    """Start a control plane and stop it at the end of the block, also on Ctrl-C and SIGTERM.

    With SIO_TEST_KUBECONFIG and SIO_TEST_CONTEXT set, use that cluster instead; nothing else is ever guessed.
    """
    if os.environ.get("SIO_TEST_KUBECONFIG"):
        yield _named_cluster()
        return
    with _terminated_by_signal(), tempfile.TemporaryDirectory(prefix="sio-") as name:
        plane = _prepare(Path(name), openbao=openbao)
        try:
            _start(plane)
            yield plane
        finally:
            for process in reversed(plane.processes.values()):
                process.stop(timeout=3)


def _prepare(directory: Path, *, openbao: bool) -> ControlPlane:
    directory.chmod(0o700)
    etcd_client, etcd_peer, api, manager = (free_port() for _ in range(4))
    url, certificates = f"https://127.0.0.1:{api}", directory / "certs"
    token = os.urandom(16).hex()
    (directory / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    subprocess.run(
        ["openssl", "genrsa", "-out", str(directory / "sa.key"), "2048"], capture_output=True, check=True
    )
    (directory / "etcd.endpoint").write_text(f"http://127.0.0.1:{etcd_client}")
    ca_file = certificates / "apiserver.crt"
    kubeconfig = _write_kubeconfig(directory / "admin.kubeconfig", url, ca_file, token)
    peer = f"http://127.0.0.1:{etcd_peer}"
    commands = {
        "etcd": [
            f"--data-dir={directory / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{etcd_client}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd_client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ],
        "kube-apiserver": [
            f"--etcd-servers=http://127.0.0.1:{etcd_client}",
            f"--secure-port={api}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={certificates}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={directory / 'sa.key'}",
            f"--service-account-signing-key-file={directory / 'sa.key'}",
            f"--token-auth-file={directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--max-requests-inflight=2000",
            "--max-mutating-requests-inflight=1000",
            "--shutdown-send-retry-after=false",
        ],
        "kube-controller-manager": [
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={directory / 'sa.key'}",
            "--controllers=*",
            "--bind-address=127.0.0.1",
            f"--secure-port={manager}",
            f"--cert-dir={directory / 'manager-certs'}",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ],
    }
    processes = {name: Process(name, [str(find(name)), *flags], directory) for name, flags in commands.items()}
    plane = ControlPlane(directory, url, ca_file, token, kubeconfig, processes=processes)
    if openbao:
        plane.openbao = OpenBao(directory)
        plane.processes["openbao"] = plane.openbao.process
    return plane


def _start(plane: ControlPlane) -> None:
    plane.processes["etcd"].start()
    plane.processes["kube-apiserver"].start()
    if plane.openbao is not None:
        plane.openbao.start()
    plane.processes["kube-apiserver"].wait_until(plane.ready)
    plane.processes["kube-controller-manager"].start()
    for namespace in ("default", "kube-system"):
        path = f"{plane.url}/api/v1/namespaces/{namespace}/serviceaccounts/default"
        plane.processes["kube-controller-manager"].wait_until(lambda path=path: _exists(path, plane))  # type: ignore[misc]


def _exists(url: str, plane: ControlPlane) -> bool:
    try:
        _http(url, plane.ca_file, plane.admin_token)
    except OSError:
        return False
    return True


def _named_cluster() -> ControlPlane:
    context = os.environ.get("SIO_TEST_CONTEXT")
    if not context:
        raise UnnamedContextError("SIO_TEST_KUBECONFIG needs SIO_TEST_CONTEXT beside it: the context to use")
    kubeconfig = Path(os.environ["SIO_TEST_KUBECONFIG"]).resolve()
    view = subprocess.run(
        [str(beside_python("kubectl")), f"--kubeconfig={kubeconfig}", f"--context={context}", "config", "view", "--raw",
         "--minify", "--flatten", "-o", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if view.returncode:
        raise UnnamedContextError(f"the kubeconfig has no context {context}")
    config = json.loads(view.stdout)
    directory = Path(tempfile.mkdtemp(prefix="sio-"))
    cluster = config["clusters"][0]["cluster"]
    ca_file = directory / "ca.crt"
    ca_file.write_bytes(base64.b64decode(cluster.get("certificate-authority-data", "")))
    token = config["users"][0]["user"].get("token", "")
    return ControlPlane(directory, cluster["server"], ca_file, token, kubeconfig, context)


def _write_kubeconfig(path: Path, url: str, ca_file: Path, token: str) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": {"server": url, "certificate-authority": str(ca_file)}}],
        "users": [{"name": CONTEXT, "user": {"token": token}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "current-context": CONTEXT,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path


def _http(url: str, ca_file: Path, token: str) -> str:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    context = ssl.create_default_context(cafile=str(ca_file))
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        return str(answer.read().decode())


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, data=json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


@contextmanager
def _terminated_by_signal() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that the block's clean-up runs; Ctrl-C is one already."""

    def stop(_number: int, _frame: object) -> None:
        raise SystemExit(143)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


