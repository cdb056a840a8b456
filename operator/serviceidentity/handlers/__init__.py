"""kopf's side: watch events become wake-ups, nothing more."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import kopf

from serviceidentity.adapters.kube.objects import SECRET_SELECTOR, config_map_view_of, view_of
from serviceidentity.app.operator import Operator
from serviceidentity.domain.model import GROUP, VERSION, Key

DELETED = "DELETED"


class NoDiffBase(kopf.DiffBaseStorage):
    """Remembers nothing: there are no handlers of changes, so copying each object to compare it would be for nothing.

    It also makes sure that no Secret's data ever ends in kopf's last-handled-configuration annotation.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


def registry() -> kopf.OperatorRegistry:
    """Return all handlers, in a registry of their own."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(log_in)
    kopf.on.startup(registry=handlers)(start)
    kopf.on.cleanup(registry=handlers)(stop)
    kopf.on.probe(registry=handlers, id="work")(probe)
    kopf.on.event(GROUP, VERSION, "serviceidentities", registry=handlers)(on_identity)
    kopf.on.event(GROUP, VERSION, "trustdomains", registry=handlers)(on_trust_domain)
    kopf.on.event(GROUP, VERSION, "vaultconnections", registry=handlers)(on_vault_connection)
    kopf.on.event(GROUP, VERSION, "accesspolicies", registry=handlers)(on_access_policy)
    kopf.on.event("", "v1", "namespaces", registry=handlers)(on_namespace)
    kopf.on.event("", "v1", "secrets", registry=handlers)(on_secret)
    kopf.on.event("", "v1", "configmaps", registry=handlers)(on_config_map)
    return handlers


def log_in(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Use the kubeconfig named in the environment, else the pod's service account. Asked anew when a token expires."""
    return (
        kopf.login_with_kubeconfig(**kwargs)
        if os.environ.get("KUBECONFIG")
        else kopf.login_with_service_account(**kwargs)
    )


def configure(settings: kopf.OperatorSettings) -> None:
    """Set kopf up as a source of events: it writes nothing, and of Secrets and ConfigMaps it watches those of ours."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.watching.label_selectors["v1", "secrets"] = SECRET_SELECTOR
    settings.watching.label_selectors["v1", "configmaps"] = SECRET_SELECTOR
    settings.watching.chunk_size = 500
    settings.queueing.idle_timeout = 1
    settings.queueing.exit_timeout = 1


async def start(memo: Any, **_: Any) -> None:
    """Begin to work."""
    operator: Operator = memo
    operator.start()


async def stop(memo: Any, **_: Any) -> None:
    """Stop the workers and close the connections."""
    operator: Operator = memo
    await operator.stop()


def probe(memo: Any, **_: Any) -> Mapping[str, Any]:
    """Return what the liveness endpoint shows; fails when work waits and nothing moves."""
    operator: Operator = memo
    return operator.health()


def _take_in(operator: Operator, event: Any, put: Callable[[Any], set[Key]], drop: Callable[..., set[Key]]) -> None:
    body = event["object"]
    if event["type"] == DELETED:
        meta = body["metadata"]
        operator.engine.wake(drop(*(meta[field] for field in ("namespace", "name", "uid") if field in meta)))
    else:
        operator.engine.wake(put(body))


async def on_identity(event: Any, memo: Any, **_: Any) -> None:
    operator: Operator = memo
    inventory = operator.engine.inventory
    _take_in(operator, event, inventory.put_identity, inventory.drop_identity)


async def on_trust_domain(event: Any, memo: Any, **_: Any) -> None:
    operator: Operator = memo
    inventory = operator.engine.inventory
    _take_in(operator, event, inventory.put_trust_domain, inventory.drop_trust_domain)


async def on_vault_connection(event: Any, memo: Any, **_: Any) -> None:
    operator: Operator = memo
    inventory = operator.engine.inventory
    _take_in(operator, event, inventory.put_vault_connection, inventory.drop_vault_connection)


async def on_access_policy(event: Any, memo: Any, **_: Any) -> None:
    operator: Operator = memo
    inventory = operator.engine.inventory
    _take_in(operator, event, inventory.put_access_policy, inventory.drop_access_policy)


async def on_namespace(event: Any, memo: Any, **_: Any) -> None:
    operator: Operator = memo
    inventory, body = operator.engine.inventory, event["object"]
    if event["type"] == DELETED:
        operator.engine.wake(inventory.drop_namespace(body["metadata"]["name"]))
    else:
        operator.engine.wake(inventory.put_namespace(body))


async def on_secret(event: Any, memo: Any, **_: Any) -> None:
    operator: Operator = memo
    view = view_of(event["object"])
    if event["type"] == DELETED:
        operator.engine.wake(operator.engine.inventory.drop_secret(view.namespace, view.name, view.uid))
    else:
        operator.engine.wake(operator.engine.inventory.put_secret(view))


async def on_config_map(event: Any, memo: Any, **_: Any) -> None:
    operator: Operator = memo
    view = config_map_view_of(event["object"])
    if event["type"] == DELETED:
        operator.engine.wake(operator.engine.inventory.drop_config_map(view.namespace, view.name, view.uid))
    else:
        operator.engine.wake(operator.engine.inventory.put_config_map(view))
