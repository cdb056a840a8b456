"""What the tests' own control plane promises to the tests that stand on it."""

import json
import os
import signal
import ssl
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.controlplane import (
    ControlPlane,
    KubectlError,
    NotOursError,
    NotReadyError,
    OpenBao,
    UnnamedContextError,
    start_control_plane,
)
from tests.controlplane.__main__ import main
from tests.controlplane.binaries import ROOT, locate
from tests.controlplane.kubeapi import count_writes
from tests.controlplane.processes import Process, free_port

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """One control plane for this file: its tests stop servers, which others must not feel."""
    with start_control_plane(openbao=True) as plane:
        yield plane


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    name = f"test-{time.monotonic_ns()}"
    plane.kubectl("create", "namespace", name)
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def bao(plane: ControlPlane) -> OpenBao:
    assert plane.openbao is not None
    return plane.openbao


def eventually(condition: Callable[[], bool], timeout: float = 20) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def alive(pid: int) -> bool:
    try:
        # A zombie is dead: its parent is, too, and init has not come by yet.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_service_account_may_do_only_what_it_was_granted(plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("create", "serviceaccount", "reader", f"--namespace={namespace}")
    kubeconfig = plane.kubeconfig_for(namespace, "reader")

    def read_secrets() -> "subprocess.CompletedProcess[str]":
        return plane.kubectl(f"--kubeconfig={kubeconfig}", "get", "secrets", f"--namespace={namespace}", check=False)

    assert "Forbidden" in read_secrets().stderr
    plane.kubectl("create", "role", "reader", "--verb=list", "--resource=secrets", f"--namespace={namespace}")
    grant = f"--serviceaccount={namespace}:reader"
    plane.kubectl("create", "rolebinding", "reader", "--role=reader", grant, f"--namespace={namespace}")
    assert eventually(lambda: read_secrets().returncode == 0)


