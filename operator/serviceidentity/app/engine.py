"""The engine: workers that take keys from the queue and run one pass each, with a backoff for what fails in passing."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from serviceidentity.app.access.bundles import BundleReconciler
from serviceidentity.app.access.policies import PolicyReconciler
from serviceidentity.app.admission import Admission
from serviceidentity.app.crl_registry import CrlRegistry
from serviceidentity.app.encryption import EncryptionKeys, EncryptionSettings
from serviceidentity.app.identities import IdentityReconciler
from serviceidentity.app.inventory import Inventory
from serviceidentity.app.jwt.federation import Federation, Fetch
from serviceidentity.app.jwt.issuers import TokenIssuers
from serviceidentity.app.jwt.keeper import TokenKeeper
from serviceidentity.app.jwt.publication import JwksConfigMap
from serviceidentity.app.jwt.serving import Serving
from serviceidentity.app.keyguard import KeyEncryptionKeys, KeyGuard
from serviceidentity.app.leaves import LeafSigner
from serviceidentity.app.ports import Clock, Events, Pki, Secrets, Statuses, Workloads
from serviceidentity.app.publisher import Publisher
from serviceidentity.app.queue import WorkQueue
from serviceidentity.app.trust_domains import TrustDomainReconciler
from serviceidentity.app.trust_registry import TrustRegistry
from serviceidentity.app.vault.connection_reconciler import ConnectionReconciler
from serviceidentity.app.vault.connections import Connections
from serviceidentity.app.vault.lease_collector import LeaseCollector
from serviceidentity.app.vault.leases import Leases
from serviceidentity.app.vault.ports import VaultServers
from serviceidentity.app.vault.reader import Reader
from serviceidentity.app.vault.sources import VaultSources
from serviceidentity.app.webhook.reviews import Reviews
from serviceidentity.domain.model import ENCRYPTION_KEYS, Key, Kind, StoreKind, TrustDomain, vault_connection_key
from serviceidentity.domain.policy.spec import Compile, no_expressions
from serviceidentity.domain.vault.spec import DEFAULT_CONNECTION, ConnectionSpec
from serviceidentity.domain.vault.templates import CompileTemplate, no_templates
from serviceidentity.errors import ConflictError, PortError, RetryableError

logger = logging.getLogger(__name__)

WORKERS = 32
RETRY_FIRST = 0.2
RETRY_LIMIT = 30.0
OPEN_KEYS_WITHIN = 3.0
_FIRST = frozenset({Kind.TRUST_DOMAIN, Kind.VAULT_CONNECTION})


@dataclass(slots=True)
class Counters:
    """What the engine has done, for metrics and the liveness probe."""

    passes: int = 0
    retries: int = 0
    last_pass: datetime | None = None
    failing: dict[Key, int] = field(default_factory=dict)


class Engine:
    """Owns the inventory, the queue and the reconcilers of one operator."""

    def __init__(
        self,
        authority_namespace: str,
        secrets: Secrets,
        statuses: Statuses,
        events: Events,
        clock: Clock,
        workloads: Workloads,
        *,
        config_maps: Secrets,
        served: Collection[str] | None = None,
        keys: KeyEncryptionKeys | None = None,
        compile_rule: Compile = no_expressions,
        compile_template: CompileTemplate = no_templates,
        compile_access: Compile = no_expressions,
        pki: Pki | None = None,
        encryption: EncryptionSettings | None = None,
        vault: VaultServers | None = None,
        default_connection: ConnectionSpec | None = None,
        jwks_url: str | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        """`served` names the namespaces that trust bundles may be published in; None means all.

        `default_connection` is the VaultConnection "default" while there is no object of that name. `jwks_url` is where
        JWK Sets are served, by default by a Service in the operator's namespace.
        """
        self.inventory = Inventory(authority_namespace, compile_rule, compile_template, compile_access)
        self.queue = WorkQueue(clock)
        self.counters = Counters()
        self._clock = clock
        self._trust = TrustRegistry(self.inventory, KeyGuard(keys or KeyEncryptionKeys(), clock))
        parts = (self.inventory, self._trust, secrets, statuses, events, clock, self.wake)
        self.crls = CrlRegistry(self.inventory, self._trust)
        self._jwks_url = jwks_url or f"https://serviceidentity-jwks.{authority_namespace}.svc"
        self.issuers = TokenIssuers(self.inventory, self._trust.keys, self._jwks_url)
        self.encryption = EncryptionKeys(self.inventory, secrets, config_maps, clock, self.wake, encryption)
        self.connections = Connections(self.inventory, vault, clock, self.wake, default_connection)
        self._connections = ConnectionReconciler(*parts, connections=self.connections)
        leases = Leases(self.inventory, secrets, clock, self.wake)
        self._leases = LeaseCollector(self.inventory, secrets, events, clock, self.connections, leases, served)
        self._identities = IdentityReconciler(
            *parts,
            crls=self.crls,
            workloads=workloads,
            signer=LeafSigner(pki, clock),
            vault=VaultSources(self.connections, Reader(clock), leases, clock),
            encryption=self.encryption,
            config_maps=config_maps,
            issuers=self.issuers,
            wake_later=self.queue.wake_later,
        )
        stores = {StoreKind.CONFIG_MAP: config_maps, StoreKind.SECRET: secrets}
        publisher = Publisher(self.inventory, stores, served)
        sets = JwksConfigMap(self.inventory, config_maps)
        tokens = TokenKeeper(*parts, issuers=self.issuers, publisher=publisher, config_map=sets)
        self.federation = Federation(self.inventory, config_maps, fetch, clock, self.wake)
        self._domains = TrustDomainReconciler(
            *parts, publisher=publisher, crls=self.crls, tokens=tokens, pki=pki, federation=self.federation
        )
        bundles = BundleReconciler(
            *parts, config_maps=config_maps, issuers=self.issuers, wake_later=self.queue.wake_later
        )
        self._reconcilers: Mapping[Kind, Callable[[Key], Awaitable[datetime | None]]] = {
            Kind.SERVICE_IDENTITY: self._identities.reconcile,
            Kind.ENCRYPTION_KEYS: lambda _: self.encryption.reconcile(),
            Kind.VAULT_CONNECTION: self._connections.reconcile,
            Kind.VAULT_LEASE: self._leases.reconcile,
            Kind.POLICY_BUNDLE: bundles.reconcile,
            Kind.ACCESS_POLICY: PolicyReconciler(*parts, bundles=bundles).reconcile,
        }
        self._tasks: list[asyncio.Task[None]] = []
        self._retries: dict[Key, asyncio.TimerHandle] = {}

    def __copy__(self) -> "Engine":
        """Kopf copies its memo for every object; there is only one engine."""
        return self

    def wake(self, keys: Iterable[Key]) -> None:
        """Queue the keys, trust domains and connections first: identities wait for them."""
        for key in sorted(keys, key=lambda key: key.kind not in _FIRST):
            self.queue.wake(key)

    def serving(self, complete: Callable[[], bool]) -> Serving:
        """Return what answers at the operator's address, for as long as there is an inventory: no work is needed."""
        denials = Admission(self.inventory, self._trust).denials
        return Serving(self.inventory, self._trust.of, self._jwks_url, self._clock, complete, denials)

    def reviews(self) -> Reviews:
        """Return what answers the API server about objects of ours. It needs no inventory."""
        return Reviews(self.inventory.readers)

    async def open_keys(self) -> None:
        """Decrypt the authorities' keys ahead of the first work, as far as that goes: else identities would wait."""
        domains = [entry.spec for entry in self.inventory.domains.values()]
        stored = [(d, [*self._trust.views(d), *self.issuers.views(d)]) for d in domains if isinstance(d, TrustDomain)]
        opening = (self._trust.keys.open(domain, views) for domain, views in stored)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPEN_KEYS_WITHIN):
                await asyncio.gather(*opening, self._load_encryption_keys())

    async def _load_encryption_keys(self) -> None:
        with contextlib.suppress(PortError):  # the first pass over them tries again
            await self.encryption.load()

    def start(self) -> None:
        """Start working. The inventory must be complete before, or Secrets that are there would look missing."""
        if self.encryption.enabled:
            self.queue.wake(ENCRYPTION_KEYS)
        if self.connections.is_of_environment(DEFAULT_CONNECTION):
            self.queue.wake(vault_connection_key(DEFAULT_CONNECTION))  # there is no object that would wake it
        self._tasks = [asyncio.create_task(self.queue.watch_deadlines(), name="deadlines")]
        self._tasks += [asyncio.create_task(self._work(), name=f"worker-{number}") for number in range(WORKERS)]

    async def stop(self) -> None:
        """Stop working; a pass that was under way is picked up by the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.federation.close()
        self._tasks = []

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                await self._pass(key)
            finally:
                self.queue.done(key)
            await asyncio.sleep(0)  # a pass may have had nothing to wait for: watches and probes have their turn too

    async def _pass(self, key: Key) -> None:
        if (retry := self._retries.pop(key, None)) is not None:
            retry.cancel()  # this pass takes its place
        try:
            next_look = await self._reconcile(key)
        except ConflictError:
            self._retry(key, "the object changed meanwhile", RETRY_FIRST / 4)
        except RetryableError as error:
            self._retry(key, str(error), RETRY_FIRST)
        except PortError as error:
            self._retry(key, str(error), RETRY_LIMIT)
        except Exception as error:  # noqa: BLE001  # one object's trouble must not stop the others
            # The text of an unforeseen error may quote what it was working on, so only its type and place are logged.
            self._retry(key, f"internal error {type(error).__name__} at {_place(error)}", RETRY_LIMIT / 4)
        else:
            self.counters.failing.pop(key, None)
            self.queue.schedule(key, next_look)
        self.counters.passes += 1
        self.counters.last_pass = self._clock()

    async def _reconcile(self, key: Key) -> datetime | None:
        if (reconcile := self._reconcilers.get(key.kind)) is not None:
            return await reconcile(key)
        next_look, changed = await self._domains.reconcile(key)
        if changed:
            self.wake(self.inventory.identities_of(key.name))
        return next_look

    def _retry(self, key: Key, message: str, first: float) -> None:
        """Come back soon, later each time, with full jitter: a server that is back is not hit by all at once."""
        attempt = self.counters.failing.get(key, 0)
        self.counters.failing[key] = attempt + 1
        self.counters.retries += 1
        pause = min(first * 2 ** min(attempt, 10), RETRY_LIMIT)
        pause = random.uniform(pause / 2, pause)  # noqa: S311  # not for secrets
        log = logger.warning if attempt else logger.info
        log("%s: %s; again in %.1f s", key, message, pause)
        self._retries[key] = asyncio.get_running_loop().call_later(pause, self.queue.wake, key)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace else "unknown"


def system_clock() -> datetime:
    """Return the wall clock in UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)
