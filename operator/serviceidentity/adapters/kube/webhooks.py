"""Configurations of webhooks: the port `WebhookConfigurations`."""

import base64
import binascii
from typing import Any, Final

from serviceidentity.adapters.kube.client import Json, KubeClient, segment
from serviceidentity.app.ports import WebhookConfiguration
from serviceidentity.domain.model import GROUP
from serviceidentity.errors import MissingError

STRATEGIC_MERGE_PATCH: Final = "application/strategic-merge-patch+json"


class KubeWebhookConfigurations:
    """The port `WebhookConfigurations`. They are not watched: RBAC lets the operator see one of them, by its name."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def read(self, name: str) -> WebhookConfiguration | None:
        try:
            body = await self._client.request("GET", _path(name))
        except MissingError:
            return None
        meta, webhooks = body["metadata"], body.get("webhooks") or []
        ours = {one["name"]: _authorities(one) for one in webhooks if one["name"].endswith(f".{GROUP}")}
        return WebhookConfiguration(name, meta["uid"], meta["resourceVersion"], ours)

    async def trust(self, found: WebhookConfiguration, authorities: bytes) -> None:
        # Webhooks are merged by name. With the version in it the patch is refused (409) when one was taken out since
        # then: it would be made anew, without rules.
        encoded = base64.b64encode(authorities).decode()
        patch: Json = {
            "metadata": {"uid": found.uid, "resourceVersion": found.version},
            "webhooks": [{"name": name, "clientConfig": {"caBundle": encoded}} for name in found.authorities],
        }
        await self._client.request("PATCH", _path(found.name), patch, STRATEGIC_MERGE_PATCH)


def _authorities(webhook: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode((webhook.get("clientConfig") or {}).get("caBundle") or "")
    except (binascii.Error, ValueError):
        return b""


def _path(name: str) -> str:
    return f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{segment(name)}"
