"""An API server in memory: versions, conflicts, owners of names. For speed; the real one is tested in tests/contract."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from serviceidentity.adapters.cel import CelCompiler
from serviceidentity.adapters.jinja import JinjaTemplates
from serviceidentity.app.encryption import EncryptionSettings
from serviceidentity.app.engine import Engine
from serviceidentity.app.inventory import Location
from serviceidentity.app.keyguard import KeyEncryptionKeys
from serviceidentity.app.ports import Pki
from serviceidentity.app.vault.ports import VaultServers
from serviceidentity.domain import ownership
from serviceidentity.domain.access.spec import VARIABLES as ACCESS_VARIABLES
from serviceidentity.domain.material import SecretContent, SecretView
from serviceidentity.domain.model import Key, Kind
from serviceidentity.domain.ownership import MANAGED_BY_LABEL, Metadata
from serviceidentity.domain.vault.spec import ConnectionSpec
from serviceidentity.errors import AlreadyExistsError, ConflictError, MissingError, PortError
from tests.unit.access.builders import access_policy_body
from tests.unit.app.fake_workloads import FakeWorkloads
from tests.unit.domain.builders import T0, identity_body, trust_domain_body, vault_connection_body


class FakeApi:
    """Implements the ports Secrets, Statuses and Events."""

    def __init__(self) -> None:
        self.version = 100
        self.stored: dict[Location, SecretView] = {}
        self.objects: dict[Key, dict[str, Any]] = {}
        self.writes: Counter[str] = Counter()
        self.events: list[tuple[str, str]] = []
        self.failures: list[PortError] = []
        self.workloads = FakeWorkloads()

    def _write(self, verb: str) -> int:
        if self.failures:
            raise self.failures.pop(0)
        self.version += 1
        self.writes[verb] += 1
        return self.version

    async def create(self, namespace: str, name: str, content: SecretContent, metadata: Metadata) -> SecretView:
        await asyncio.sleep(0)
        if (namespace, name) in self.stored:
            raise AlreadyExistsError("exists")
        version = self._write("create")
        view = SecretView(
            namespace, name, f"uid-{version}", version, content.type, dict(metadata.labels),
            dict(metadata.annotations), metadata.owners, dict(content.data),
        )  # fmt: skip
        self.stored[namespace, name] = view
        return view

    async def replace(self, view: SecretView, content: SecretContent, metadata: Metadata) -> SecretView:
        await asyncio.sleep(0)
        found = self.stored.get((view.namespace, view.name))
        if found is None:
            raise MissingError("gone")
        if found.resource_version != view.resource_version:
            raise ConflictError("changed")
        new = replace(
            found, resource_version=self._write("replace"), labels=ownership.foreign_labels(found) | dict(metadata.labels),
            annotations=ownership.foreign_annotations(found) | dict(metadata.annotations), owners=metadata.owners, data=dict(content.data),
        )  # fmt: skip
        self.stored[view.namespace, view.name] = new
        return new

    async def delete(self, view: SecretView) -> None:
        await asyncio.sleep(0)
        self._write("delete")
        self.stored.pop((view.namespace, view.name), None)

    async def read(self, namespace: str, name: str) -> SecretView | None:
        await asyncio.sleep(0)
        return self.stored.get((namespace, name))

    async def patch(self, key: Key, patch: Mapping[str, Any]) -> int:
        await asyncio.sleep(0)
        if key not in self.objects:
            raise MissingError("gone")
        version = self._write("status")
        body = self.objects[key]
        body["status"] = {k: v for k, v in (body.get("status", {}) | dict(patch)).items() if v is not None}
        body["metadata"]["resourceVersion"] = str(version)
        return version

    def emit(self, key: Key, uid: str, reason: str, message: str, *, warning: bool = False) -> None:
        self.events.append((reason, message))


class FakeConfigMaps(FakeApi):
    """ConfigMaps of the same server: they have no type, and versions and failures of their own."""


class World:
    """A fake API and an engine on it, with a clock that tests move."""

    def __init__(
        self,
        api: FakeApi | None = None,
        config_maps: FakeConfigMaps | None = None,
        keys: KeyEncryptionKeys | None = None,
        pki: Pki | None = None,
        encryption: EncryptionSettings | None = None,
        vault: VaultServers | None = None,
        default_connection: ConnectionSpec | None = None,
        **more: Any,
    ) -> None:
        self.api = api or FakeApi()
        self.maps = config_maps or FakeConfigMaps()
        self.now = T0
        clock, api = (lambda: self.now), self.api
        self.engine = Engine(
            "system",
            api,
            api,
            api,
            clock,
            api.workloads,
            config_maps=self.maps,
            keys=keys,
            compile_rule=CelCompiler(),
            compile_template=JinjaTemplates(),
            compile_access=CelCompiler(ACCESS_VARIABLES),
            pki=pki,
            encryption=encryption,
            vault=vault,
            default_connection=default_connection,
            **more,
        )
        inventory = self.engine.inventory
        for key, body in self.api.objects.items():
            self.engine.wake(self.put(key)(body))
        for view in self.api.stored.values():
            self.engine.wake(inventory.put_secret(view))
        for view in self.maps.stored.values():
            if MANAGED_BY_LABEL in view.labels:
                self.engine.wake(inventory.put_config_map(view))

    def put(self, key: Key) -> Callable[[dict[str, Any]], set[Key]]:
        inventory = self.engine.inventory
        return {
            Kind.SERVICE_IDENTITY: inventory.put_identity,
            Kind.TRUST_DOMAIN: inventory.put_trust_domain,
            Kind.VAULT_CONNECTION: inventory.put_vault_connection,
            Kind.ACCESS_POLICY: inventory.put_access_policy,
        }[key.kind]

    def apply(self, spec: dict[str, Any] | None = None, **meta: Any) -> Key:
        body = identity_body(spec, **meta)
        self.api.version += 1
        body["metadata"]["resourceVersion"] = str(self.api.version)
        key = Key(Kind.SERVICE_IDENTITY, body["metadata"]["namespace"], body["metadata"]["name"])
        body["status"] = self.api.objects.get(key, {}).get("status", {})
        self.api.objects[key] = body
        self.engine.wake(self.engine.inventory.put_identity(body))
        return key

    def trust_domain(self, **spec: Any) -> Key:
        body = trust_domain_body(**spec)
        key = Key(Kind.TRUST_DOMAIN, "", body["metadata"]["name"])
        self.api.objects[key] = body
        self.engine.wake(self.engine.inventory.put_trust_domain(body))
        return key

    def _as_applied(self, key: Key, body: dict[str, Any]) -> None:
        """Store an object as the API server does: a new version and generation, with the status that was there."""
        self.api.version += 1
        old = self.api.objects.get(key, {})
        body["metadata"]["resourceVersion"] = str(self.api.version)
        body["metadata"]["generation"] = old.get("metadata", {}).get("generation", 0) + 1
        body["status"] = old.get("status", {})
        self.api.objects[key] = body

    def vault_connection(self, name: str = "default", **spec: Any) -> Key:
        body = vault_connection_body(name, **spec)
        key = Key(Kind.VAULT_CONNECTION, "", name)
        self._as_applied(key, body)
        self.engine.wake(self.engine.inventory.put_vault_connection(body))
        return key

    def access_policy(self, name: str = "payments", **spec: Any) -> Key:
        body = access_policy_body(name, **spec)
        key = Key(Kind.ACCESS_POLICY, "shop", name)
        self._as_applied(key, body)
        self.engine.wake(self.engine.inventory.put_access_policy(body))
        return key

    def status(self, key: Key) -> dict[str, Any]:
        return dict(self.api.objects[key].get("status", {}))

    def ready(self, key: Key) -> tuple[str, str]:
        condition = self.status(key)["conditions"][0]
        return condition["status"], condition["reason"]

    def echo(self) -> None:
        """What the watches bring: everything as it is now."""
        for view in list(self.api.stored.values()):
            self.engine.wake(self.engine.inventory.put_secret(view))
        for key, body in self.api.objects.items():
            self.engine.wake(self.put(key)(body))

    async def settle(self, advance: timedelta | None = None) -> int:
        """Let the engine work until nothing is left; return how many passes that took."""
        if advance:
            self.now += advance
        before = self.engine.counters.passes
        self.engine.queue.wake_due()
        self.engine.start()
        while len(self.engine.queue):
            await asyncio.sleep(0.001)
        await self.engine.stop()
        return self.engine.counters.passes - before
