"""The lines in docs/sdk/mtls.md do what is said there."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdk.python.tests.volumes import Volume

PAGE = Path(__file__).parents[4] / "docs" / "sdk" / "mtls.md"
DEADLINE = 30  # seconds


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process):
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.02)


def test_the_documented_server_answers_the_documented_client(pki, tmp_path, capsys):
    port = free_port()
    paths = {}
    for side, service in (("server", "payment-service"), ("client", "order-service")):
        files = pki.leaf(service, uris=[f"spiffe://example.org/ns/shop/sa/{service}"]).files()
        roots = files.pop("ca.crt")
        paths[side] = tmp_path / side
        paths[side].mkdir()
        Volume(paths[side] / "tls", files)
        Volume(paths[side] / "trust", {"ca.crt": roots, "ca.crl": b"".join(map(_pem, pki.lists()))})

    def lines(number, side):
        code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[number]
        for old, new in (
            ("/identity", str(paths[side])),
            ("payment-service.shop.svc", "localhost"),
            ("8443", str(port)),
            ("0.0.0.0", "127.0.0.1"),
        ):
            assert old in code or side != "server" or old.startswith("payment")
            code = code.replace(old, new)
        return code

    server = subprocess.Popen([sys.executable, "-c", lines(0, "server")])
    try:
        wait_for(port, server)
        client = {}
        exec(lines(1, "client"), client)
        asyncio.run(client["main"]())
        assert capsys.readouterr().out == "{'caller': 'order-service'}\n"
        server.send_signal(signal.SIGTERM)
        assert server.wait(DEADLINE) in {0, -signal.SIGTERM}
    finally:
        server.kill()
        server.wait()


def _pem(found):
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    return found.public_bytes(Encoding.PEM)


@pytest.mark.parametrize("name", re.findall(r"`((?:tls|request\.state)\.\w+)", PAGE.read_text()))
def test_names_on_the_page_exist(name):
    from serviceidentity_sdk.mtls import MutualTLS  # noqa: PLC0415

    assert name.startswith("request.state.") or name in {"tls.crt", "tls.key"} or hasattr(MutualTLS, name[4:])
