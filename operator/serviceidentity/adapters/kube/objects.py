"""Secrets and status subresources in the cluster: the ports `Secrets` and `Statuses`."""

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from serviceidentity.adapters.kube.client import MERGE_PATCH, Json, KubeClient, segment
from serviceidentity.domain import ownership
from serviceidentity.domain.material import SecretContent, SecretView
from serviceidentity.domain.model import GROUP, VERSION, Key, Kind
from serviceidentity.domain.ownership import MANAGED_BY, MANAGED_BY_LABEL, Metadata
from serviceidentity.errors import MissingError

PLURALS: Final[Mapping[Kind, str]] = {
    Kind.SERVICE_IDENTITY: "serviceidentities",
    Kind.TRUST_DOMAIN: "trustdomains",
    Kind.VAULT_CONNECTION: "vaultconnections",
    Kind.ACCESS_POLICY: "accesspolicies",
}
SECRET_SELECTOR: Final = f"{MANAGED_BY_LABEL}={MANAGED_BY}"


def view_of(body: Mapping[str, Any]) -> SecretView:
    """Return a Secret's JSON as a view."""
    meta = body["metadata"]
    return SecretView(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        resource_version=int(meta["resourceVersion"]),
        type=body.get("type") or "Opaque",
        labels=dict(meta.get("labels") or {}),
        annotations=dict(meta.get("annotations") or {}),
        owners=tuple(dict(owner) for owner in meta.get("ownerReferences") or ()),
        data=dict(body.get("data") or {}),
        immutable=bool(body.get("immutable")),
    )


class KubeSecrets:
    """The port `Secrets`."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def create(self, namespace: str, name: str, content: SecretContent, metadata: Metadata) -> SecretView:
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": content.type,
            "metadata": {
                "namespace": namespace,
                "name": name,
                "labels": dict(metadata.labels),
                "annotations": dict(metadata.annotations),
                "ownerReferences": [dict(owner) for owner in metadata.owners],
            },
            "data": dict(content.data),
        }
        return view_of(await self._client.request("POST", _secrets(namespace), body))

    async def replace(self, view: SecretView, content: SecretContent, metadata: Metadata) -> SecretView:
        # A PUT of the version that was observed: whatever happened since then makes it a conflict, not a lost update.
        foreign = [dict(owner) for owner in view.owners if not owner.get("controller")]
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": content.type,
            "metadata": {
                "namespace": view.namespace,
                "name": view.name,
                "uid": view.uid,
                "resourceVersion": str(view.resource_version),
                "labels": ownership.foreign_labels(view) | dict(metadata.labels),
                "annotations": ownership.foreign_annotations(view) | dict(metadata.annotations),
                "ownerReferences": [dict(owner) for owner in metadata.owners] + foreign,
            },
            "data": dict(content.data),
        }
        return view_of(await self._client.request("PUT", _secret(view.namespace, view.name), body))

    async def delete(self, view: SecretView) -> None:
        body: Json = {"preconditions": {"uid": view.uid}}
        try:
            await self._client.request("DELETE", _secret(view.namespace, view.name), body)
        except MissingError:
            return

    async def read(self, namespace: str, name: str) -> SecretView | None:
        try:
            return view_of(await self._client.request("GET", _secret(namespace, name)))
        except MissingError:
            return None

    async def list_ours(self, namespaces: tuple[str, ...] | None) -> tuple[list[SecretView], int]:
        """Return all Secrets that carry our label, in the given namespaces or everywhere."""
        paths = ["/api/v1/secrets"] if namespaces is None else [_secrets(namespace) for namespace in namespaces]
        bodies, version = await _list_paths(self._client, paths, SECRET_SELECTOR)
        return [view_of(body) for body in bodies], version


class KubeConfigMaps:
    """ConfigMaps, behind the port `Secrets`: a view's data is base64, as a Secret's, whether or not it is text."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def create(self, namespace: str, name: str, content: SecretContent, metadata: Metadata) -> SecretView:
        body = _config_map({"namespace": namespace, "name": name}, content, metadata)
        return config_map_view_of(await self._client.request("POST", _config_maps(namespace), body))

    async def replace(self, view: SecretView, content: SecretContent, metadata: Metadata) -> SecretView:
        names = {"namespace": view.namespace, "name": view.name}
        names |= {"uid": view.uid, "resourceVersion": str(view.resource_version)}
        foreign = tuple(owner for owner in view.owners if not owner.get("controller"))
        kept = Metadata(
            labels=ownership.foreign_labels(view) | dict(metadata.labels),
            annotations=ownership.foreign_annotations(view) | dict(metadata.annotations),
            owners=metadata.owners + foreign,
        )
        body = _config_map(names, content, kept)
        return config_map_view_of(await self._client.request("PUT", self._path(view), body))

    async def delete(self, view: SecretView) -> None:
        body: Json = {"preconditions": {"uid": view.uid}}
        try:
            await self._client.request("DELETE", self._path(view), body)
        except MissingError:
            return

    async def read(self, namespace: str, name: str) -> SecretView | None:
        try:
            path = f"{_config_maps(namespace)}/{segment(name)}"
            return config_map_view_of(await self._client.request("GET", path))
        except MissingError:
            return None

    async def list_ours(self, namespaces: tuple[str, ...] | None) -> tuple[list[SecretView], int]:
        """Return all ConfigMaps that carry our label, in the given namespaces or everywhere."""
        paths = ["/api/v1/configmaps"] if namespaces is None else [_config_maps(namespace) for namespace in namespaces]
        bodies, version = await _list_paths(self._client, paths, SECRET_SELECTOR)
        return [config_map_view_of(body) for body in bodies], version

    def _path(self, view: SecretView) -> str:
        return f"{_config_maps(view.namespace)}/{segment(view.name)}"


