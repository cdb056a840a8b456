"""One valid AccessPolicy; a test changes only what it is about."""

from typing import Any


def access_policy_body(name: str = "payments", namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-ap-{name}", "generation": 1, "resourceVersion": "6"}
    said = {
        "services": [{"name": "order-service"}],
        "roles": [{"name": "admin", "permissions": ["*"]}],
        "rules": [{"name": "permitted", "effect": "Allow", "expression": "principal.permitted"}],
    }
    return {"metadata": metadata, "spec": said | spec}
