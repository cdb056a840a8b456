"""Workloads that use the Secrets: the port `Workloads`."""

from typing import Final

from serviceidentity.adapters.kube.client import MERGE_PATCH, Json, KubeClient, segment
from serviceidentity.domain.model import Target, WorkloadKind
from serviceidentity.domain.rollout import Workload
from serviceidentity.errors import MissingError

PLURALS: Final = {
    WorkloadKind.DEPLOYMENT: "deployments",
    WorkloadKind.STATEFUL_SET: "statefulsets",
    WorkloadKind.DAEMON_SET: "daemonsets",
}


class KubeWorkloads:
    """The port `Workloads`. Workloads are not watched: one is read when its restart is due."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def read(self, namespace: str, target: Target) -> Workload | None:
        try:
            body = await self._client.request("GET", _path(namespace, target))
        except MissingError:
            return None
        template = body["spec"]["template"].get("metadata") or {}
        return Workload(
            uid=body["metadata"]["uid"],
            version=body["metadata"]["resourceVersion"],
            annotations=dict(template.get("annotations") or {}),
            paused=bool(body["spec"].get("paused")),
        )

    async def annotate(self, namespace: str, target: Target, found: Workload, annotation: str, value: str) -> None:
        # A merge patch names the one annotation and touches nothing else; with the version in it, it is refused (409)
        # when anything has changed since the decision, so two operators never restart one target twice.
        patch: Json = {
            "metadata": {"uid": found.uid, "resourceVersion": found.version},
            "spec": {"template": {"metadata": {"annotations": {annotation: value}}}},
        }
        await self._client.request("PATCH", _path(namespace, target), patch, MERGE_PATCH)


def _path(namespace: str, target: Target) -> str:
    return f"/apis/apps/v1/namespaces/{segment(namespace)}/{PLURALS[target.kind]}/{segment(target.name)}"
