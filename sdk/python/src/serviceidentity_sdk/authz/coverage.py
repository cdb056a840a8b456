"""Deny by default: a route without a rule stops the application from starting, and is answered with 403."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

try:
    from starlette.applications import Starlette
    from starlette.endpoints import HTTPEndpoint
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise ImportError("serviceidentity_sdk.authz needs: pip install 'serviceidentity-sdk[asgi]'") from error

from serviceidentity_sdk.authz.guards import MARK, Guard, RefusedError, Rule, answer_refused, refuse
from serviceidentity_sdk.authz.rules import NO_RULE

_METHODS = ("get", "head", "post", "put", "patch", "delete", "options")
_METHOD_NOT_ALLOWED = 405  # the router's own answer: no endpoint ran


class UnprotectedRoutesError(RuntimeError):
    """Routes have no rule. The message names them."""


@dataclass(frozen=True, slots=True)
class Found:
    """A route as a request sees it: its whole path, its endpoint, and whether a rule stands before it."""

    path: str
    endpoint: Any
    ruled: bool


def routes_of(app: Any) -> tuple[Found, ...]:
    """Return all routes of a Starlette or FastAPI application, those of its mounts too."""
    return (*_walk(getattr(app, "routes", ()), "", ruled=False), *_front_ends(app))


def unprotected(app: Any, public: Collection[str] = ()) -> tuple[str, ...]:
    """Return the paths of routes that no rule stands before, but for those in `public`; for a test of the service."""
    return tuple(found.path for found in routes_of(app) if not found.ruled and found.path not in public)


def require_rules(app: Any, public: Collection[str] = ()) -> None:
    """Raise UnprotectedRoutesError when a route has no rule; `public` are paths as the routes spell them."""
    if missing := unprotected(app, public):
        raise UnprotectedRoutesError(f"routes without a rule: {', '.join(sorted(set(missing)))}")


def protect(app: Starlette, public: Collection[str] = ()) -> None:
    """Deny by default, and answer refusals of FastAPI dependencies with their own body.

    Add it before the middlewares that authenticate are added, or after: it looks at routes, not at credentials.
    """
    app.add_exception_handler(RefusedError, answer_refused)
    app.add_middleware(DenyByDefault, public=public)


class DenyByDefault:
    """Middleware: no start with an unprotected route, and 403 for one that was added later.

    The check runs when the application starts or, with a server that sends no lifespan events, at the first request,
    which then fails as every one after it. The answer of an endpoint that came later and has no rule is withheld: the
    endpoint has run by then, so add routes before the start.
    """

    def __init__(self, app: ASGIApp, public: Collection[str] = ()) -> None:
        self.app = app
        self._public = frozenset(public)
        self._allowed: frozenset[int] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._start(scope, receive, send)
            return
        application = scope.get("app")
        if self._allowed is None:
            require_rules(application, self._public)
            self._look(application)
        await self.app(scope, receive, self._sender(application, scope, receive, send))

    async def _start(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            require_rules(scope.get("app"), self._public)
        except UnprotectedRoutesError as error:
            await receive()
            # Raising alone is not enough: servers take that for an application that knows no lifespan, and go on.
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        self._look(scope.get("app"))
        await self.app(scope, receive, send)

    def _sender(self, application: Any, scope: Scope, receive: Receive, send: Send) -> Send:
        withheld = False

        async def sender(message: Message) -> None:
            nonlocal withheld
            if message["type"] in ("http.response.start", "websocket.accept"):
                withheld = message.get("status") != _METHOD_NOT_ALLOWED and not self._knows(application, scope)
                if withheld:
                    await refuse(NO_RULE, scope, receive, send)
            if not withheld:
                await send(message)

        return sender

    def _knows(self, application: Any, scope: Scope) -> bool:
        """Say whether the endpoint of a request has a rule; where no route was found, there is none to have one."""
        endpoint = scope.get("endpoint")
        if endpoint is None or id(endpoint) in (self._allowed or ()):
            return True
        self._look(application)
        return id(endpoint) in (self._allowed or ())

    def _look(self, application: Any) -> None:
        found = routes_of(application)
        denied = {id(one.endpoint) for one in found if not (one.ruled or one.path in self._public)}
        self._allowed = frozenset(id(one.endpoint) for one in found) - denied


def _walk(routes: Collection[BaseRoute], prefix: str, *, ruled: bool) -> Iterator[Found]:
    for route in _flat(routes):
        path = prefix + str(getattr(route, "path", "") or f"<{type(route).__name__}>")
        here = ruled or _ruled(route)
        inner = getattr(route, "routes", None)
        app = getattr(route, "app", None)
        if inner:
            yield Found(path, app, ruled=True)  # what is below it counts
            yield from _walk(inner, path, ruled=here)
        else:
            yield Found(path, getattr(route, "endpoint", None) or app, here)


def _front_ends(app: Any) -> Iterator[Found]:
    """Return the folders of files that FastAPI's `frontend()` serves; it keeps them apart from its routes."""
    groups = [("", group, group) for group in getattr(getattr(app, "router", None), "_low_priority_routes", ())]
    for route in getattr(app, "routes", ()):
        included: Any = getattr(route, "effective_low_priority_routes", tuple)()
        groups.extend((one.frontend_prefix, one, one.original_route) for one in included)
    for prefix, group, files in groups:
        for file in files.routes:
            yield Found(prefix + file.path, file.app, _depends(getattr(group, "dependant", None)))


def _flat(routes: Collection[BaseRoute]) -> Iterator[Any]:
    """Return routes; those of FastAPI's included routers as they are there, with its prefix and dependencies."""
    try:
        from fastapi.routing import iter_route_contexts  # noqa: PLC0415  # only where FastAPI is installed
    except ImportError:
        yield from routes
    else:
        yield from iter_route_contexts(list(routes))


def _ruled(route: Any) -> bool:
    return (
        _decorated(getattr(route, "endpoint", None))
        or _depends(getattr(route, "dependant", None))
        or any(isinstance(app, Guard) for app in _layers(getattr(route, "app", None)))
    )


def _decorated(endpoint: Any) -> bool:
    if isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint):
        methods = [method for name in _METHODS if (method := getattr(endpoint, name, None)) is not None]
        return bool(methods) and all(hasattr(method, MARK) for method in methods)
    return hasattr(endpoint, MARK)


def _depends(dependant: Any) -> bool:
    """Say whether a rule is among the dependencies of a FastAPI route, or of its dependencies."""
    if dependant is None:
        return False
    return isinstance(dependant.call, Rule) or any(_depends(one) for one in dependant.dependencies)


def _layers(app: Callable[..., Any] | None) -> Iterator[Any]:
    while app is not None:
        yield app
        app = getattr(app, "app", None)
