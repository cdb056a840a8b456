"""One pass over one ServiceIdentity: gather, plan, apply, report."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from serviceidentity.app.admission import Admission
from serviceidentity.app.crl_registry import CrlRegistry
from serviceidentity.app.encryption import EncryptionKeys
from serviceidentity.app.entries import Entry
from serviceidentity.app.jwt.issuers import NOT_MADE, TokenIssuers
from serviceidentity.app.leaves import LeafRefusedError, LeafSigner, SignerAwayError
from serviceidentity.app.pace import Pace
from serviceidentity.app.ports import Secrets, Workloads
from serviceidentity.app.reconciler import Reconciler
from serviceidentity.app.rollouts import Rollouts
from serviceidentity.app.vault.sources import VaultAwayError, VaultRefusedError, VaultSources
from serviceidentity.app.writer import ForeignSecretError, Writer
from serviceidentity.domain import ownership, status
from serviceidentity.domain import plan as planning
from serviceidentity.domain.authority import Trust
from serviceidentity.domain.credentials import credentials_of, jwt, keyring, revocation
from serviceidentity.domain.credentials.base import NO_ISSUER, NO_VALUES, Caller, Credential, Made, Observed, Reason
from serviceidentity.domain.credentials.hmac import read_ring
from serviceidentity.domain.credentials.jwt import JwtKeys
from serviceidentity.domain.credentials.keystores import needs_password
from serviceidentity.domain.credentials.token import TokenSecret
from serviceidentity.domain.credentials.vault import VaultSecret
from serviceidentity.domain.encryption.opening import Problem
from serviceidentity.domain.jwt import publication
from serviceidentity.domain.jwt.issuer import TokenIssuer
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.key_ring import Ring
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import Identity, Key, Kind, StoreKind, trust_domain_key
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import KeyAlgorithm
from serviceidentity.domain.plan import Hold, Publish, Remove, Restore, Write
from serviceidentity.domain.policy.checks import Denial, DenialReason
from serviceidentity.domain.schedule import BACKOFF_LIMIT, earliest, parse_time
from serviceidentity.domain.status import Failure
from serviceidentity.domain.vault.content import ContentError
from serviceidentity.domain.vault.spec import PkiSource
from serviceidentity.domain.vault.views import Answer, VaultOrder
from serviceidentity.errors import (
    ConflictError,
    InvalidSpecError,
    MissingError,
    RejectedError,
    RetryableError,
    ServiceIdentityError,
)

logger = logging.getLogger(__name__)

Due = Write | Restore | Publish | Remove
_PACED = frozenset({Reason.ISSUER_TAINTED, Reason.INCORRECT_ISSUER})
Obstacle = Held | Failure
_PASSWORD_RETRY = timedelta(seconds=10)
_REFUSED_RETRY = timedelta(minutes=15)  # a role or a right may be given at Vault any time, and no watch tells of it
# At the first start, or in a new namespace: over before anyone could read of it.
_PASSING = frozenset(
    {"TrustDomainNotReady", NO_ISSUER.reason, DenialReason.NAMESPACE_NOT_SEEN.value, Problem.NOT_READ.value}
)


class PasswordMissingError(ServiceIdentityError):
    """The Secret that is to hold the keystores' password is not there, or has none."""


