"""What the node without containers promises to the tests and the demo that stand on it."""

import contextlib
import http.server
import itertools
import json
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane import ControlPlane, Node, PodState, redis, start_node, start_redis

pytestmark = pytest.mark.contract

IMAGES = {
    "web": [sys.executable, "-m", "tests.contract.controlplane.web"],
    "sh": ["sh", "-c"],
    "show": [sys.executable, "-c", "import sys, os; print(*sys.argv[1:], os.environ.get('TOLD'))"],
}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def outside() -> Iterator[str]:
    """A server outside of the cluster."""

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from outside")

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def namespace(control_plane: ControlPlane) -> str:
    name = f"node-{time.monotonic_ns()}"
    control_plane.kubectl("create", "namespace", name)
    return name


@pytest.fixture(scope="module")
def node(control_plane: ControlPlane, namespace: str, outside: str) -> Iterator[Node]:
    hosts = {f"elsewhere.{namespace}.svc:9000": outside}
    with start_node(control_plane, IMAGES, namespaces=[namespace], hosts=hosts, sync=(0.0, 0.1)) as node:
        yield node


@pytest.fixture
def name() -> str:
    return f"web{next(_numbers)}"


def eventually(condition: Callable[[], bool], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def get(address: str, path: str = "/") -> str:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=15) as answer:
        return str(answer.read().decode())


def apply(plane: ControlPlane, *manifests: dict[str, Any]) -> None:
    plane.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))