def config_map_view_of(body: Mapping[str, Any]) -> SecretView:
    """Return a ConfigMap's JSON as a view. It has no type."""
    text = {key: base64.b64encode(value.encode()).decode() for key, value in (body.get("data") or {}).items()}
    return replace(view_of({**body, "data": text | dict(body.get("binaryData") or {})}), type="")


def _config_map(names: Mapping[str, str], content: SecretContent, metadata: Metadata) -> Json:
    text: dict[str, str] = {}
    binary: dict[str, str] = {}
    for key, value in content.data.items():
        try:
            text[key] = base64.b64decode(value).decode()
        except UnicodeDecodeError:
            binary[key] = value
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            **names,
            "labels": dict(metadata.labels),
            "annotations": dict(metadata.annotations),
            "ownerReferences": [dict(owner) for owner in metadata.owners],
        },
        "data": text,
        "binaryData": binary,
    }


class KubeObjects:
    """Our own kinds: the port `Statuses`, and complete lists for start and resync."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def patch(self, key: Key, patch: Mapping[str, Any]) -> int:
        path = f"{collection(key.kind, key.namespace)}/{segment(key.name)}/status"
        body = await self._client.request("PATCH", path, {"status": dict(patch)}, MERGE_PATCH)
        return int(body["metadata"]["resourceVersion"])

    async def list_identities(self, namespaces: tuple[str, ...] | None) -> tuple[list[Json], int]:
        """Return all ServiceIdentities in the given namespaces, or everywhere."""
        return await self._list(Kind.SERVICE_IDENTITY, namespaces)

    async def list_access_policies(self, namespaces: tuple[str, ...] | None) -> tuple[list[Json], int]:
        """Return all AccessPolicies in the given namespaces, or everywhere."""
        return await self._list(Kind.ACCESS_POLICY, namespaces)

    async def _list(self, kind: Kind, namespaces: tuple[str, ...] | None) -> tuple[list[Json], int]:
        paths = [collection(kind, "")] if namespaces is None else [collection(kind, item) for item in namespaces]
        return await _list_paths(self._client, paths, None)

    async def list_namespaces(self) -> tuple[list[Json], int]:
        """Return all Namespaces."""
        return await self._client.list_all("/api/v1/namespaces")

    async def list_trust_domains(self) -> tuple[list[Json], int]:
        """Return all TrustDomains."""
        return await self._client.list_all(collection(Kind.TRUST_DOMAIN, ""))

    async def list_vault_connections(self) -> tuple[list[Json], int]:
        """Return all VaultConnections."""
        return await self._client.list_all(collection(Kind.VAULT_CONNECTION, ""))


async def _list_paths(client: KubeClient, paths: list[str], selector: str | None) -> tuple[list[Json], int]:
    items: list[Json] = []
    versions = []
    for path in paths:
        found, version = await client.list_all(path, selector)
        items += found
        versions.append(version)
    return items, min(versions, default=0)


def collection(kind: Kind, namespace: str) -> str:
    """Return the URL path of a collection of ours; without a namespace, of all namespaces."""
    scope = f"namespaces/{segment(namespace)}/" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}/{scope}{PLURALS[kind]}"


def _config_maps(namespace: str) -> str:
    return f"/api/v1/namespaces/{segment(namespace)}/configmaps"


def _secrets(namespace: str) -> str:
    return f"/api/v1/namespaces/{segment(namespace)}/secrets"


def _secret(namespace: str, name: str) -> str:
    return f"{_secrets(namespace)}/{segment(name)}"
