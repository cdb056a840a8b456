"""Words for the tests: a principal on each request, named by a header; a client."""

from types import SimpleNamespace

from starlette.testclient import TestClient

from serviceidentity_sdk.principal import Kind, Principal, attach

CALLERS = {
    "admin": Principal(Kind.TOKEN, "ada", roles=frozenset({"admin"}), permissions=frozenset({"*"})),
    "clerk": Principal(Kind.TOKEN, "carl", roles=frozenset({"clerk"}), permissions=frozenset({"orders:*"})),
    "reader": Principal(Kind.TOKEN, "rita", roles=frozenset({"clerk"}), permissions=frozenset({"orders:read"})),
    "nobody": Principal(Kind.CERTIFICATE, "svc"),
    # what a careless middleware may put there
    "letters": SimpleNamespace(kind=Kind.TOKEN, subject="x", roles="administrator", permissions="*"),
}


class Authenticated:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "lifespan":
            who = dict(scope["headers"]).get(b"x-test", b"").decode()
            if who == "letters":
                scope.setdefault("state", {})["principal"] = CALLERS[who]
            elif who:
                attach(scope, CALLERS[who])
        await self.app(scope, receive, send)


def get(app, path, who="", method="GET", **options):
    with TestClient(app) as client:
        return client.request(method, path, headers={"x-test": who} if who else {}, **options)
