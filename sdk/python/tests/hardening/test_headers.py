"""Headers by which browsers protect."""

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serviceidentity_sdk.hardening import CSP_PAGES, SecurityHeaders


async def plain(request):
    return PlainTextResponse("x", headers={"x-powered-by": "something", "server": "something 1.2"})


async def own(request):
    return PlainTextResponse("x", headers={"Cache-Control": "max-age=60", "Content-Security-Policy": "sandbox"})


async def broken(request):
    raise RuntimeError


def app():
    return Starlette(routes=[Route("/", plain), Route("/own", own), Route("/broken", broken)])


EXPECTED = {
    "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "x-permitted-cross-domain-policies": "none",
    "cache-control": "no-store",
}


def shown(answer):
    return {name: answer.headers.get(name) for name in EXPECTED}


def test_every_answer_has_them():
    client = TestClient(SecurityHeaders(app()), raise_server_exceptions=False)
    for path in ("/", "/none", "/broken"):
        assert shown(client.get(path)) == EXPECTED
    answer = client.get("/")
    assert "x-powered-by" not in answer.headers and "server" not in answer.headers


def test_one_line_switches_them_on():
    switched = app()
    switched.add_middleware(SecurityHeaders)
    assert shown(TestClient(switched).get("/")) == EXPECTED


def test_what_an_endpoint_says_itself_stays():
    headers = TestClient(SecurityHeaders(app())).get("/own").headers
    assert headers.get_list("cache-control") == ["max-age=60"]
    assert headers.get_list("content-security-policy") == ["sandbox"]


def test_other_policies():
    headers = TestClient(SecurityHeaders(app(), csp=CSP_PAGES, hsts=None)).get("/").headers
    assert headers["content-security-policy"] == CSP_PAGES
    assert "strict-transport-security" not in headers
    assert "content-security-policy" not in TestClient(SecurityHeaders(app(), csp=None)).get("/").headers
