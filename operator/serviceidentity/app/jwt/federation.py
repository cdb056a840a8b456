"""Other trust domains' bundles: fetched in time, kept when they are good, published in a ConfigMap of ours.

Fetching happens beside the passes over trust domains: a server that is slow holds up no authority. The last good bundle
is the one in the ConfigMap, so a restart loses nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.app.inventory import Inventory
from serviceidentity.app.jwt.serving import FEDERATION
from serviceidentity.app.ports import Clock, Secrets, Wake
from serviceidentity.domain import ownership
from serviceidentity.domain.jwt import federation
from serviceidentity.domain.jwt.federation import ForeignBundle
from serviceidentity.domain.jwt.spec import Peer
from serviceidentity.domain.material import MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import Key, Kind, TrustDomain
from serviceidentity.domain.schedule import earliest
from serviceidentity.errors import ConflictError, PortError, RejectedError, RetryableError

logger = logging.getLogger(__name__)

Fetch = Callable[[str, str | None, int], Awaitable[bytes]]

CONDITION: Final = "FederationReady"
FETCH_FAILED: Final = "FetchFailed"
INVALID: Final = "BundleInvalid"
NOT_YET: Final = "NotFetchedYet"
FEDERATED: Final = "Federated"
CONFLICT: Final = "Conflict"
TOO_LARGE: Final = "TooLarge"
REJECTED: Final = "Rejected"
RETRY_FIRST: Final = timedelta(seconds=30)
WRITE_AGAIN_AFTER: Final = timedelta(seconds=5)
RETRY_LIMIT: Final = timedelta(minutes=15)
LOOK_AT_SOURCES_EVERY: Final = timedelta(seconds=15)  # they do not carry our label, so no watch tells of them
SIZE_LIMIT: Final = 1 << 20

Condition = tuple[str, bool, str, str]


@dataclass(slots=True)
class _State:
    """What is known of one peer. `trouble` is a reason and a message."""

    peer: Peer
    bundle: ForeignBundle | None
    trouble: tuple[str, str] | None = None
    next_fetch: datetime | None = None
    failures: int = 0
    fetching: asyncio.Task[None] | None = None


class Federation:
    """The peers of all trust domains. Used from one event loop."""

    def __init__(
        self, inventory: Inventory, config_maps: Secrets, fetch: Fetch | None, clock: Clock, wake: Wake
    ) -> None:
        self._inventory = inventory
        self._config_maps = config_maps
        self._fetch = fetch
        self._clock = clock
        self._wake = wake
        self._states: dict[tuple[Key, str], _State] = {}

    async def keep(
        self, domain: TrustDomain, recorded: Mapping[str, Any], now: datetime
    ) -> tuple[Condition | None, datetime | None]:
        """Publish what is good, begin to fetch what is due; return the condition, and when to look again.

        `recorded` is the trust domain's status.
        """
        named = {peer.trust_domain for peer in domain.peers}
        self._drop(domain.key, but=named)
        name = FEDERATION.format(domain.meta.name)
        view = self._inventory.published.in_ours(name)
        if not domain.peers:
            if view is not None and ownership.is_owned(view, Kind.TRUST_DOMAIN, domain.meta):
                try:
                    await self._config_maps.delete(view)
                except PortError:
                    return None, now + WRITE_AGAIN_AFTER
                self._inventory.drop_config_map(view.namespace, view.name, view.uid)
            return None, None
        states = [self._state(domain, peer, view) for peer in domain.peers]
        for state in states:
            if state.fetching is None and (state.next_fetch is None or now >= state.next_fetch):
                state.fetching = asyncio.create_task(self._look(domain.key, state))
        retry = None
        try:
            trouble = await self._publish(domain, states, name, view)
        except (ConflictError, RetryableError):  # the life of authorities goes on
            trouble, retry = None, now + WRITE_AGAIN_AFTER
        except PortError as error:
            trouble, retry = (REJECTED, str(error)), now + RETRY_LIMIT
        condition = self._condition(states, trouble)
        if trouble is None and any(state.next_fetch is None for state in states):
            condition = _told_before(recorded, domain.meta.generation) or condition
        return condition, earliest(retry, *(state.next_fetch for state in states if state.fetching is None))

    def forget(self, key: Key) -> None:
        """Forget a trust domain that is gone."""
        self._drop(key, but=set())

    async def close(self) -> None:
        """Stop fetching."""
        tasks = [state.fetching for state in self._states.values() if state.fetching is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for state in self._states.values():
            state.fetching = None

    def _drop(self, key: Key, but: set[str]) -> None:
        for known in [known for known in self._states if known[0] == key and known[1] not in but]:
            task = self._states.pop(known).fetching
            if task is not None:
                task.cancel()

    def _state(self, domain: TrustDomain, peer: Peer, view: SecretView | None) -> _State:
        known = self._states.get((domain.key, peer.trust_domain))
        if known is not None and known.peer == peer:
            return known
        if known is not None and known.fetching is not None:
            known.fetching.cancel()
        # Asked in another way it is the same trust domain: what was taken stays until there is something newer.
        state = _State(peer, known.bundle if known else _published(view, domain, peer))
        self._states[domain.key, peer.trust_domain] = state
        return state

    async def _look(self, key: Key, state: _State) -> None:
        """Fetch a bundle and judge it."""
        bundle, trouble = None, None
        try:
            document = await self._read(state.peer)
            bundle = federation.read_bundle(document, state.peer.trust_domain)
            if federation.is_older(bundle, state.bundle):
                bundle, trouble = None, (INVALID, "the bundle is older than the one that was taken last")
        except MalformedError as error:
            trouble = INVALID, str(error)
        except PortError as error:
            trouble = FETCH_FAILED, str(error)
        except Exception as error:  # noqa: BLE001  # a document that nobody thought of must not stop the others
            trouble = INVALID, f"the bundle can't be read ({type(error).__name__})"
        state.trouble = trouble
        state.failures = state.failures + 1 if trouble else 0
        state.bundle = bundle or state.bundle
        pause = min(RETRY_FIRST * 2 ** min(state.failures - 1, 10), RETRY_LIMIT) if trouble else None
        if state.peer.config_map is not None:
            pause = LOOK_AT_SOURCES_EVERY
        elif bundle is not None:
            pause = bundle.refresh
        state.next_fetch = self._clock() + (pause or RETRY_FIRST)
        state.fetching = None
        self._wake({key})

    async def _read(self, peer: Peer) -> bytes:
        if peer.url is not None and self._fetch is not None:
            return await self._fetch(peer.url, peer.authorities, federation.LONGEST_BUNDLE)
        if peer.config_map is None:
            raise RejectedError("nothing is fetched here")
        name, data_key = peer.config_map
        view = await self._config_maps.read(self._inventory.authority_namespace, name)
        if view is None:
            raise MalformedError(f"ConfigMap {name} does not exist in the operator's namespace")
        return view.value(data_key)

    async def _publish(
        self, domain: TrustDomain, states: list[_State], name: str, view: SecretView | None
    ) -> tuple[str, str] | None:
        """Bring the ConfigMap to what is known; return what stands in the way. Raises PortError."""
        data, too_large = _fitting(states)
        trouble = (
            (TOO_LARGE, f"{too_large[0]}: its bundle does not fit into one ConfigMap with the others")
            if too_large
            else None
        )
        if view is None and not data:
            return trouble
        content = SecretContent.of("", data, {})
        labels = {ownership.TRUST_DOMAIN_LABEL: domain.meta.name}
        metadata = ownership.metadata_for(Kind.TRUST_DOMAIN, domain.meta, domain.deletion_policy, name, labels, content)
        namespace = self._inventory.authority_namespace
        view = view or await self._config_maps.read(namespace, name)  # one that is not ours is in no watch
        if view is None:
            new = await self._config_maps.create(namespace, name, content, metadata)
        elif not ownership.is_owned(view, Kind.TRUST_DOMAIN, domain.meta):
            return CONFLICT, f"ConfigMap {name} belongs to something else"
        elif dict(view.data) == dict(content.data) and ownership.satisfied(view, metadata):
            return trouble
        else:
            new = await self._config_maps.replace(view, content, metadata)
        self._inventory.put_config_map(new)
        logger.info("%s: published the bundles of other trust domains in ConfigMap %s", domain.key, name)
        return trouble

    def _condition(self, states: list[_State], trouble: tuple[str, str] | None) -> Condition:
        if trouble is not None:
            return CONDITION, False, *trouble
        for state in states:
            if state.trouble is not None:
                kept = "; the last good one stays" if state.bundle is not None else ""
                return CONDITION, False, state.trouble[0], f"{state.peer.trust_domain}: {state.trouble[1]}{kept}"
        missing = [state.peer.trust_domain for state in states if state.bundle is None]
        if missing:
            return CONDITION, False, NOT_YET, f"{missing[0]}: its bundle has not been read yet"
        return CONDITION, True, FEDERATED, f"the bundles of {len(states)} other trust domains are published"


def _fitting(states: Iterable[_State]) -> tuple[dict[str, bytes], list[str]]:
    """Return what is published, and who is left out because all together are too large: those with the largest bundles.

    What another trust domain sends may be as large as it likes, up to a limit; the others do not suffer for it.
    """
    each = {s.peer.trust_domain: s.bundle.data(s.peer.trust_domain) for s in states if s.bundle is not None}
    sizes = {name: sum(len(key) + len(value) for key, value in data.items()) for name, data in each.items()}
    left_out: list[str] = []
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if sum(sizes[kept] for kept in sizes.keys() - {*left_out}) > SIZE_LIMIT:
            left_out.append(name)
    return {key: value for name in each.keys() - {*left_out} for key, value in sorted(each[name].items())}, left_out


def _published(view: SecretView | None, domain: TrustDomain, peer: Peer) -> ForeignBundle | None:
    """Return the last good bundle, as an earlier process published it."""
    if view is None or not ownership.is_owned(view, Kind.TRUST_DOMAIN, domain.meta):
        return None
    try:
        return federation.read_bundle(view.value(f"{peer.trust_domain}.bundle.json"), peer.trust_domain)
    except MalformedError:
        return None


def _told_before(recorded: Mapping[str, Any], generation: int) -> Condition | None:
    """Return what the status says of this spec: after a start it stays until something else is known."""
    found = (one for one in recorded.get("conditions") or () if one.get("type") == CONDITION)
    old = next(found, None)
    if old is None or old.get("observedGeneration") != generation:
        return None
    return CONDITION, old.get("status") == "True", str(old.get("reason")), str(old.get("message"))