def test_request_without_a_good_token_is_refused(plane: ControlPlane) -> None:
    request = urllib.request.Request(f"{plane.url}/api", headers={"Authorization": "Bearer made-up"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, context=ssl.create_default_context(cafile=str(plane.ca_file)))
    assert refused.value.code == 401


def test_what_an_object_owns_goes_with_it(plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("create", "configmap", "owner", f"--namespace={namespace}")
    uid = plane.get("configmap", "owner", f"--namespace={namespace}")["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    owned = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "owned", "namespace": namespace, "ownerReferences": [owner]},
    }
    plane.kubectl("create", "--filename=-", input=json.dumps(owned))
    plane.kubectl("delete", "configmap", "owner", f"--namespace={namespace}")
    get = ("get", "secret", "owned", f"--namespace={namespace}")
    assert eventually(lambda: plane.kubectl(*get, check=False).returncode != 0)


def test_api_server_comes_back_with_its_state_on_the_same_address(plane: ControlPlane, namespace: str) -> None:
    plane.stop_api_server()
    assert not plane.ready()
    assert "kube-apiserver" not in plane.pids()
    with pytest.raises(KubectlError):
        plane.kubectl("get", "namespaces")
    plane.start_api_server()
    assert plane.get("namespace", namespace)["metadata"]["name"] == namespace


def test_server_outlives_the_thread_that_started_it(plane: ControlPlane) -> None:
    thread = threading.Thread(target=plane.restart_api_server)
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert plane.ready()


def test_watch_from_before_a_compaction_is_gone(plane: ControlPlane, namespace: str) -> None:
    old = json.loads(plane.raw("/api/v1/namespaces"))["metadata"]["resourceVersion"]
    plane.kubectl("create", "configmap", "newer", f"--namespace={namespace}")
    plane.compact_etcd()
    plane.restart_api_server()
    watch = f"/api/v1/namespaces/{namespace}/configmaps?watch=true&timeoutSeconds=5&resourceVersion={old}"
    first = json.loads(plane.raw(watch).splitlines()[0])
    assert (first["type"], first["object"]["code"]) == ("ERROR", 410)


def test_writes_are_counted_by_verb_resource_and_subresource(plane: ControlPlane, namespace: str) -> None:
    before = plane.api_writes()
    for name in ("one", "two"):
        plane.kubectl("create", "secret", "generic", name, f"--namespace={namespace}")
    plane.kubectl("create", "secret", "generic", "one", f"--namespace={namespace}", check=False)
    plane.kubectl("create", "secret", "generic", "three", f"--namespace={namespace}", "--dry-run=server")
    assert (plane.api_writes() - before)["POST", "secrets", ""] == 2


def test_failed_writes_count_when_asked_for() -> None:
    metrics = "\n".join(
        f'apiserver_request_total{{code="{code}",component="apiserver",dry_run="",group="",resource="secrets",'
        f'scope="resource",subresource="",verb="{verb}",version="v1"}} {count}'
        for code, verb, count in [("201", "POST", 3), ("409", "POST", 4), ("200", "GET", 9)]
    )
    assert count_writes(metrics) == {("POST", "secrets", ""): 3}
    assert count_writes(metrics, failed_too=True) == {("POST", "secrets", ""): 7}


def test_sealed_openbao_answers_503_until_unsealed(bao: OpenBao) -> None:
    bao.request("POST", "secret/data/kept", {"data": {"answer": "42"}})
    bao.seal()
    with pytest.raises(urllib.error.HTTPError) as refused:
        bao.request("GET", "secret/data/kept")
    assert refused.value.code == 503
    bao.unseal()
    assert bao.request("GET", "secret/data/kept")["data"]["data"] == {"answer": "42"}


def test_openbao_keeps_secrets_and_leases_over_a_crash(bao: OpenBao) -> None:
    bao.request("POST", "secret/data/kept", {"data": {"answer": "43"}})
    token = bao.request("POST", "auth/token/create", {"ttl": "1h", "policies": ["default"]})["auth"]["client_token"]
    bao.stop()
    with pytest.raises(OSError, match="refused"):
        bao.request("GET", "secret/data/kept")
    bao.start()
    assert bao.request("GET", "secret/data/kept")["data"]["data"] == {"answer": "43"}
    assert bao.request("GET", "auth/token/lookup-self", token=token)["data"]["ttl"] > 3000


def test_nothing_in_the_directory_is_for_others(plane: ControlPlane) -> None:
    assert stat.S_IMODE(plane.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(plane.admin_kubeconfig.stat().st_mode) == 0o600
    assert plane.admin_token not in repr(plane)


@pytest.mark.parametrize(
    ("blow", "directory_stays"),
    [(signal.SIGKILL, True), (signal.SIGTERM, False), (signal.SIGINT, False)],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
def test_no_child_outlives_its_parent(blow: signal.Signals, directory_stays: bool, tmp_path: Path) -> None:
    script = (
        "import json, signal, time\n"
        "from tests.controlplane import start_control_plane\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job has it ignored
        "with start_control_plane(openbao=True) as plane:\n"
        "    print(json.dumps([plane.pids(), str(plane.directory)]), flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        pids, directory = json.loads(parent.stdout.readline())
    assert len(pids) == 4
    assert all(alive(pid) for pid in pids.values())
    parent.send_signal(blow)
    parent.wait(10)
    assert eventually(lambda: not any(alive(pid) for pid in pids.values()), 5)
    assert Path(directory).exists() == directory_stays


def test_program_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    process = Process("broken", ["sh", "-c", "echo no such luck; exit 3"], tmp_path)
    process.start()
    with pytest.raises(NotReadyError, match="broken ended with 3:\nno such luck"):
        process.wait_until(lambda: False)


def test_ports_are_never_the_same_and_never_those_of_outgoing_connections() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    range_file = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if range_file.exists():
        assert max(ports) < int(range_file.read_text().split()[0])


@pytest.mark.parametrize("named", ["SIO_TEST_KUBECONFIG", "SIO_TEST_CONTEXT"])
def test_half_a_name_is_refused(
    named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(named, "something")
    with pytest.raises(UnnamedContextError, match="no context is used that was not named"), start_control_plane():
        pass
    assert main(["up"]) == 1
    assert "no context is used that was not named" in capsys.readouterr().err


def test_context_that_is_not_in_the_kubeconfig_is_refused(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIO_TEST_KUBECONFIG", str(plane.admin_kubeconfig))
    monkeypatch.setenv("SIO_TEST_CONTEXT", "another")
    with pytest.raises(UnnamedContextError, match="no usable context another"), start_control_plane():
        pass


def test_default_kubeconfig_is_never_used(plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "config"
    elsewhere.write_text(plane.admin_kubeconfig.read_text().replace(plane.url, "https://127.0.0.1:1"))
    monkeypatch.setenv("KUBECONFIG", str(elsewhere))
    assert plane.kubectl("get", "namespaces").returncode == 0


def test_named_cluster_is_used_and_left_running(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIO_TEST_KUBECONFIG", str(plane.admin_kubeconfig))
    monkeypatch.setenv("SIO_TEST_CONTEXT", plane.context)
    with start_control_plane() as named:
        assert named.url == plane.url
        assert named.pids() == {}
        assert named.api_writes()
        with pytest.raises(NotOursError):
            named.stop_api_server()
    assert plane.ready()


def test_programs_are_looked_for_where_envtest_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets, path = tmp_path / "assets", tmp_path / "path"
    for directory in (assets, path):
        directory.mkdir()
        (directory / "etcd").write_text("#!/bin/sh\necho etcd Version: 3.4.5\n")
        (directory / "etcd").chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    monkeypatch.setenv("PATH", str(path), prepend=os.pathsep)
    first = locate("etcd")
    assert first is not None
    assert (first.path, first.origin, first.version()) == (assets / "etcd", "KUBEBUILDER_ASSETS", "3.4.5")
    (assets / "etcd").chmod(0o644)
    second = locate("etcd")
    assert second is not None
    assert (second.path, second.origin) == (path / "etcd", "PATH")