def secret(name: str, namespace: str, **content: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": content}


def pod(container: dict[str, Any], **spec: Any) -> dict[str, Any]:
    image = {"name": "main", "image": "registry.example.org:5000/web:v1"}
    return {"automountServiceAccountToken": False, "containers": [image | container], **spec}


def web(name: str, namespace: str, *, replicas: int = 1) -> list[dict[str, Any]]:
    """Return a Deployment that shows the Secret of its name, and its Service."""
    labels = {"app": name}
    container = {
        "args": ["--host=$(POD_IP)", "--port=8080", "/etc/shown"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
        "volumeMounts": [{"name": "shown", "mountPath": "/etc/shown", "readOnly": True}],
    }
    spec = pod(container, volumes=[{"name": "shown", "secret": {"secretName": name, "defaultMode": 0o440}}])
    metadata = {"name": name, "namespace": namespace}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
    ports = [{"port": 8443, "targetPort": "http"}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
    return [deployment, service | {"spec": {"selector": labels, "ports": ports}}]


def ready(node: Node, name: str, count: int = 1) -> list[PodState]:
    eventually(lambda: [found.ready for found in node.pods(name)] == [True] * count)
    return node.pods(name)


def processes_of(name: str) -> list[str]:
    """Return the command lines of the processes that belong to a workload's Pods."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"HOSTNAME={name}-".encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_text())
    return found


def test_pod_waits_for_its_secret_and_then_serves_it(
    control_plane: ControlPlane, node: Node, namespace: str, name: str
) -> None:
    apply(control_plane, *web(name, namespace))
    eventually(lambda: [p.reason for p in node.pods(name)] == [f"MountVolume.SetUp failed: Secret {name} not found"])
    assert not processes_of(name)
    apply(control_plane, secret(name, namespace, a="1", b="1"))
    control_plane.kubectl("rollout", "status", f"deployment/{name}", f"--namespace={namespace}", "--timeout=30s")
    assert get(node.address(name, namespace, 8443)) == f"{node.pods(name)[0].name} 1 1"
    [log] = node.log(name, namespace)
    assert log.read_text().startswith("/\n")


def test_changed_secret_is_never_seen_half(control_plane: ControlPlane, node: Node, namespace: str, name: str) -> None:
    apply(control_plane, secret(name, namespace, a="0", b="0"), *web(name, namespace))
    ready(node, name)
    address, seen, over = node.address(name, namespace, 8443), set(), threading.Event()
    volume = node.log(name, namespace)[0].parent / "volumes" / "shown"

    def read() -> None:
        while not over.is_set():
            version = (volume / "..data").resolve()
            with contextlib.suppress(FileNotFoundError):  # the version has gone meanwhile: a reader looks again
                files = sorted(version.iterdir())
                pair = tuple(path.read_text() for path in files)
                if version.exists():
                    seen.add(pair)

    reader = threading.Thread(target=read)
    reader.start()
    for version in "1234":
        apply(control_plane, secret(name, namespace, a=version, b=version))
        eventually(lambda wanted=version: get(address).split()[1:] == [wanted, wanted])
    over.set()
    reader.join()
    assert seen == {(version, version) for version in "01234"}


def test_pod_sees_from_which_address_it_is_called(
    control_plane: ControlPlane, node: Node, namespace: str, name: str
) -> None:
    apply(control_plane, secret(name, namespace, a="1"), *web(name, namespace))
    ready(node, name)
    host, port = node.address(name, namespace, 8443).split(":")
    with socket.create_connection((host, int(port)), source_address=("127.1.2.3", 0)) as client:
        client.sendall(b"GET /caller HTTP/1.0\r\n\r\n")
        assert b" 200 " in client.recv(100)
    [log] = node.log(name, namespace)
    eventually(lambda: "127.1.2.3\n" in log.read_text())


def test_crashed_container_is_restarted(control_plane: ControlPlane, node: Node, namespace: str, name: str) -> None:
    apply(control_plane, secret(name, namespace, a="1"), *web(name, namespace))
    ready(node, name)
    with pytest.raises(OSError, match=r"closed connection|reset"):
        get(node.address(name, namespace, 8443), "/crash")
    eventually(lambda: [(p.restarts, p.ready) for p in node.pods(name)] == [(1, True)])
    status = f"-l app={name} -n {namespace} -o jsonpath={{.items[0].status.containerStatuses[0]}}".split()
    eventually(lambda: json.loads(control_plane.kubectl("get", "pods", *status).stdout)["restartCount"] == 1)
    told = json.loads(control_plane.kubectl("get", "pods", *status).stdout)
    assert told["lastState"]["terminated"]["exitCode"] == 3


def test_deleted_workload_leaves_neither_process_nor_pod(
    control_plane: ControlPlane, node: Node, namespace: str, name: str
) -> None:
    apply(control_plane, secret(name, namespace, a="1"), *web(name, namespace, replicas=2))
    ready(node, name, 2)
    assert len(processes_of(name)) == 2
    control_plane.kubectl("delete", "deployment", name, f"--namespace={namespace}")
    eventually(lambda: not node.pods(name))
    assert not processes_of(name)
    selected = ("-l", f"app={name}", f"--namespace={namespace}", "-o", "name")
    assert not control_plane.kubectl("get", "pods", *selected).stdout
    assert len(node.log(name, namespace)) == 2
    with pytest.raises(OSError, match=r"reset|closed"):
        get(node.address(name, namespace, 8443))


def test_rolling_update_loses_no_request(control_plane: ControlPlane, node: Node, namespace: str, name: str) -> None:
    apply(control_plane, secret(name, namespace, a="1"), *web(name, namespace, replicas=2))
    before = {p.name for p in ready(node, name, 2)}
    address, served, failed = node.address(name, namespace, 8443), [], []
    updated = threading.Event()

    def ask(path: str) -> None:
        for _ in range(400):
            try:
                served.append(get(address, path).split()[0])
            except OSError as error:
                failed.append(error)
            if updated.is_set():
                return

    askers = [threading.Thread(target=ask, args=(path,)) for path in ("/", "/", "/slow", "/slow")]
    for asker in askers:
        asker.start()
    control_plane.kubectl("rollout", "restart", f"deployment/{name}", f"--namespace={namespace}")
    eventually(lambda: len(after := {p.name for p in node.pods(name) if p.ready}) == 2 and not after & before)
    eventually(lambda: not before & {p.name for p in node.pods(name)})
    get(address)
    updated.set()
    for asker in askers:
        asker.join()
    assert not failed
    assert before & set(served)
    assert set(served) - before


def test_name_of_a_service_leads_out_of_the_cluster(node: Node, namespace: str) -> None:
    assert get(node.address("elsewhere", namespace, 9000)) == "from outside"


def test_names_and_paths_are_made_those_of_this_machine(
    control_plane: ControlPlane, node: Node, namespace: str, name: str
) -> None:
    host = f"elsewhere.{namespace}.svc"
    first = {"name": "first", "image": "sh", "args": ["echo once > /kept/file"]}
    second = {
        "image": "show",
        "args": ["--at=https://$(HOST):9000/kept", "/kept/file", "/keptnot", "$$(HOST)"],
        "env": [{"name": "HOST", "value": host}, {"name": "TOLD", "value": "file=/kept/file"}],
    }
    mounts = {"volumeMounts": [{"name": "kept", "mountPath": "/kept"}]}
    spec = pod(second | mounts, initContainers=[first | mounts], volumes=[{"name": "kept", "emptyDir": {}}])
    metadata = {"name": name, "namespace": namespace}
    apply(
        control_plane,
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec | {"restartPolicy": "Never"}},
    )
    eventually(lambda: [p.phase for p in node.pods(name)] == ["Succeeded"])
    at, file, untouched, escaped, told = node.log(name, namespace)[0].read_text().split()
    assert at == f"--at=https://{node.address('elsewhere', namespace, 9000)}/kept"
    assert Path(file).read_text() == "once\n"
    assert (untouched, escaped, told) == ("/keptnot", "$(HOST)", f"file={file}")


def test_what_the_node_cannot_do_is_said(control_plane: ControlPlane, node: Node, namespace: str, name: str) -> None:
    spec = pod({"readinessProbe": {"exec": {"command": ["true"]}}})
    metadata = {"name": name, "namespace": namespace}
    apply(control_plane, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    eventually(lambda: "probe by exec" in "".join(p.reason for p in node.pods(name)))
    control_plane.kubectl("delete", "pod", name, f"--namespace={namespace}")
    assert not node.pods(name)


def test_nothing_outlives_the_node(control_plane: ControlPlane, name: str) -> None:
    namespace = f"node-{time.monotonic_ns()}"
    control_plane.kubectl("create", "namespace", namespace)
    with start_node(control_plane, IMAGES, namespaces=[namespace]) as node:
        apply(control_plane, secret(name, namespace, a="1"), *web(name, namespace))
        ready(node, name)
        address = node.address(name, namespace, 8443)
    assert not processes_of(name)
    assert control_plane.kubectl("get", "node", node.name, check=False).returncode
    with pytest.raises(OSError, match="refused"):
        get(address)


@pytest.mark.skipif(not redis.found(), reason="NO REDIS HERE: install redis-server")
def test_redis_answers_where_it_says() -> None:
    with start_redis() as server:
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(b"SET kept 42\r\nGET kept\r\n")
            answer = b""
            while b"42\r\n" not in answer:
                answer += client.recv(100)
        assert answer == b"+OK\r\n$2\r\n42\r\n"
    assert not server.process.running
