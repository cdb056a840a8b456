"""A service behind uvicorn on loopback, in a thread of its own, and clients for it."""

import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from serviceidentity_sdk.mtls import ANYONE, MutualTLSMiddleware
from serviceidentity_sdk.mtls.server import Config

DEADLINE = 20  # seconds


async def who(scope, receive, send):
    """Answer with who calls, as the application sees it; `/slow` in two parts."""
    if scope["type"] != "http":
        return
    state, peer = scope.get("state", {}), scope.get("state", {}).get("peer")
    body = {
        "peer": peer and {name: str(getattr(peer, name)) for name in peer.__dataclass_fields__},
        "principal": state["principal"].subject if "principal" in state else None,
        "tls_version": scope["extensions"]["tls"]["tls_version"],
    }
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


@contextmanager
def serving(tls, app=who, *, allowed=ANYONE, exempt=(), clock=None, **options):
    """Serve `app` behind the middleware; yields the port."""
    import uvicorn  # noqa: PLC0415

    clocks = {} if clock is None else {"clock": clock}
    guarded = MutualTLSMiddleware(app, tls, allowed=allowed, exempt=exempt, **clocks)
    config = Config(guarded, tls, host="127.0.0.1", port=0, lifespan="off", log_config=None, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + DEADLINE
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(DEADLINE)
        assert not thread.is_alive()


def shown_certificate(port, context):
    """Return the fingerprint of the certificate that a new handshake gets to see."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return fingerprint(x509.load_der_x509_certificate(connection.getpeercert(binary_form=True)))


def fingerprint(certificate):
    return certificate.fingerprint(hashes.SHA256()).hex()


def bare_context(roots, *certificate):
    """A client that is none of ours: with these roots, and with a certificate or without one."""
    context = ssl.create_default_context(cadata=roots.decode())
    if certificate:
        context.load_cert_chain(*certificate)
    return context


def get(port, context, path="/"):
    with httpx.Client(verify=context, trust_env=False, timeout=DEADLINE) as client:
        return client.get(f"https://localhost:{port}{path}")