class IdentityReconciler(Reconciler):
    """Makes the Secrets of an identity what its spec asks for."""

    def __init__(
        self,
        *parts: Any,
        crls: CrlRegistry,
        workloads: Workloads,
        signer: LeafSigner,
        vault: VaultSources,
        encryption: EncryptionKeys,
        config_maps: Secrets,
        issuers: TokenIssuers,
        wake_later: Callable[[Key], None],
    ) -> None:
        super().__init__(*parts)
        self._wake_later = wake_later
        self._crls = crls
        self._signer = signer
        self._vault = vault
        self._encryption = encryption
        self._config_maps = Writer(config_maps, self._inventory.jwks, self._wake)
        self._issuers = issuers
        self._pace = Pace()
        self._rollouts = Rollouts(workloads, self._events, self._clock)
        self._admission = Admission(self._inventory, self._trust)

    async def reconcile(self, key: Key) -> datetime | None:
        """Do what is due for the identity and return when to come back; None means when something changes.

        Raises RetryableError and ConflictError: the caller tries again soon.
        """
        entry = self._inventory.identities.get(key)
        if entry is None or entry.meta.deleting:
            self._vault.forget(key)
            return None
        now = self._clock()
        if isinstance(entry.spec, InvalidSpecError):
            self._vault.forget(key)
            wanted = status.of_invalid(
                entry.meta, entry.spec.path, str(entry.spec).partition(": ")[2], entry.status, now
            )
            await self._report(key, entry, wanted)
            return None
        denied = self._admission.denials(entry.spec)
        seen = await self._gathered(entry.spec, denied)
        self._pass_on_revocations(seen, now)
        plan = planning.plan(seen, now)
        blocked = status.backing_off(entry.status, entry.meta, now)
        obstacles: dict[str, Obstacle] = {
            action.credential.name: action.held for action in plan if isinstance(action, Hold)
        }
        due = [action for action in plan if not isinstance(action, Hold)]
        actions = [action for action in due if isinstance(action, Remove) or action.credential.condition not in blocked]
        actions += self._while_blocked(seen, due, blocked, now)
        actions, turn = self._in_turn(seen, actions, now)
        failures: dict[str, Obstacle] = {
            action.credential.name: blocked[action.credential.condition]
            for action in due
            if not isinstance(action, Remove) and action.credential.condition in blocked
        }
        if actions:
            try:
                failures |= await self._apply(seen, actions, now)
            except MissingError:
                return None  # the namespace is on its way out, and the identity with it
            seen = await self._gathered(entry.spec, denied)
        elif turn is None:
            intact = {action.credential.name for action in plan if isinstance(action, Hold) and action.intact}
            self._remember_what_is_right(seen, (obstacles.keys() - intact) | failures.keys())
        rollout = await self._rollouts.advance(seen, entry.status)
        report = rollout.report if rollout else None
        wanted = status.of_identity(seen, obstacles | dict(failures), entry.status, now, report)
        before = (entry.status.get("conditions") or [{}])[0]
        was_ready = "Unknown" if before.get("reason") in _PASSING else before.get("status", "Unknown")
        await self._report(key, entry, wanted)
        if isinstance(seen.trust, Trust) and seen.trust.waiting:  # whatever happened here, it may be what it waited for
            self._wake_later(trust_domain_key(entry.spec.trust_domain))
        if seen.token_issuer == NOT_MADE and not entry.spec.suspend:
            self._wake_later(trust_domain_key(entry.spec.trust_domain))  # the first one that asks for a token
        self._tell(key, entry, was_ready, wanted, actions, failures)
        waits = (obstacle.retry for obstacle in failures.values() if isinstance(obstacle, Held))
        retry = self._rollouts.conclude(key, entry.meta.uid, rollout) if rollout else None
        again = self._vault.next_look(entry.spec)
        unsaid = (planning.next_defect(seen, now), planning.next_refresh(seen, now))
        return earliest(_next_look(wanted), *unsaid, turn, retry, again, *waits)

    def _pass_on_revocations(self, seen: Observed, now: datetime) -> None:
        """Let the trust domain look when something of the identity has to go on its revocation lists."""
        if self._trust.spiffe_domain(seen.identity.trust_domain) is None:
            return  # it is gone, or invalid, and wakes its identities when that changes
        meta, spec = seen.identity.meta, seen.identity.certificate
        views = revocation.secrets_of(seen.contents.values(), spec.secret_name) if spec is not None else []
        ours = [view for view in views if revocation.has_revocations(meta, view)]
        listed = {serial for _, serial in seen.revoked} if ours else set()
        if any(revocation.has_unlisted(meta, view, listed, now) for view in ours):
            self._wake_later(trust_domain_key(seen.identity.trust_domain))

    def _while_blocked(
        self, seen: Observed, due: Sequence[Due], blocked: Mapping[str, Failure], now: datetime
    ) -> list[Due]:
        """Return what is done for a credential whose issue failed, while that is not tried again."""
        names = {type_ for type_, failure in blocked.items() if failure.reason == status.ISSUE_FAILED}
        waiting = (a for a in due if isinstance(a, Write) and a.due.fresh and a.credential.condition in names)
        return [repair for action in waiting for repair in planning.meanwhile(action.credential, seen, now)]

    def _in_turn(self, seen: Observed, actions: list[Due], now: datetime) -> tuple[list[Due], datetime | None]:
        """Leave out what has to wait for its turn, when everything under an authority is replaced at once."""
        ready: list[Due] = []
        turns: list[datetime] = []
        for action in actions:
            paced = isinstance(action, Write) and action.due.reason in _PACED and not _is_token(action.credential)
            if not isinstance(action, Write) or not paced or not isinstance(seen.trust, Trust):
                ready.append(action)
                continue
            at = self._pace.turn(seen.identity.key, seen.trust.domain, now)
            if at <= now:
                ready.append(action)
            else:
                turns.append(at)
                ready += planning.meanwhile(action.credential, seen, now)
        return ready, earliest(*turns)

    async def _gathered(self, identity: Identity, denied: tuple[Denial, ...]) -> Observed:
        """Gather all that decisions about the identity depend on, with what Vault has for it."""
        seen = self.observe(identity, denied)
        known = await self._vault.gather(identity, seen.contents)
        return replace(seen, vault=known) if known else seen

    def observe(self, identity: Identity, denied: tuple[Denial, ...] = ()) -> Observed:
        """Gather all that decisions about the identity depend on. Pure reading of the inventory."""
        inventory = self._inventory
        contents: dict[str, SecretView] = {}
        drifted: dict[str, str] = {}
        holds = {credential.secret_name(identity): credential.name for credential in credentials_of(identity)}
        known_good: set[str] = set()
        for location in inventory.locations_of(identity.key):
            found, good = inventory.secrets.get(location), inventory.good(location)
            if found is not None and not inventory.owns(found, Kind.SERVICE_IDENTITY, identity.meta):
                continue
            view = good or found
            if view is None:
                continue
            name = location[1]
            contents[name] = view
            if good is not None and good.labels.get(ownership.CREDENTIAL_LABEL) == holds.get(name):
                known_good.add(name)  # good for what it is to hold: the spec may want another credential there now
            if found is None:
                drifted[name] = "deleted"
            elif good is not None and (found.data != good.data or found.type != good.type):
                drifted[name] = "edited"
        return Observed(
            identity=identity,
            trust=self._trust.of(identity.trust_domain, self._clock()),
            contents=contents,
            found={
                name: inventory.secrets[identity.meta.namespace, name]
                for name in contents
                if (identity.meta.namespace, name) in inventory.secrets
            },
            known_good=frozenset(known_good),
            drifted=drifted,
            callers=self._callers(identity) if identity.callers else (),
            published=self._published(identity) if identity.hmac else {},
            revoked=self._crls.revoked(identity.trust_domain) if identity.certificate else frozenset(),
            denied=denied,
            decrypted=self._encryption.open(identity) if identity.encrypted else NO_VALUES,
            jwks=inventory.jwks.of(identity.key, identity.meta),
            token_issuer=self._token_issuer(identity),
        )

    def _token_issuer(self, identity: Identity) -> TokenIssuer | Held:
        if identity.jwt is None or not identity.jwt.tokens:
            return NO_ISSUER
        return self._issuers.of(identity.trust_domain, self._clock())

    def _callers(self, identity: Identity) -> tuple[Caller, ...]:
        callers = []
        for key in sorted(self._inventory.callers_naming(identity.key)):
            caller = self._identity(key)
            if caller is None or caller.hmac is None or not identity.admits(key):
                continue
            callers.append(
                Caller(
                    key,
                    caller.hmac.service_id,
                    self._admission.spiffe_id(caller),
                    self._ring(caller),
                )
            )
        return tuple(callers)

    def _ring(self, caller: Identity) -> Ring | None:
        if caller.hmac is None:
            return None
        location = (caller.meta.namespace, caller.hmac.secret_name)
        view = self._inventory.good(location) or self._inventory.secrets.get(location)
        if view is None or not self._inventory.owns(view, Kind.SERVICE_IDENTITY, caller.meta):
            return None
        try:
            return read_ring(view)
        except MalformedError:
            return None

    def _published(self, identity: Identity) -> dict[Key, Mapping[str, datetime]]:
        published: dict[Key, Mapping[str, datetime]] = {}
        for key in identity.hmac.verifiers if identity.hmac else ():
            verifier = self._identity(key)
            if verifier is None or not verifier.admits(identity.key):
                continue
            view = self._inventory.secrets.get((key.namespace, verifier.keyring_secret_name))
            if view is None and self._is_denied(verifier):
                continue  # it gets no keyring, so waiting for it would be for ever
            service_id = identity.hmac.service_id if identity.hmac else ""
            since = keyring.published_since(view, identity.key, service_id) if view else {}
            if since is not None:
                published[key] = since
        return published

    def _is_denied(self, identity: Identity) -> bool:
        """Say whether nothing at all is issued for an identity."""
        return any(denial.whole for denial in self._admission.denials(identity))

    def _identity(self, key: Key) -> Identity | None:
        entry = self._inventory.identities.get(key)
        if entry is None or entry.meta.deleting or isinstance(entry.spec, InvalidSpecError):
            return None
        return entry.spec

    def _remember_what_is_right(self, seen: Observed, but: Collection[str]) -> None:
        """What needs nothing done is good as it is: from now on that is what drift is measured by."""
        for credential in credentials_of(seen.identity):
            if credential.name not in but:
                name = credential.secret_name(seen.identity)
                if name in seen.found and name not in seen.known_good:
                    self._inventory.remember(seen.found[name])

    async def _apply(self, seen: Observed, actions: Sequence[Due], now: datetime) -> dict[str, Obstacle]:
        stores = [action for action in actions if not isinstance(action, Remove)]
        outcomes = await asyncio.gather(*(self._store(seen, action, now) for action in stores), return_exceptions=True)
        failures: dict[str, Obstacle] = {}
        raised: list[BaseException] = []
        for action, outcome in zip(stores, outcomes, strict=True):
            obstacle = _obstacle(outcome, now)
            if obstacle is not None:
                failures[action.credential.name] = obstacle
            elif outcome is not None:
                raised.append(outcome)
        if raised:
            raise next((error for error in raised if not isinstance(error, ConflictError)), raised[0])
        if not failures:
            for removal in (action for action in actions if isinstance(action, Remove)):
                await self._remove(seen, removal)
        return failures

    async def _remove(self, seen: Observed, removal: Remove) -> None:
        if removal.kind is StoreKind.CONFIG_MAP:
            await self._config_maps.remove(seen.jwks[removal.secret])
            return
        view = self._inventory.secrets.get((seen.identity.meta.namespace, removal.secret))
        if view is not None:
            await self._writer.remove(view)

    async def _store(self, seen: Observed, action: Write | Restore | Publish, now: datetime) -> None:
        if isinstance(action, Publish):
            await self._publish(seen, seen.contents[action.credential.secret_name(seen.identity)])
            return
        if isinstance(action, Restore):
            await self._put(seen, action, seen.contents[action.secret])
            return
        try:
            made = await self._made(seen, action, now)
        except (PkiError, LeafRefusedError, SignerAwayError):
            # Trust goes on: a root that replaces who can't sign waits until everyone has it.
            for repair in planning.meanwhile(action.credential, seen, now):
                await self._store(seen, repair, now)
            raise
        try:
            content = await self._render(seen, action, made, now)
            same = _same_to_consumers(seen, action, content)
            await self._put(seen, action, ownership.with_content_id(content, secrets.token_hex(8), same))
        except BaseException as error:
            if isinstance(made, Answer):
                doubtful = isinstance(error, RetryableError | asyncio.CancelledError)
                await self._vault.abandoned(seen.identity, made, perhaps_stored=doubtful)
            raise
        if isinstance(made, Answer):
            await self._vault.stored(seen.identity, made)

    async def _put(self, seen: Observed, action: Write | Restore, content: SecretContent | SecretView) -> None:
        location = (seen.identity.meta.namespace, action.secret)
        metadata = planning.metadata_of(seen, action.credential, content)
        content = SecretContent(content.type, content.data, content.annotations)
        found = seen.found.get(action.secret)
        if isinstance(action.credential, JwtKeys):
            # Nothing is published for a Secret that is somebody else's.
            await self._writer.check(Kind.SERVICE_IDENTITY, seen.identity.meta, location, found)
            await self._publish(seen, content)
        await self._writer.store(Kind.SERVICE_IDENTITY, seen.identity.meta, location, content, metadata, found)

    async def _publish(self, seen: Observed, content: SecretContent | SecretView) -> None:
        """Write the ConfigMap for the signing keys in `content`, if it is not as it has to be."""
        meta, spec = seen.identity.meta, jwt.signing_key(seen.identity)
        wanted = jwt.to_publish(seen, content, self._clock())  # this is when the keys are published, not earlier
        if spec is None or wanted is None or jwt.is_published(seen, wanted):
            return
        name = spec.config_map_name
        metadata = publication.metadata_of(seen.identity, name, wanted)
        found = seen.jwks.get(name)
        await self._config_maps.store(Kind.SERVICE_IDENTITY, meta, (meta.namespace, name), wanted, metadata, found)

    async def _made(self, seen: Observed, action: Write, now: datetime) -> Made | None:
        """Have done by others what the content needs; None when it needs nothing."""
        credential = action.credential
        if _is_heavy(seen, credential):
            order = await asyncio.to_thread(credential.order, seen, action.due, now)
        else:
            order = credential.order(seen, action.due, now)
        if isinstance(order, VaultOrder):
            return await self._vault.deliver(seen.identity, order)
        signed = await self._signer.sign(order) if order is not None else None
        if signed is not None and credential.name == revocation.CREDENTIAL:
            await self._revoke_elsewhere(seen, now)  # before it is stored: then it is on record as done
        return signed

    async def _render(self, seen: Observed, action: Write, made: Made | None, now: datetime) -> SecretContent:
        password = None
        spec = seen.identity.certificate
        if action.credential.name == "certificate" and spec is not None and needs_password(spec):
            password = await self._keystore_password(seen.identity)
        credential, due = action.credential, action.due
        if _is_heavy(seen, credential):
            return await asyncio.to_thread(credential.render, seen, due, now, password, made)
        return credential.render(seen, due, now, password, made)

    async def _revoke_elsewhere(self, seen: Observed, now: datetime) -> None:
        """Have what is to be revoked, and was signed elsewhere, revoked there: its lists are not ours."""
        meta, spec = seen.identity.meta, seen.identity.certificate
        views = revocation.secrets_of(seen.contents.values(), spec.secret_name) if spec is not None else []
        asked = [view for view in views if ownership.revocation_requested(meta, view)]
        if asked and isinstance(seen.trust, Trust):
            issuers = self._trust.authorities(seen.trust.domain)
            await self._signer.revoke(revocation.elsewhere(meta, asked, issuers, now))

    async def _keystore_password(self, identity: Identity) -> bytes | None:
        ref = identity.certificate.keystore_password if identity.certificate else None
        if ref is None:
            return None
        view = await self._secrets.read(identity.meta.namespace, ref.name)
        try:
            password = view.value(ref.key) if view else b""
            text = password.decode()
        except (MalformedError, UnicodeDecodeError):
            text = ""
        if not text:
            raise PasswordMissingError(f"keystore password: Secret {ref.name} has no text under key {ref.key}")
        return password

    def _tell(
        self,
        key: Key,
        entry: Entry[Identity],
        was_ready: str,
        wanted: status.Json,
        written: Sequence[Due],
        failures: Mapping[str, Obstacle],
    ) -> None:
        """Log what was written; one Event when the identity has what it asks for, one when that ceases to be so."""
        ready = wanted["conditions"][0]
        reasons = ", ".join(sorted({action.due.reason.value for action in written}))
        if written and not failures:
            routine = all(action.due.routine for action in written)
            level = logging.DEBUG if routine else logging.INFO
            logger.log(level, "%s: wrote %s (%s)", key, ", ".join(map(_name_of, written)), reasons)
            if ready["status"] == "True" and not routine:
                self._events.emit(key, entry.meta.uid, "Issued", f"{ready['message']} ({reasons})")
        news = was_ready != "False" or any(
            isinstance(failure, Failure) and not failure.repeated for failure in failures.values()
        )
        if ready["status"] == "False" and news and ready["reason"] not in _PASSING:
            self._events.emit(key, entry.meta.uid, ready["reason"], ready["message"], warning=True)


