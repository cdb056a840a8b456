"""uvicorn's configuration and protocols, apart from real connections."""

import asyncio

import pytest

from serviceidentity_sdk.mtls.server import Config, with_peer


class Protocol(asyncio.Protocol):
    """What uvicorn's protocols have in common, for HTTP and for WebSockets."""

    def __init__(self, app):
        self.app = app
        self.made = []

    def connection_made(self, transport):
        self.made.append(transport)


class Connection:
    """A TLS connection whose peer showed no certificate, or a transport without TLS."""

    def __init__(self, tls):
        self.tls = tls

    def get_extra_info(self, name):
        return {"ssl_object": self}[name] if self.tls else None

    def getpeercert(self, *, binary_form):
        assert binary_form

    def cipher(self):
        return ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)

    def version(self):
        return "TLSv1.3"


def scope_seen(transport, scope):
    seen = []

    async def application(scope, _receive, _send):
        seen.append(scope)

    protocol = with_peer(Protocol)(application)
    protocol.connection_made(transport)
    assert protocol.made == [transport]
    asyncio.run(protocol.app(scope, None, None))
    return seen[0]


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_each_request_of_a_connection_carries_the_extension_beside_others(kind):
    others = {"websocket.http.response": {}}
    found = scope_seen(Connection(tls=True), {"type": kind, "extensions": dict(others)})["extensions"]
    tls = found.pop("tls")
    assert found == others
    assert (tls["client_cert_chain"], tls["tls_version"], tls["cipher_suite"]) == ((), 0x0304, 0x1302)


def test_without_tls_there_is_no_extension():
    assert "extensions" not in scope_seen(Connection(tls=False), {"type": "http"})


@pytest.mark.parametrize("option", [{"ssl_keyfile": "x"}, {"ssl_cert_reqs": 0}, {"reload": True}, {"http2": True}])
def test_options_that_would_get_round_it_are_refused(mounted, pki, option):
    _, tls = mounted(pki.leaf().files())
    with pytest.raises(ValueError, match="can't be used with mutual TLS"):
        Config(lambda: None, tls, **option)


def test_connections_are_kept_longer_than_clients_keep_them(mounted, pki, monkeypatch):
    _, tls = mounted(pki.leaf().files())
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    config = Config(lambda: None, tls, log_config=None)
    assert config.timeout_keep_alive > 5 and config.workers == 1
    assert config.timeout_graceful_shutdown == 20  # a Pod has 30 seconds before it is killed
