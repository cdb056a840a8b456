"""A server that is told to end does so in time, whatever its clients do, and answers what is under way."""

import asyncio
import socket
import ssl
import threading
import time

import pytest
import uvicorn

from serviceidentity_sdk.mtls import ClientCertificate
from serviceidentity_sdk.mtls.server import Config

IN_TIME = 15  # seconds; asyncio waits 30 for a client to end TLS, uvicorn without end
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Application:
    """Answers as soon as it may."""

    def __init__(self):
        self.asked = threading.Event()
        self.may = threading.Event()
        self.may.set()

    async def __call__(self, _scope, _receive, send):
        self.asked.set()
        while not self.may.is_set():  # another thread says when
            await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})


@pytest.fixture
def served(mounted, pki):
    """A server that waits for requests under way without end; what it runs in; a client's connection."""
    _, tls = mounted(pki.leaf().files(roots=pki.roots))
    app = Application()
    options = {"lifespan": "off", "log_config": None, "timeout_graceful_shutdown": 60}
    config = Config(app, tls, host="127.0.0.1", port=0, client_certificate=ClientCertificate.OPTIONAL, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    context = ssl.create_default_context(cadata=pki.roots.decode())
    raw = socket.create_connection(server.servers[0].sockets[0].getsockname())
    with context.wrap_socket(raw, server_hostname="localhost") as connection:
        connection.settimeout(20)
        yield app, server, thread, connection
    server.should_exit = server.force_exit = True
    thread.join(20)


def ends(server, thread):
    server.should_exit = True  # what uvicorn does at SIGTERM
    thread.join(IN_TIME)
    return not thread.is_alive()


@pytest.mark.parametrize("used", [False, True])
def test_an_idle_client_does_not_keep_it(served, used):
    _, server, thread, connection = served
    if used:
        connection.sendall(REQUEST)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    assert ends(server, thread)


def test_a_request_under_way_is_answered(served):
    app, server, thread, connection = served
    app.may.clear()
    connection.sendall(REQUEST)
    assert app.asked.wait(20)
    server.should_exit = True
    thread.join(0.5)
    app.may.set()
    found = b""
    while not found.endswith(b"done"):
        found += connection.recv(4096) or pytest.fail("cut off")
    assert found.startswith(b"HTTP/1.1 200")
    thread.join(IN_TIME)  # the client is still connected
    assert not thread.is_alive()
