"""Rules as dependencies of FastAPI."""

from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from pydantic import BaseModel
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from sdk.python.tests.authz.apps import Authenticated, get
from serviceidentity_sdk.authz import (
    UnprotectedRoutesError,
    authorize,
    check_permission,
    protect,
    public,
    unprotected,
)

DOCS = ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")


class Order(BaseModel):
    item: str


def new_app(**options):
    app = FastAPI(**options)
    app.add_middleware(Authenticated)

    @app.get("/admins", dependencies=[Depends(authorize("admin"))])
    async def admins():
        return "admins"

    @app.post("/orders")
    def create(order: Order, _: Annotated[None, Depends(check_permission("orders:create"))]):
        return order.item

    @app.get("/health", dependencies=[Depends(public())])
    def health():
        return "fine"

    return app


def test_who_gets_in():
    app = new_app()
    protect(app, public=DOCS)
    assert get(app, "/admins").status_code == 401
    assert get(app, "/admins").json() == {"error": "Not authenticated"}
    assert get(app, "/admins").headers["www-authenticate"] == "Bearer"
    assert get(app, "/admins", "admin").json() == "admins"
    assert get(app, "/health").json() == "fine"
    assert get(app, "/docs").status_code == 200
    refused = get(app, "/orders", "reader", "POST", json={"item": "x"})
    assert (refused.status_code, refused.json()) == (
        403,
        {"error": "Insufficient permissions", "required": ["orders:create"], "have": ["orders:read"]},
    )
    assert get(app, "/orders", "clerk", "POST", json={"item": "x"}).json() == "x"


def test_a_body_that_is_not_valid_is_told_to_who_may_send_one():
    app = new_app()
    protect(app, public=DOCS)
    assert get(app, "/orders", "clerk", "POST", content=b"{").status_code == 422
    assert get(app, "/orders", "clerk", "POST", json={}).status_code == 422
    assert get(app, "/orders", "reader", "POST", json={}).status_code == 403


def test_without_protect_the_body_is_below_detail():
    assert get(new_app(), "/admins").json() == {"detail": {"error": "Not authenticated"}}


def test_an_application_with_an_unprotected_route_does_not_start():
    app = new_app()

    @app.get("/forgotten")
    def forgotten():
        return "forgotten"

    protect(app, public=DOCS)
    with pytest.raises(UnprotectedRoutesError, match="routes without a rule: /forgotten$"):
        get(app, "/health")


def test_rules_of_routers_count_for_what_is_in_them():
    ruled = APIRouter(prefix="/ruled", dependencies=[Depends(authorize("admin"))])
    ruled.add_api_route("/one", lambda: "one")
    inner = APIRouter(prefix="/inner")
    inner.add_api_route("/two", lambda: "two")
    ruled.include_router(inner)
    plain = APIRouter(prefix="/plain")
    plain.add_api_route("/three", lambda: "three")
    plain.add_api_route("/four", lambda: "four", dependencies=[Depends(authorize("admin"))])
    app = new_app(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(ruled)
    app.include_router(plain, prefix="/v1")
    assert unprotected(app) == ("/v1/plain/three",)
    protect(app, public=["/v1/plain/three"])
    assert get(app, "/ruled/inner/two").status_code == 401
    assert get(app, "/ruled/inner/two", "admin").json() == "two"
    assert get(app, "/v1/plain/three").json() == "three"


def test_a_rule_of_the_application_counts_for_all():
    app = new_app(dependencies=[Depends(authorize("admin"))], docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/more", lambda: "more")
    assert unprotected(app) == ()
    assert get(app, "/more").status_code == 401


def test_a_rule_below_another_dependency_counts():
    def session(_: Annotated[None, Depends(authorize("admin"))]):
        return "session"

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/x", lambda found: found, dependencies=[Depends(session)])
    assert unprotected(app) == ()


def test_folders_of_files_need_a_rule_too(tmp_path):
    (tmp_path / "index.html").write_text("page")
    pages = APIRouter(prefix="/pages")
    pages.frontend("/open", directory=tmp_path)
    ruled = APIRouter(prefix="/ruled", dependencies=[Depends(authorize("admin"))])
    ruled.frontend("/files", directory=tmp_path)
    app = new_app(docs_url=None, redoc_url=None, openapi_url=None)
    app.frontend("/ui", directory=tmp_path)
    app.include_router(pages)
    app.include_router(ruled)
    assert set(unprotected(app)) == {"/ui", "/pages/open"}
    protect(app, public=["/ui", "/pages/open"])
    assert get(app, "/pages/open/").text == "page"
    assert get(app, "/ruled/files/").status_code == 401
    assert get(app, "/ruled/files/", "admin").text == "page"


def test_a_web_socket_is_refused():
    app = new_app()

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, _: Annotated[None, Depends(authorize("admin"))]):
        await websocket.accept()
        await websocket.send_text("in")

    protect(app, public=DOCS)
    with TestClient(app) as client:
        with pytest.raises(WebSocketDisconnect) as refused:
            with client.websocket_connect("/socket"):
                pass
        assert refused.value.code == 1008
        with client.websocket_connect("/socket", headers={"x-test": "admin"}) as opened:
            assert opened.receive_text() == "in"
