"""The lines in docs/sdk/service.md do what is said there: two processes, with everything that is mounted into them."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from sdk.python.tests.jwt.tokens import Pair, b64, claims, jwks, token
from sdk.python.tests.policy.signing import bundle, make_key, policy, signed
from sdk.python.tests.volumes import Volume

PAGES = Path(__file__).parents[3] / "docs" / "sdk"
DEADLINE = 30  # seconds
SPIFFE_ID = "spiffe://example.org/ns/shop/sa/{}".format


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def mounted(pki, tmp_path):
    """Mount what the page says, for both services; return their directories and what signs users' tokens."""
    users, (policies, published) = Pair("ES256"), make_key()
    hmac_key = {"kty": "oct", "alg": "HS256", "kid": "k1", "k": b64(b"\x07" * 32), "state": "Active"}
    hmac_key["changed"] = "2026-01-15T12:00:00Z"
    for service in ("payment-service", "order-service"):
        files = pki.leaf(service, uris=[SPIFFE_ID(service)]).files()
        folder = tmp_path / service
        folder.mkdir()
        Volume(folder / "trust", {"ca.crt": files.pop("ca.crt"), "jwks.json": published.encode()})
        Volume(folder / "tls", files)
    payment, order = tmp_path / "payment-service", tmp_path / "order-service"
    keyring = {"services": {"order-service": {"keys": [hmac_key]}}}
    Volume(payment / "hmac-keyring", {"keyring.json": json.dumps(keyring).encode()})
    Volume(order / "hmac", {"keys.json": json.dumps({"keys": [hmac_key]}).encode()})
    Volume(payment / "jwks", {"jwks.json": jwks(users.published()).encode()})
    rules = bundle(policy(("Allow", "principal.permitted")), service="shop/payment-service")
    Volume(payment / "policy", {"policy.jws": signed(policies, rules).encode()})
    return payment, order, users


def lines(number, folder, port):
    code = re.findall(r"```python\n(.*?)```", (PAGES / "service.md").read_text(), re.DOTALL)[number]
    for old, new in (
        ("/identity", str(folder)),
        ("payment-service.shop.svc", "localhost"),
        ("8443", str(port)),
        ("0.0.0.0", "127.0.0.1"),
    ):
        code = code.replace(old, new)
    return code


@pytest.fixture
def server(mounted):
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", lines(0, mounted[0], port)])
    deadline = time.monotonic() + DEADLINE
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.02)
        yield port
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) in {0, -signal.SIGTERM}
    finally:
        process.kill()
        process.wait()


def issued(pair, *permissions):
    now = int(time.time())
    return token(claims(iat=now, nbf=now, exp=now + 900, permissions=list(permissions)), pair)


def test_a_whole_service_and_the_one_that_calls_it(mounted, server):
    _, order, users = mounted
    use = """
import asyncio, sys
for token in sys.stdin.read().split():
    try:
        print(asyncio.run(charge(12.5, token)))
    except httpx.HTTPStatusError as error:
        print(error.response.status_code, error.response.text)
"""
    tokens = "\n".join([issued(users, "payments:create"), issued(users, "orders:read"), issued(Pair("ES256"), "*")])
    program = [sys.executable, "-c", lines(1, order, server) + use]
    done = subprocess.run(program, input=tokens, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.stdout.splitlines() == [
        "{'service': 'order-service', 'user': 'user-1'}",
        '403 {"error":"Denied by policy","reason":"No matching policy"}',
        '401 {"error":"Invalid token"}',
    ], done.stderr


def test_each_credential_is_asked_for(mounted, server, pki):
    def answer(path="/charge", *, service=None, method="POST"):
        context = httpx.create_ssl_context(verify=False)
        if service:
            files = pki.leaf(service, uris=[SPIFFE_ID(service)]).files()
            for name, content in files.items():
                (mounted[1] / name).write_bytes(content)
            context.load_cert_chain(mounted[1] / "tls.crt", mounted[1] / "tls.key")
        found = httpx.request(method, f"https://localhost:{server}{path}", verify=context)
        return found.status_code, found.json()

    assert answer("/healthz", method="GET") == (200, "ok")
    assert answer() == (401, {"error": "Client certificate required"})
    assert answer(service="report-service") == (403, {"error": "Caller not allowed"})
    assert answer(service="order-service") == (401, {"error": "Missing service authentication"})
