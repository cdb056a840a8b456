"""Rules on routes of Starlette."""

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from sdk.python.tests.authz.apps import Authenticated, get
from serviceidentity_sdk.authz import (
    DenyByDefault,
    Guard,
    UnprotectedRoutesError,
    authenticated,
    authorize,
    check_permission,
    protect,
    public,
    require_rules,
    unprotected,
)


@authorize("admin", "owner")
async def admins(request):
    return PlainTextResponse("admins")


@check_permission("orders:read", "orders:list")
def orders(request):
    return JSONResponse({"in": "a thread"})


@authorize("clerk")
@check_permission("orders:write")
async def both(request):
    return PlainTextResponse("both")


@authenticated()
async def callers(request):
    return PlainTextResponse("callers")


@public()
async def everyone(request):
    return PlainTextResponse("everyone")


async def forgotten(request):
    return PlainTextResponse("forgotten")


class Methods(HTTPEndpoint):
    @authorize("admin")
    async def get(self, request):
        return PlainTextResponse("got")


class Careless(HTTPEndpoint):
    @authorize("admin")
    async def get(self, request):
        return PlainTextResponse("got")

    async def delete(self, request):
        return PlainTextResponse("deleted")


@check_permission("orders:watch")
async def socket(websocket):
    await websocket.accept()
    await websocket.send_text("in")
    await websocket.close()


def app_of(*routes, **options):
    return Starlette(routes=list(routes), middleware=[Middleware(Authenticated)], **options)


APP = app_of(
    Route("/admins", admins),
    Route("/orders", orders),
    Route("/both", both),
    Route("/callers", callers),
    Route("/everyone", everyone),
    Route("/methods", Methods),
    WebSocketRoute("/socket", socket),
)


@pytest.mark.parametrize(
    ("path", "who", "status"),
    [
        ("/admins", "", 401),
        ("/admins", "clerk", 403),
        ("/admins", "letters", 403),
        ("/admins", "admin", 200),
        ("/orders", "", 401),
        ("/orders", "reader", 403),
        ("/orders", "letters", 403),
        ("/orders", "clerk", 200),
        ("/orders", "admin", 200),
        ("/both", "admin", 403),
        ("/both", "reader", 403),
        ("/both", "clerk", 200),
        ("/callers", "", 401),
        ("/callers", "nobody", 200),
        ("/everyone", "", 200),
        ("/methods", "clerk", 403),
        ("/methods", "admin", 200),
    ],
)
def test_who_gets_in(path, who, status):
    assert get(APP, path, who).status_code == status


def test_the_answer_says_what_is_required_and_what_the_caller_has():
    assert get(APP, "/orders", "reader").json() == {
        "error": "Insufficient permissions",
        "required": ["orders:read", "orders:list"],
        "have": ["orders:read"],
    }
    assert get(APP, "/admins", "clerk").json() == {
        "error": "Insufficient permissions",
        "required": ["admin", "owner"],
        "have": ["clerk"],
    }
    unknown = get(APP, "/admins")
    assert unknown.json() == {"error": "Not authenticated"}
    assert unknown.headers["www-authenticate"] == "Bearer"


def test_a_web_socket_is_refused_before_it_is_accepted():
    client = TestClient(APP)
    with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)):
        with client.websocket_connect("/socket", headers={"x-test": "reader"}):
            pass
    with client.websocket_connect("/socket", headers={"x-test": "clerk"}) as opened:
        assert opened.receive_text() == "in"


@pytest.mark.parametrize("make", [authorize, check_permission])
@pytest.mark.parametrize("names", [(), ("",), (["admin"],), (None,)])
def test_a_rule_that_says_nothing_is_an_error_at_once(make, names):
    with pytest.raises(ValueError, match="name the"):
        make(*names)


@pytest.mark.parametrize("text", ["ord*", "*:read", "orders::read", "orders:read "])
def test_what_is_required_must_be_a_permission(text):
    with pytest.raises(ValueError, match="name the permissions"):
        check_permission(text)


