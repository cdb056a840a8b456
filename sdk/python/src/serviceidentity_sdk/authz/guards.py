"""Rules on routes: decorators for Starlette, dependencies for FastAPI, a wrapper for any ASGI application."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, Final, TypeVar, overload

try:
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException, WebSocketException
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import JSONResponse, Response
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.websockets import WebSocket
except ImportError as error:
    raise ImportError("serviceidentity_sdk.authz needs: pip install 'serviceidentity-sdk[asgi]'") from error

from serviceidentity_sdk.authz import rules
from serviceidentity_sdk.authz.rules import Caller, Check, Refusal

logger = logging.getLogger(__name__)

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
MARK: Final = "__serviceidentity_rules__"
POLICY_VIOLATION: Final = 1008  # RFC 6455 section 7.4.1


class RefusedError(HTTPException):
    """A FastAPI dependency refuses. `protect` answers it with the refusal's own body; else it is below `detail`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.status, dict(refusal.body), refusal.headers)  # type: ignore[arg-type]  # JSON, in FastAPI
        self.refusal = refusal


class Rule:
    """Who may call a route: `@rule` on a Starlette endpoint, `Depends(rule)` in FastAPI."""

    def __init__(self, check: Check, name: str) -> None:
        self._check = check
        self.name = name
        # FastAPI reads this: it hands over the connection, of a request or a WebSocket.
        parameter = inspect.Parameter("connection", inspect.Parameter.POSITIONAL_ONLY, annotation=HTTPConnection)
        self.__signature__ = inspect.Signature([parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)])

    def __repr__(self) -> str:
        return self.name

    def refusal(self, scope: Scope) -> Refusal | None:
        """Decide on an ASGI request; None allows it."""
        caller: Caller | None = (scope.get("state") or {}).get("principal")
        found = self._check(caller)
        if found is not None:
            who = "nobody" if caller is None else caller.subject
            logger.info("refused with %d: %s needs %r for %r", found.status, who, self, scope.get("path"))
        return found

    @overload
    def __call__(self, connection: HTTPConnection) -> None: ...
    @overload
    def __call__(self, connection: Endpoint) -> Endpoint: ...
    def __call__(self, connection: Any) -> Any:
        """Decorate an endpoint; or, given a connection, raise RefusedError (WebSocketException for a WebSocket)."""
        if not isinstance(connection, HTTPConnection):
            return guarded(connection, self)
        refusal = self.refusal(connection.scope)
        if refusal is None:
            return None
        if connection.scope["type"] == "websocket":
            raise WebSocketException(POLICY_VIOLATION, str(refusal.body["error"]))
        raise RefusedError(refusal)


def authorize(*roles: str) -> Rule:
    """Allow callers that have one of these roles: 401 without a principal, 403 without the role."""
    return Rule(rules.any_role(*roles), _call("authorize", roles))


def check_permission(*permissions: str) -> Rule:
    """Allow callers whose permissions grant all of these: 401 without a principal, 403 otherwise."""
    return Rule(rules.all_permissions(*permissions), _call("check_permission", permissions))


def authenticated() -> Rule:
    """Allow every caller with a verified credential: 401 without one."""
    return Rule(rules.known, "authenticated()")


def public() -> Rule:
    """Allow everyone. It says that a route was left open on purpose."""
    return Rule(rules.anyone, "public()")


class Guard:
    """A rule before a whole ASGI application: `Mount(path, app, middleware=[Middleware(Guard, rule=...)])`."""

    def __init__(self, app: ASGIApp, rule: Rule) -> None:
        self.app = app
        self.rule = rule

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (refusal := self.rule.refusal(scope)) is not None:
            await refuse(refusal, scope, receive, send)
        else:
            await self.app(scope, receive, send)


def guarded(endpoint: Endpoint, rule: Rule) -> Endpoint:
    """Return a Starlette endpoint, a function or a method of an HTTPEndpoint, that asks `rule` first."""
    if inspect.isclass(endpoint):
        raise TypeError("decorate the methods of a class, or put Guard before its route")

    if inspect.iscoroutinefunction(endpoint):

        @functools.wraps(endpoint)
        async def asking(*args: Any, **kwargs: Any) -> Any:
            connection = _connection(args, kwargs)
            refusal = rule.refusal(connection.scope)
            if refusal is None:
                return await endpoint(*args, **kwargs)
            if isinstance(connection, WebSocket):
                return await close(connection, refusal)
            return answer(refusal)
    else:

        @functools.wraps(endpoint)
        async def asking(*args: Any, **kwargs: Any) -> Any:
            refusal = rule.refusal(_connection(args, kwargs).scope)
            return answer(refusal) if refusal is not None else await run_in_threadpool(endpoint, *args, **kwargs)

    setattr(asking, MARK, (rule, *getattr(endpoint, MARK, ())))
    return asking  # type: ignore[return-value]  # the same parameters


async def answer_refused(_request: Request, error: Exception) -> Response:
    """Answer a RefusedError with the body of its refusal: an exception handler."""
    assert isinstance(error, RefusedError)  # noqa: S101  # that is what it is registered for
    return answer(error.refusal)


def answer(refusal: Refusal) -> Response:
    """Return the answer to a request that was refused."""
    return JSONResponse(dict(refusal.body), refusal.status, refusal.headers)


async def close(socket: WebSocket, refusal: Refusal) -> None:
    """Refuse a WebSocket before it is accepted, with a body where the server can send one."""
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(answer(refusal))
    else:
        await socket.close(POLICY_VIOLATION, str(refusal.body["error"]))


async def refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer an ASGI request, or close a WebSocket."""
    if scope["type"] == "websocket":
        await close(WebSocket(scope, receive, send), refusal)
    else:
        await answer(refusal)(scope, receive, send)


def _call(name: str, arguments: tuple[str, ...]) -> str:
    return f"{name}({', '.join(map(repr, arguments))})"


def _connection(args: tuple[Any, ...], kwargs: dict[str, Any]) -> HTTPConnection:
    for one in (*args, *kwargs.values()):
        if isinstance(one, HTTPConnection):
            return one
    raise TypeError("an endpoint with a rule takes the request; in FastAPI use Depends(rule)")
