"""Policies on routes: `@rule` on a Starlette endpoint, `Depends(rule)` in FastAPI."""

from collections.abc import Callable, Mapping
from typing import Any, Final

try:
    from starlette.requests import HTTPConnection
    from starlette.types import Scope
except ImportError as error:
    raise ImportError("serviceidentity_sdk.policy.guards needs: pip install 'serviceidentity-sdk[asgi]'") from error

from serviceidentity_sdk.authz.guards import RefusedError, Rule
from serviceidentity_sdk.authz.rules import FORBIDDEN, NOT_AUTHENTICATED, Refusal, known
from serviceidentity_sdk.policy.decisions import Decision
from serviceidentity_sdk.policy.engine import PolicyEngine
from serviceidentity_sdk.principal import principal_of

Facts = Callable[[HTTPConnection], Mapping[str, Any]]
_NOTHING: Final[Mapping[str, Any]] = {}


def authorize_action(
    engine: PolicyEngine, action: str, *, resource: Facts | None = None, context: Facts | None = None
) -> Rule:
    """Allow callers that the policies let do `action`: 401 without a principal, 403 with the reason otherwise.

    `resource` and `context` make what the rules see out of the request, without its body: by default the path's
    parameters, and nothing. For what has to be loaded first, ask `require` in the endpoint.
    """
    return _ActionRule(engine, action, resource or _path_parameters, context)


def require(
    engine: PolicyEngine,
    connection: HTTPConnection,
    action: str,
    resource: Mapping[str, Any] = _NOTHING,
    context: Mapping[str, Any] = _NOTHING,
) -> Decision:
    """Ask in an endpoint, about what it has loaded. Raises RefusedError, which `authz.protect` answers."""
    decision = engine.decide(principal_of(connection.scope), action, resource, context)
    if (refusal := _refusal(connection.scope, decision)) is not None:
        raise RefusedError(refusal)
    return decision


class _ActionRule(Rule):
    def __init__(self, engine: PolicyEngine, action: str, resource: Facts, context: Facts | None) -> None:
        super().__init__(known, f"authorize_action({action!r})")
        self._engine = engine
        self._action = action
        self._resource = resource
        self._context = context

    def refusal(self, scope: Scope) -> Refusal | None:
        """Decide on an ASGI request; None allows it."""
        connection = HTTPConnection(scope)
        context = self._context(connection) if self._context is not None else _NOTHING
        decision = self._engine.decide(principal_of(scope), self._action, self._resource(connection), context)
        return _refusal(scope, decision)


def _refusal(scope: Scope, decision: Decision) -> Refusal | None:
    if decision.allowed:
        return None
    if principal_of(scope) is None:
        return NOT_AUTHENTICATED
    return Refusal(FORBIDDEN, {"error": "Denied by policy", "reason": decision.reason})


def _path_parameters(connection: HTTPConnection) -> Mapping[str, Any]:
    return connection.path_params