def test_a_class_is_not_decorated():
    with pytest.raises(TypeError, match="methods"):
        authorize("admin")(Careless)


def test_routes_without_a_rule_are_named():
    app = app_of(
        Route("/ok", everyone),
        Route("/forgotten", forgotten),
        Route("/careless", Careless),
        Mount("/below", routes=[Route("/forgotten", forgotten), Route("/ok", callers)]),
        Mount("/files", app=PlainTextResponse("file")),
        Mount("/guarded", app=PlainTextResponse("file"), middleware=[Middleware(Guard, rule=authorize("admin"))]),
        Mount("/all", routes=[Route("/x", forgotten)], middleware=[Middleware(Guard, rule=authenticated())]),
        Route("/alone", forgotten, middleware=[Middleware(Guard, rule=authorize("admin"))]),
    )
    assert set(unprotected(app)) == {"/forgotten", "/careless", "/below/forgotten", "/files"}
    assert set(unprotected(app, public=["/forgotten"])) == {"/careless", "/below/forgotten", "/files"}
    with pytest.raises(UnprotectedRoutesError, match="/below/forgotten"):
        require_rules(app)
    assert get(app, "/guarded/x", "clerk").status_code == 403
    assert get(app, "/guarded/x", "admin").text == "file"
    assert get(app, "/all/x").status_code == 401


def test_an_application_with_an_unprotected_route_does_not_start():
    app = app_of(Route("/forgotten", forgotten))
    protect(app)
    with pytest.raises(UnprotectedRoutesError, match="/forgotten"):
        get(app, "/forgotten")


def test_a_server_is_told_that_the_start_failed():
    """An exception alone reads as an application that knows no lifespan: uvicorn would serve it."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "lifespan.startup"}

    app = app_of(Route("/forgotten", forgotten))
    protect(app)
    with pytest.raises(UnprotectedRoutesError):
        _run(app({"type": "lifespan", "state": {}}, receive, send))
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "/forgotten" in sent[0]["message"]


def test_without_lifespan_events_the_first_request_fails():
    app = app_of(Route("/ok", everyone), Route("/forgotten", forgotten))
    protect(app)
    client = TestClient(app)  # no with: no lifespan
    for _ in range(2):
        with pytest.raises(UnprotectedRoutesError):
            client.get("/ok")


def test_a_route_that_was_added_later_without_a_rule_shows_nothing():
    app = app_of(Route("/ok", everyone))
    protect(app, public=["/open"])
    with TestClient(app) as client:
        assert client.get("/ok").text == "everyone"
        app.router.routes.append(Route("/late", forgotten))
        app.router.routes.append(Route("/open", forgotten_too))
        app.router.routes.append(Route("/fine", callers))
        late = client.get("/late")
        assert (late.status_code, late.json()) == (403, {"error": "No rule allows this"})
        assert client.get("/open").text == "open"
        assert client.get("/fine", headers={"x-test": "clerk"}).text == "callers"
        assert client.get("/ok").text == "everyone"


def test_a_web_socket_without_a_rule_is_not_accepted():
    async def opened(websocket):
        await websocket.accept()

    app = app_of(Route("/ok", everyone))
    protect(app)
    with TestClient(app) as client:
        app.router.routes.append(WebSocketRoute("/late", opened))
        with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)):
            with client.websocket_connect("/late"):
                pass


def test_the_routers_own_answers_pass():
    app = app_of(Route("/ok", everyone), Mount("/below", routes=[Route("/ok", everyone)]))
    app.add_middleware(DenyByDefault)
    assert get(app, "/none").status_code == 404
    assert get(app, "/below/none").status_code == 404
    assert get(app, "/ok", method="POST").status_code == 405
    assert get(app, "/ok/").url.path == "/ok"


async def forgotten_too(request):
    return PlainTextResponse("open")


def _run(coroutine):
    return asyncio.run(coroutine)
