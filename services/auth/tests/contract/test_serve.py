"""`auth-service serve`, as a Pod runs it."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from auth_service.__main__ import main
from sdk.python.tests.ca import Pki, spiffe_id
from sdk.python.tests.volumes import Volume
from services.auth.tests.contract.servers import PASSWORD, eventually
from tests.controlplane.processes import free_port

BODY = {"username": "alice", "password": PASSWORD}


@pytest.fixture
def pki():
    return Pki()


@contextmanager
def serve(env, directory):
    port = free_port()
    command = [sys.executable, "-m", "auth_service", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (directory / "log").open("wb") as log:
        child = subprocess.Popen(command, env=os.environ | env, stderr=log, stdout=log)
        try:
            yield f"https://localhost:{port}", child
        finally:
            child.kill()
            child.wait()


def client(pki, directory, service=None):
    context = ssl.create_default_context(cadata=pki.roots.decode())
    if service:
        files = pki.leaf(service).files(roots=pki.roots)
        for name in ("tls.crt", "tls.key"):
            (directory / f"{service}.{name}").write_bytes(files[name])
        context.load_cert_chain(directory / f"{service}.tls.crt", directory / f"{service}.tls.key")
    return httpx.Client(verify=context, trust_env=False, timeout=30)


def answers(found, url):
    try:
        return found.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def env(bed, signing, redis_server, pki, tmp_path):
    login = Volume(tmp_path / "database", bed.new_user())
    tls = Volume(tmp_path / "tls", pki.leaf("auth-service").files(roots=pki.roots))
    return {
        "AUTH_JWT": str(signing.path),
        "AUTH_DATABASE": bed.conninfo,
        "AUTH_DATABASE_LOGIN": str(login.path),
        "AUTH_REDIS": f"unix://{redis_server.path}",
        "AUTH_TLS": str(tls.path),
    }


def test_it_serves_with_the_mounted_certificate_and_ends_when_told(env, pki, tmp_path):
    with serve(env, tmp_path) as (url, child), client(pki, tmp_path) as found:
        eventually(lambda: answers(found, url), 30)
        token = found.post(f"{url}/login", json=BODY).json()["access_token"]
        assert found.get(f"{url}/me", headers={"authorization": f"Bearer {token}"}).json()["username"] == "alice"
        assert "server" not in found.get(f"{url}/me").headers
        found.close()
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) in (0, -signal.SIGTERM)
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "alice" not in log
    assert token not in log


def test_it_ends_in_time_with_a_client_connected_and_answers_what_is_under_way(env, pki, tmp_path):
    with serve(env, tmp_path) as (url, child), client(pki, tmp_path) as idle, client(pki, tmp_path) as busy:
        eventually(lambda: answers(idle, url), 30)
        busy.get(f"{url}/healthz")
        with ThreadPoolExecutor(1) as pool:

            def body():
                yield b'{"username": "alice", '
                child.send_signal(signal.SIGTERM)
                time.sleep(0.5)  # the request is under way while the server ends
                yield f'"password": "{PASSWORD}"}}'.encode()

            headers = {"content-type": "application/json"}
            found = pool.submit(busy.post, f"{url}/login", content=body(), headers=headers)
            assert found.result(20).status_code == 200
        assert child.wait(20) in (0, -signal.SIGTERM)
        assert not idle.is_closed
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_access_log_names_services_and_credentials_and_no_customer(env, pki, tmp_path, signing):
    env |= {"AUTH_CALLERS": spiffe_id("gateway"), "AUTH_ACCESS_LOG": "on", "AUTH_ACCESS_SECONDS": "20"}
    with serve(env, tmp_path) as (url, _child), client(pki, tmp_path) as nobody:
        eventually(lambda: answers(nobody, url), 30)
        nobody.post(f"{url}/login", json=BODY)
        with client(pki, tmp_path, "gateway") as gateway:
            assert gateway.post(f"{url}/login", json=BODY).json()["expires_in"] == 20
            gateway.get(f"{url}/alice")
    log = (tmp_path / "log").read_text()
    assert "alice" not in log
    refused, good, elsewhere = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
    assert (refused["status"], refused["reason"], "caller" in refused) == (401, "Client certificate required", False)
    assert (good["status"], good["caller"], good["action"]) == (200, "gateway", "POST /login")
    assert (good["token"], len(good["certificate"])) == (signing.pair.kid[:8], 8)
    assert good["database"].startswith("v-auth-")
    assert (elsewhere["status"], elsewhere["action"]) == (401, "GET other")


def test_with_callers_only_they_may_and_probes(env, pki, tmp_path):
    address = tmp_path / "redis"  # an address with a password in it comes as a file
    address.write_text(env.pop("AUTH_REDIS"))
    env |= {"AUTH_CALLERS": spiffe_id("gateway"), "AUTH_REDIS_FILE": str(address)}
    with serve(env, tmp_path) as (url, _child), client(pki, tmp_path) as nobody:
        eventually(lambda: answers(nobody, url), 30)
        assert nobody.get(f"{url}/readyz").status_code == 200
        assert nobody.post(f"{url}/login", json=BODY).status_code == 401
        with client(pki, tmp_path, "order-service") as other:
            assert other.post(f"{url}/login", json=BODY).status_code == 403
        with client(pki, tmp_path, "gateway") as gateway:
            found = gateway.post(f"{url}/login", json=BODY)
            assert found.status_code == 200
            token = found.json()["access_token"]
            me = gateway.get(f"{url}/me", headers={"authorization": f"Bearer {token}"})
            assert me.json()["username"] == "alice"


def test_what_is_missing_is_said_at_the_start(env, monkeypatch, capsys):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AUTH_TLS")
    assert main(["serve"]) == 1
    assert "AUTH_TLS" in capsys.readouterr().err
    monkeypatch.setenv("AUTH_TLS", env["AUTH_TLS"])
    monkeypatch.setenv("AUTH_JWT", "/nowhere")
    assert main(["serve"]) == 1
    assert "/nowhere" in capsys.readouterr().err
