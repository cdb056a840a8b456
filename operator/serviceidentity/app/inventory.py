"""What the watches have seen, with the indexes that tell whom a change concerns.

Each `put` and `drop` returns the keys to wake. What the operator wrote itself comes back through the watches and wakes
nobody. Memory is bounded by the identities and the Secrets that carry the operator's label, not by the cluster.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from serviceidentity.app.access.index import PolicyIndex
from serviceidentity.app.copies import Copies
from serviceidentity.app.entries import Entry, is_older, read_entry
from serviceidentity.app.jwks import JwksIndex
from serviceidentity.app.jwt.published import Published
from serviceidentity.app.vault.connection_index import ConnectionIndex
from serviceidentity.app.vault.lease_records import LeaseRecords
from serviceidentity.domain import ownership, parse
from serviceidentity.domain.encryption import ring
from serviceidentity.domain.jwt import authority as token_authority
from serviceidentity.domain.material import Held, SecretView
from serviceidentity.domain.model import (
    ENCRYPTION_KEYS,
    Identity,
    Key,
    Kind,
    Meta,
    StoreKind,
    TrustDomain,
    access_policy_key,
    identity_key,
    trust_domain_key,
)
from serviceidentity.domain.policy.spec import Compile, no_expressions
from serviceidentity.domain.vault.templates import CompileTemplate, no_templates
from serviceidentity.errors import InvalidSpecError

Location = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Namespace:
    """What matters of a Namespace."""

    labels: Mapping[str, str]
    resource_version: int
    terminating: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)


class Inventory:
    """The cache behind every decision. Used from one event loop."""

    def __init__(
        self,
        authority_namespace: str,
        compile_rule: Compile = no_expressions,
        compile_template: CompileTemplate = no_templates,
        compile_access: Compile = no_expressions,
    ) -> None:
        self.authority_namespace = authority_namespace
        self._read_identity = partial(parse.identity, compile_template=compile_template)
        self._read_domain = partial(parse.trust_domain, compile_rule=compile_rule)
        self.identities: dict[Key, Entry[Identity]] = {}
        self.domains: dict[Key, Entry[TrustDomain]] = {}
        self.namespaces: dict[str, Namespace] = {}
        self.secrets: dict[Location, SecretView] = {}
        self.remembered: dict[Location, SecretView] = {}
        self.writing: dict[Location, Mapping[str, str]] = {}
        self.copies = Copies()
        self.jwks = JwksIndex()
        self.published = Published(authority_namespace)
        self.public_key: SecretView | None = None  # the ConfigMap that encrypted values are made with
        self.token_keys: SecretView | None = None  # the ConfigMap with the JWK Sets of the trust domains
        self.connections = ConnectionIndex()
        self.policies = PolicyIndex(compile_access)
        self.leases = LeaseRecords(authority_namespace)
        self._awaited: set[str] = set()
        self._gone: set[str] = set()
        self._owned: defaultdict[Key, set[Location]] = defaultdict(set)
        self._named_by: defaultdict[Key, set[Key]] = defaultdict(set)
        self._of_domain: defaultdict[str, set[Key]] = defaultdict(set)
        self._of_account: defaultdict[tuple[str, str], set[Key]] = defaultdict(set)

    @property
    def readers(self) -> Mapping[str, Callable[[Mapping[str, Any]], object]]:
        """What an object's JSON is read with, by kind: each raises InvalidSpecError, which is what its status says."""
        return {
            Kind.SERVICE_IDENTITY: self._read_identity,
            Kind.TRUST_DOMAIN: self._read_domain,
            Kind.VAULT_CONNECTION: self.connections.read,
            Kind.ACCESS_POLICY: self.policies.read,
        }

    def put_identity(self, body: Mapping[str, Any]) -> set[Key]:
        """Take in a ServiceIdentity as the API has it."""
        meta = body["metadata"]
        key = identity_key(meta["namespace"], meta["name"])
        old = self.identities.get(key)
        if is_older(body, old):
            return set()
        new = read_entry(body, self._read_identity, old)
        self.identities[key] = new
        if old is not None and new.meta == old.meta:
            return set() if new.status == old.status else {key}
        woken = (
            {key} | self._left(old, new) | self._unindex(key, old) | self._index(key, new) | self.leases.keys_of([key])
        )
        woken |= self.policies.concerned(old.meta if old else None, new.meta)
        if old is None or _callers(old) != _callers(new) or old.meta.uid != new.meta.uid:
            woken |= self._named_by.get(key, set())
        return woken

    def drop_identity(self, namespace: str, name: str, uid: str | None = None) -> set[Key]:
        """Forget a deleted ServiceIdentity; one re-created meanwhile (another uid) stays."""
        key = identity_key(namespace, name)
        old = self.identities.get(key)
        if old is None or (uid is not None and old.meta.uid != uid):
            return set()
        del self.identities[key]
        self._gone.add(old.meta.uid)
        self._forget_owner(key)
        self.jwks.forget_owner(key)
        policies = self.policies.forget_identity(old.meta)
        woken = policies | self._left(old, None) | self._unindex(key, old) | self._named_by.get(key, set()) | {key}
        return woken | self.leases.keys_of([key])

    def put_trust_domain(self, body: Mapping[str, Any]) -> set[Key]:
        """Take in a TrustDomain as the API has it."""
        key = trust_domain_key(body["metadata"]["name"])
        old = self.domains.get(key)
        if is_older(body, old):
            return set()
        new = read_entry(body, self._read_domain, old)
        self.domains[key] = new
        if old is not None and new.meta == old.meta:
            return set() if new.status == old.status else {key}
        identities = self.identities_of(key.name)
        return {key} | identities | self.policies.bundles_of(identities)

    def trust_domain(self, name: str) -> TrustDomain | Held:
        """Return the TrustDomain of that name, or why there is none to go by."""
        entry = self.domains.get(trust_domain_key(name))
        if entry is None:
            return Held("TrustDomainNotFound", f"trust domain {name} does not exist")
        if isinstance(entry.spec, InvalidSpecError):
            return Held("TrustDomainNotReady", f"trust domain {name} has an invalid spec")
        return entry.spec

    def drop_trust_domain(self, name: str, uid: str | None = None) -> set[Key]:
        """Forget a deleted TrustDomain."""
        key = trust_domain_key(name)
        old = self.domains.get(key)
        if old is None or (uid is not None and old.meta.uid != uid):
            return set()
        del self.domains[key]
        self._awaited.discard(name)
        self._gone.add(old.meta.uid)
        self._forget_owner(key)
        identities = self.identities_of(name)
        return {key} | identities | self.policies.bundles_of(identities) | self._namesakes(old)

    def put_vault_connection(self, body: Mapping[str, Any]) -> set[Key]:
        """Take in a VaultConnection as the API has it."""
        return self.connections.put(body)

    def drop_vault_connection(self, name: str, uid: str | None = None) -> set[Key]:
        """Forget a deleted VaultConnection."""
        entry = self.connections.entries.get(name)
        woken = self.connections.drop(name, uid)
        if woken and entry is not None:
            self._gone.add(entry.meta.uid)
        return woken

    def put_access_policy(self, body: Mapping[str, Any]) -> set[Key]:
        """Take in an AccessPolicy as the API has it."""
        return self.policies.put(body, self._metas_of)

    def drop_access_policy(self, namespace: str, name: str, uid: str | None = None) -> set[Key]:
        """Forget a deleted AccessPolicy; one re-created meanwhile (another uid) stays."""
        entry = self.policies.entries.get(access_policy_key(namespace, name))
        woken = self.policies.drop(namespace, name, uid, self._metas_of)
        if woken and entry is not None:
            self._gone.add(entry.meta.uid)
        return woken

    def _metas_of(self, namespace: str) -> list[Meta]:
        return [entry.meta for key, entry in self.identities.items() if key.namespace == namespace]

    def put_namespace(self, body: Mapping[str, Any]) -> set[Key]:
        """Take in a Namespace: its labels decide what may be issued in it, and which bundles it gets."""
        meta = body["metadata"]
        old = self.namespaces.get(meta["name"])
        version, terminating = int(meta.get("resourceVersion") or 0), bool(meta.get("deletionTimestamp"))
        new = Namespace(dict(meta.get("labels") or {}), version, terminating, dict(meta.get("annotations") or {}))
        if old is not None and new.resource_version <= old.resource_version:
            return set()
        self.namespaces[meta["name"]] = new
        inside = {key for key in self.identities if key.namespace == meta["name"]}
        if old is None or (old.labels, old.terminating) != (new.labels, new.terminating):
            return inside | self.domains.keys()
        return inside if old.annotations != new.annotations else set()  # rules may look at them

    def drop_namespace(self, name: str) -> set[Key]:
        """Forget a Namespace: fewer are to have the trust bundles now. What was in it goes by itself."""
        return set() if self.namespaces.pop(name, None) is None else set(self.domains)

    def put_config_map(self, view: SecretView) -> set[Key]:
        """Take in a ConfigMap with our label: a trust bundle, an identity's JWK Set, or the key to encrypt with."""
        woken = self.published.put(view)
        if (view.namespace, view.name) == (self.authority_namespace, ring.PUBLIC_NAME):
            old, self.public_key = self.public_key, view
            if old is not None and view.resource_version <= old.resource_version:
                self.public_key = old
            return set() if self.public_key is old else {ENCRYPTION_KEYS}
        if (view.namespace, view.name) == (self.authority_namespace, token_authority.CONFIG_MAP):
            return self._put_token_keys(view)
        if self.policies.bundles.concerns(view) and not self.copies.concerns(StoreKind.CONFIG_MAP, view):
            return woken | self.policies.bundles.put(view)
        if self.jwks.concerns(view) and not self.copies.concerns(StoreKind.CONFIG_MAP, view):
            return woken | self.jwks.put(view)
        return woken | self.copies.put(StoreKind.CONFIG_MAP, view)

    def drop_config_map(self, namespace: str, name: str, uid: str) -> set[Key]:
        """Forget a ConfigMap that is gone, or that lost our label."""
        self._gone.add(uid)
        woken = self.published.drop(namespace, name, uid)
        if self.public_key is not None and self.public_key.uid == uid:
            self.public_key = None
            return {ENCRYPTION_KEYS}
        if self.token_keys is not None and self.token_keys.uid == uid:
            return woken | self._put_token_keys(None)
        woken |= self.jwks.drop((namespace, name), uid) | self.policies.bundles.drop((namespace, name), uid)
        return woken | self.copies.drop(StoreKind.CONFIG_MAP, namespace, name, uid)

    def _put_token_keys(self, view: SecretView | None) -> set[Key]:
        """Take in the ConfigMap of the JWK Sets; return the trust domains whose set is another one, or ceases to be."""
        old = self.token_keys
        if view is not None and old is not None and view.resource_version <= old.resource_version:
            return set()
        self.token_keys = view
        before, after = (dict(one.data) if one is not None else {} for one in (old, view))
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        return {trust_domain_key(name.removesuffix(".json")) for name in changed}

    def put_secret(self, view: SecretView) -> set[Key]:
        """Take in a Secret that carries our label. An older version than the known one is ignored.

        Resource versions of one resource may be compared since Kubernetes 1.35 (KEP-5504).
        """
        if self.leases.concerns(view):
            return self.leases.put(view)
        location = (view.namespace, view.name)
        old = self.secrets.get(location)
        if old is None and self.copies.concerns(StoreKind.SECRET, view):
            return self.copies.put(StoreKind.SECRET, view)
        if old is not None and view.resource_version <= old.resource_version:
            return set()
        self.secrets[location] = view
        for key in self._owners_of(view):
            self._owned[key].add(location)
        if view.data == self.writing.get(location):
            return set()
        if old is not None and old == view:
            return set()
        return self.concerned(view) | (self.concerned(old) if old else set())

    def drop_secret(self, namespace: str, name: str, uid: str | None = None) -> set[Key]:
        """Forget a Secret that is gone, or that lost our label; one re-created meanwhile (another uid) stays."""
        if self.leases.has(namespace, name):
            self._gone |= {uid} if uid else set()
            return self.leases.drop(name, uid)
        location = (namespace, name)
        old = self.secrets.get(location)
        if old is None:
            self._gone |= {uid} if uid else set()
            return self.copies.drop(StoreKind.SECRET, namespace, name, uid)
        if uid is not None and old.uid != uid:
            return set()
        del self.secrets[location]
        self._gone.add(old.uid)
        for key in self._owners_of(old):
            if key not in self.identities and key not in self.domains:
                self._discard(key, location)
        return self.concerned(old)

    def expect_lists(self) -> None:
        """Say that complete lists are being read: what is deleted from now on is not brought back by them."""
        self._gone.clear()

    def resync(
        self,
        namespaces: Collection[Mapping[str, Any]],
        identities: Iterable[Mapping[str, Any]],
        domains: Iterable[Mapping[str, Any]],
        secrets: Iterable[SecretView],
        as_of: Callable[[str], int],
        config_maps: Iterable[SecretView] = (),
        connections: Iterable[Mapping[str, Any]] = (),
        policies: Iterable[Mapping[str, Any]] = (),
    ) -> set[Key]:
        """Take in complete lists and forget what is not in them, as far as it was not made after the list.

        `as_of` gives each list's resource version by its name. This finds deletions that a broken watch never told.
        """
        woken: set[Key] = set()
        found: set[Key] = set()
        for body in namespaces:
            woken |= self.put_namespace(body)
        for body in (body for body in domains if body["metadata"]["uid"] not in self._gone):
            woken |= self.put_trust_domain(body)
            found.add(trust_domain_key(body["metadata"]["name"]))
        woken |= self._resync_connections(connections, as_of)
        woken |= self._resync_policies(policies, as_of)
        for body in (body for body in identities if body["metadata"]["uid"] not in self._gone):
            woken |= self.put_identity(body)
            found.add(identity_key(body["metadata"]["namespace"], body["metadata"]["name"]))
        locations = set()
        for view in (view for view in secrets if view.uid not in self._gone):
            woken |= self.put_secret(view)
            locations.add((view.namespace, view.name))
        names = {body["metadata"]["name"] for body in namespaces}
        for name in [
            n for n, e in self.namespaces.items() if n not in names and e.resource_version <= as_of("namespaces")
        ]:
            woken |= self.drop_namespace(name)
        for key in [k for k, e in self.domains.items() if k not in found and e.resource_version <= as_of("domains")]:
            woken |= self.drop_trust_domain(key.name)
        for key in [
            k for k, e in self.identities.items() if k not in found and e.resource_version <= as_of("identities")
        ]:
            woken |= self.drop_identity(key.namespace, key.name)
        for location in [
            at for at, v in self.secrets.items() if at not in locations and v.resource_version <= as_of("secrets")
        ]:
            woken |= self.drop_secret(*location)
        for record in self.leases.missing_from(locations, as_of("secrets")):
            woken |= self.leases.drop(record)
        return woken | self._resync_copies(config_maps, locations, as_of)

    def _resync_connections(self, bodies: Iterable[Mapping[str, Any]], as_of: Callable[[str], int]) -> set[Key]:
        woken, found = set[Key](), set[str]()
        for body in (body for body in bodies if body["metadata"]["uid"] not in self._gone):
            woken |= self.put_vault_connection(body)
            found.add(body["metadata"]["name"])
        entries = self.connections.entries.items()
        for name in [n for n, e in entries if n not in found and e.resource_version <= as_of("connections")]:
            woken |= self.drop_vault_connection(name)
        return woken

    def _resync_policies(self, bodies: Iterable[Mapping[str, Any]], as_of: Callable[[str], int]) -> set[Key]:
        woken, found = set[Key](), set[Key]()
        for body in (body for body in bodies if body["metadata"]["uid"] not in self._gone):
            woken |= self.put_access_policy(body)
            found.add(access_policy_key(body["metadata"]["namespace"], body["metadata"]["name"]))
        entries = self.policies.entries.items()
        for key in [k for k, e in entries if k not in found and e.resource_version <= as_of("policies")]:
            woken |= self.drop_access_policy(key.namespace, key.name)
        return woken

    def _resync_copies(
        self, config_maps: Iterable[SecretView], secrets: set[Location], as_of: Callable[[str], int]
    ) -> set[Key]:
        woken, found = set(), set()
        for view in (view for view in config_maps if view.uid not in self._gone):
            woken |= self.put_config_map(view)
            found.add((view.namespace, view.name))
        woken |= self.published.keep(found, as_of("config_maps"))
        public = self.public_key
        if public and (public.namespace, public.name) not in found and public.resource_version <= as_of("config_maps"):
            self.public_key = None
            woken.add(ENCRYPTION_KEYS)
        for index in (self.jwks, self.policies.bundles):
            for location in index.missing_from(found, as_of("config_maps")):
                woken |= index.drop(location)
        sets = self.token_keys
        if sets and (sets.namespace, sets.name) not in found and sets.resource_version <= as_of("config_maps"):
            woken |= self._put_token_keys(None)
        gone = self.copies.missing_from(StoreKind.CONFIG_MAP, found, as_of("config_maps"))
        gone += self.copies.missing_from(StoreKind.SECRET, secrets, as_of("secrets"))
        for target in gone:
            woken |= self.copies.drop(target.kind, target.namespace, target.name)
        return woken

    def remember(self, view: SecretView) -> None:
        """Take note that this is what the Secret should hold from now on."""
        self.remembered[(view.namespace, view.name)] = view
        for key in self._owners_of(view):
            self._owned[key].add((view.namespace, view.name))

    def good(self, location: Location) -> SecretView | None:
        """Return what the Secret should hold, if that is known and no other instance has written it anew."""
        good, found = self.remembered.get(location), self.secrets.get(location)
        return None if good is not None and found is not None and ownership.is_rewritten(found, good) else good

    def owns(self, view: SecretView, kind: Kind, meta: Meta) -> bool:
        """Say whether the Secret is the object's: by what it says of itself, or as the very one that was written here.

        Labels and references that somebody took off are drift, and are put back.
        """
        remembered = self.remembered.get((view.namespace, view.name))
        ours = remembered is not None and remembered.uid == view.uid and ownership.is_owned(remembered, kind, meta)
        return ours or ownership.is_owned(view, kind, meta)

    def forget_secret(self, location: Location) -> None:
        """A Secret of ours was removed on purpose."""
        self.remembered.pop(location, None)
        self.secrets.pop(location, None)
        for locations in self._owned.values():
            locations.discard(location)

    def _forget_owner(self, key: Key) -> None:
        """The object is gone: what its Secrets should hold is nobody's business any more."""
        for location in list(self._owned.get(key, ())):
            self.remembered.pop(location, None)
            if location not in self.secrets:
                self._discard(key, location)

    def _discard(self, key: Key, location: Location) -> None:
        self._owned[key].discard(location)
        if not self._owned[key]:
            del self._owned[key]

    def locations_of(self, key: Key) -> set[Location]:
        """Where the Secrets are, or were, that say they belong to the object."""
        return self._owned.get(key, set())

    def callers_naming(self, verifier: Key) -> set[Key]:
        """Return the identities that named this one as a verifier of their requests."""
        return self._named_by.get(verifier, set())

    def identities_of(self, domain: str) -> set[Key]:
        """Return the identities that refer to a trust domain."""
        return set(self._of_domain.get(domain, ()))

    def set_awaited(self, domain: str, *, waiting: bool) -> None:
        """Say whether a trust domain goes on when identities have left it.

        It looks at all of them, so a thousand that are deleted must not make it look a thousand times for nothing.
        """
        (self._awaited.add if waiting else self._awaited.discard)(domain)

    def _left(self, old: Entry[Identity] | None, new: Entry[Identity] | None) -> set[Key]:
        """Return the trust domain that an identity does not use any more, if that waited for it."""
        before, after = _domain(old), _domain(new)
        return {trust_domain_key(before)} if before in self._awaited and before != after else set()

    def identities_as(self, namespace: str, service_account: str) -> set[Key]:
        """Return the identities of a service account: their SPIFFE IDs differ by trust domain only."""
        return set(self._of_account.get((namespace, service_account), ()))

    def _sharers(self, key: Key, spec: Identity) -> set[Key]:
        """Return whom it concerns who has the identity's SPIFFE ID: those that want it, and who is shown it by them."""
        others = self.identities_as(key.namespace, spec.service_account) - {key}
        specs = [entry.spec for other in others if (entry := self.identities.get(other)) is not None]
        hmacs = (other.hmac for other in specs if not isinstance(other, InvalidSpecError))
        return others | {verifier for hmac in hmacs if hmac is not None for verifier in hmac.verifiers}

    def _namesakes(self, gone: Entry[TrustDomain]) -> set[Key]:
        """Return the TrustDomains that may have been waiting for the same SPIFFE trust domain."""
        if isinstance(gone.spec, InvalidSpecError):
            return set()
        name = gone.spec.trust_domain
        specs = ((key, entry.spec) for key, entry in self.domains.items())
        return {key for key, spec in specs if not isinstance(spec, InvalidSpecError) and spec.trust_domain == name}

    def _index(self, key: Key, entry: Entry[Identity]) -> set[Key]:
        if isinstance(entry.spec, InvalidSpecError):
            return set()
        self._of_domain[entry.spec.trust_domain].add(key)
        self.connections.add_user(key, entry.spec)
        sharers = self._sharers(key, entry.spec)
        self._of_account[key.namespace, entry.spec.service_account].add(key)
        verifiers = set(entry.spec.hmac.verifiers) if entry.spec.hmac else set()
        for verifier in verifiers:
            self._named_by[verifier].add(key)
        return verifiers | sharers

    def _unindex(self, key: Key, entry: Entry[Identity] | None) -> set[Key]:
        if entry is None or isinstance(entry.spec, InvalidSpecError):
            return set()
        self._of_domain[entry.spec.trust_domain].discard(key)
        self.connections.remove_user(key, entry.spec)
        account = (key.namespace, entry.spec.service_account)
        self._of_account[account].discard(key)
        if not self._of_account[account]:
            del self._of_account[account]
        sharers = self._sharers(key, entry.spec)
        verifiers = set(entry.spec.hmac.verifiers) if entry.spec.hmac else set()
        for verifier in verifiers:
            self._named_by[verifier].discard(key)
        return verifiers | sharers

    def _owners_of(self, view: SecretView) -> list[Key]:
        if domain := view.labels.get(ownership.TRUST_DOMAIN_LABEL):
            # An authority counts only in the operator's own namespace: a label elsewhere is anybody's to set.
            return [trust_domain_key(domain)] if view.namespace == self.authority_namespace else []
        if (view.namespace, view.name) == (self.authority_namespace, ring.SECRET_NAME):
            return [ENCRYPTION_KEYS]
        names = {view.labels.get(ownership.IDENTITY_LABEL)}
        names.add(view.annotations.get(ownership.ADOPT_ANNOTATION))
        names |= {str(owner.get("name")) for owner in view.owners if owner.get("kind") == Kind.SERVICE_IDENTITY}
        return [identity_key(view.namespace, name) for name in names if name]

    def concerned(self, view: SecretView) -> set[Key]:
        """Return the owner, and for shared keys those who deliver them or wait for their delivery."""
        owners = self._owners_of(view)
        leased = ownership.VAULT_LEASE_ANNOTATION in view.annotations
        return {*owners} | self.sharing(view) | (self.leases.keys_of(owners) if leased else set())

    def sharing(self, view: SecretView) -> set[Key]:
        """Return who delivers the keys in a Secret or waits for their delivery; an identity may verify its own."""
        concerned: set[Key] = set()
        for owner in self._owners_of(view):
            entry = self.identities.get(owner)
            if entry is not None and not isinstance(entry.spec, InvalidSpecError):
                if entry.spec.hmac is not None and view.name == entry.spec.hmac.secret_name:
                    concerned |= set(entry.spec.hmac.verifiers)
                if view.name == entry.spec.keyring_secret_name:
                    concerned |= self.callers_naming(owner)
        return concerned


def _domain(entry: Entry[Identity] | None) -> str | None:
    if entry is None or entry.meta.deleting or isinstance(entry.spec, InvalidSpecError):
        return None
    return entry.spec.trust_domain


def _callers(entry: Entry[Identity]) -> object:
    return None if isinstance(entry.spec, InvalidSpecError) else (entry.spec.callers, entry.spec.suspend)
