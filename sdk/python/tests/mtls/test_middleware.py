"""The middleware as ASGI sees it: every kind of scope, and servers that say less than uvicorn."""

import asyncio
import json

import pytest

from sdk.python.tests.ca import pem, spiffe_id
from serviceidentity_sdk.mtls import ANYONE, MutualTLSMiddleware, Peers
from serviceidentity_sdk.principal import Kind, principal_of

ORDER = spiffe_id("order-service")


def call(app, scope):
    """Return what the application sent, and the scope that it saw."""
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


class Application:
    def __init__(self):
        self.seen = []

    async def __call__(self, scope, _receive, _send):
        self.seen.append(scope)


@pytest.fixture
def guarded(pki, mounted):
    """The middleware for a caller that is allowed, around an application that notes what reaches it."""
    _, tls = mounted(pki.leaf().files())

    def make(**options):
        application = Application()
        return application, MutualTLSMiddleware(application, tls, **{"allowed": Peers(spiffe_ids=[ORDER]), **options})

    return make


def scope_of(leaf, kind="http", extensions=(), **more):
    chain = (
        ()
        if leaf is None
        else tuple(pem(part).decode() for part in (leaf.certificate, leaf.pki.intermediate.certificate))
    )
    return {
        "type": kind,
        "path": "/",
        "headers": [],
        "extensions": {"tls": {"client_cert_chain": chain}, **dict(extensions)},
        **more,
    }


def test_a_request_carries_peer_and_principal(pki, guarded):
    leaf = pki.leaf("order-service")
    application, middleware = guarded()
    state = {"kept": 1}
    assert call(middleware, scope_of(leaf, state=state)) == []
    (scope,) = application.seen
    assert scope["state"]["kept"] == 1 and scope["state"]["peer"].serial_number == leaf.serial
    principal = principal_of(scope, Kind.CERTIFICATE)
    assert (principal.subject, principal.spiffe_id) == ("order-service", ORDER)
    assert principal.claims["serial_number"] == leaf.serial
    assert state == {"kept": 1}  # what the lifespan handed out is not written to


@pytest.mark.parametrize(
    "change",
    [
        {"extensions": {}},
        {"extensions": None},
        {"extensions": {"tls": None}},
        {"extensions": {"tls": {}}},
        {"extensions": {"tls": {"client_cert_chain": None}}},
        {"extensions": {"tls": {"client_cert_chain": []}}},
    ],
    ids=str,
)
def test_a_server_that_says_nothing_of_tls_lets_nobody_in(pki, guarded, change):
    application, middleware = guarded(allowed=ANYONE)
    start, body = call(middleware, {**scope_of(pki.leaf()), **change})
    assert start["status"] == 401 and json.loads(body["body"]) == {"error": "Client certificate required"}
    assert application.seen == []


def test_headers_of_a_proxy_are_not_believed(pki, guarded):
    headers = [(b"x-forwarded-client-cert", f"URI={ORDER}".encode()), (b"x-ssl-client-verify", b"SUCCESS")]
    application, middleware = guarded()
    assert call(middleware, scope_of(None, headers=headers))[0]["status"] == 401
    assert application.seen == []


def test_a_chain_that_is_none_is_refused(guarded):
    application, middleware = guarded(allowed=ANYONE)
    scope = scope_of(None, extensions={"tls": {"client_cert_chain": ["hunter2"]}})
    start, body = call(middleware, scope)
    assert start["status"] == 401 and json.loads(body["body"]) == {"error": "Client certificate not trusted"}
    assert application.seen == []


def test_websockets_are_refused_before_they_are_accepted(pki, guarded):
    application, middleware = guarded()
    other = pki.leaf("payment-service")
    (closed,) = call(middleware, scope_of(other, "websocket"))
    assert closed == {"type": "websocket.close", "code": 1008, "reason": "Caller not allowed"}
    answers = {"websocket.http.response": {}}
    start, body = call(middleware, scope_of(other, "websocket", answers))
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
    assert body["type"] == "websocket.http.response.body"
    assert call(middleware, scope_of(None, "websocket", answers))[0]["status"] == 401
    assert application.seen == []
    assert call(middleware, scope_of(pki.leaf("order-service"), "websocket")) == []
    assert len(application.seen) == 1


@pytest.mark.parametrize(("version", "closes"), [("1.1", True), ("2", False)])
def test_only_http_1_is_told_to_close_its_connection(guarded, version, closes):
    _, middleware = guarded()
    start, _body = call(middleware, scope_of(None, http_version=version))
    assert ((b"connection", b"close") in start["headers"]) is closes


def test_the_lifespan_passes(guarded):
    application, middleware = guarded()
    assert call(middleware, {"type": "lifespan"}) == []
    assert len(application.seen) == 1


def test_an_exempt_path_is_open_and_says_who_calls_where_that_is_known(pki, guarded):
    application, middleware = guarded(exempt=["/"])
    call(middleware, scope_of(pki.leaf("order-service")))
    call(middleware, scope_of(None))
    assert ["peer" in (scope.get("state") or {}) for scope in application.seen] == [True, False]
    with pytest.raises(TypeError):
        guarded(exempt="/healthz")


def test_refusals_are_logged_with_a_name_and_a_serial_number(pki, guarded, caplog):
    leaf = pki.leaf("payment-service")
    _, middleware = guarded()
    call(middleware, scope_of(leaf))
    assert caplog.messages == [f"refused payment-service (serial {leaf.serial}): not an allowed caller"]
