"""The Lease of coordination.k8s.io: the port `LeaseStore`."""

from datetime import UTC, datetime

from serviceidentity.adapters.kube.client import Json, KubeClient, segment
from serviceidentity.app.leadership import LeaseRecord
from serviceidentity.errors import MissingError

NAME = "serviceidentity-operator"


class KubeLease:
    """One Lease by its name."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{segment(namespace)}/leases"

    async def read(self) -> LeaseRecord | None:
        try:
            return _record(await self._client.request("GET", f"{self._collection}/{NAME}"))
        except MissingError:
            return None

    async def write(self, holder: str, seen: LeaseRecord | None, duration: float) -> LeaseRecord:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        taken_over = seen is None or seen.holder != holder
        transitions = (seen.transitions if seen else 0) + (1 if seen and taken_over and holder else 0)
        spec: Json = {
            "holderIdentity": holder,
            "leaseDurationSeconds": int(duration),
            "renewTime": now,
            "leaseTransitions": transitions,
        }
        metadata: Json = {"name": NAME, "namespace": self._namespace}
        body: Json = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        if seen is None:
            return _record(await self._client.request("POST", self._collection, body))
        metadata["resourceVersion"] = seen.version
        return _record(await self._client.request("PUT", f"{self._collection}/{NAME}", body))


def _record(body: Json) -> LeaseRecord:
    spec = body.get("spec") or {}
    return LeaseRecord(
        holder=spec.get("holderIdentity") or "",
        version=body["metadata"]["resourceVersion"],
        transitions=int(spec.get("leaseTransitions") or 0),
        duration=float(spec.get("leaseDurationSeconds") or 0),
    )