def _name_of(action: Due) -> str:
    return action.config_map if isinstance(action, Publish) else action.secret


def _is_token(credential: Credential) -> bool:
    """A token whose key was withdrawn is refused already: each second that its successor waits is an outage.

    It costs a tenth of a millisecond and one write, not a key; how many are written at once is the workers' to limit.
    """
    return isinstance(credential, TokenSecret)


def _is_heavy(seen: Observed, credential: Credential) -> bool:
    """Up to a second of CPU for the largest keys; OpenSSL releases the interpreter while it looks for primes."""
    if isinstance(credential, VaultSecret):
        source = credential.secret.source
        return isinstance(source, PkiSource) and source.profile.algorithm is KeyAlgorithm.RSA
    if isinstance(credential, JwtKeys):
        signing = jwt.signing_key(seen.identity)
        return signing is not None and signing.rotation.algorithm in (Algorithm.RS256, Algorithm.PS256)
    spec = seen.identity.certificate
    return (
        credential.name == "certificate" and spec is not None and spec.private_key.profile.algorithm is KeyAlgorithm.RSA
    )


def _same_to_consumers(seen: Observed, action: Write, content: SecretContent) -> str | None:
    """Return the ID of the content that the Secret has, if the new one is the same to those who use it."""
    view = seen.contents.get(action.secret)
    if view is None or action.credential.consumed(view) != action.credential.consumed(content):
        return None
    return ownership.consumed_id(view)


def _obstacle(outcome: BaseException | None, now: datetime) -> Obstacle | None:
    """Return what an error means for the credential; None when it concerns the pass as a whole."""
    match outcome:
        case ForeignSecretError():
            return Failure(status.CONFLICT, str(outcome))
        case RejectedError():
            return Failure(status.REJECTED, str(outcome))
        case PkiError() | ContentError() | LeafRefusedError() | VaultRefusedError():
            asked = isinstance(outcome, LeafRefusedError | VaultRefusedError)
            return Failure(status.ISSUE_FAILED, str(outcome), limit=_REFUSED_RETRY if asked else BACKOFF_LIMIT)
        case SignerAwayError() | VaultAwayError():
            return Held(outcome.reason, str(outcome), retry=outcome.retry)
        case PasswordMissingError():  # no watch tells of a Secret that is not ours
            return Held("KeystorePasswordMissing", str(outcome), retry=now + _PASSWORD_RETRY)
    return None


def _next_look(wanted: status.Json) -> datetime | None:
    text = wanted.get("nextActionTime")
    return parse_time(text) if text else None
