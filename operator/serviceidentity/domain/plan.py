"""The plan for one identity: what to write, restore or remove now, and what can't be done and why.

`plan(seen, now)` is the whole decision. The operator carries out the list it returns; whoever wants to know beforehand
prints the same list.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from serviceidentity.domain import ownership
from serviceidentity.domain.credentials import credentials_of, jwt
from serviceidentity.domain.credentials.base import Credential, Due, Observed, Reason
from serviceidentity.domain.credentials.jwt import JwtKeys
from serviceidentity.domain.credentials.token import TokenSecret
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import DeletionPolicy, Kind, StoreKind
from serviceidentity.domain.ownership import Metadata
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import earliest, format_time, upcoming


@dataclass(frozen=True, slots=True)
class Write:
    """Render a credential and store it."""

    credential: Credential
    secret: str
    due: Due


@dataclass(frozen=True, slots=True)
class Restore:
    """Store what the Secret should hold once more: it was edited or deleted, or its metadata is not as wanted."""

    credential: Credential
    secret: str
    due: Due


@dataclass(frozen=True, slots=True)
class Publish:
    """Write the ConfigMap with the public keys of a credential; its Secret is as it should be."""

    credential: JwtKeys
    config_map: str
    due: Due


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a Secret or ConfigMap of ours that is no longer asked for."""

    secret: str
    due: Due
    kind: StoreKind = StoreKind.SECRET


@dataclass(frozen=True, slots=True)
class Hold:
    """A credential has to wait. `intact`: what is there is as it should be, and only nothing new is issued."""

    credential: Credential
    held: Held
    intact: bool = False


Action = Write | Restore | Publish | Remove | Hold


def plan(seen: Observed, now: datetime) -> tuple[Action, ...]:
    """Return what to do now for one identity; empty when everything is as it should be, or must be left alone."""
    if seen.identity.meta.deleting or seen.identity.suspend:
        return ()
    requested = credentials_of(seen.identity)
    actions = [action for credential in requested for action in _for_credential(credential, seen, now)]
    return (*actions, *_removals(seen, {action.credential.name for action in actions if isinstance(action, Hold)}))


def deadline(seen: Observed, now: datetime) -> datetime | None:
    """When the identity needs attention next, if nothing changes before."""
    if seen.identity.meta.deleting or seen.identity.suspend:
        return None
    due = []
    for credential in credentials_of(seen.identity):
        try:
            due.append(credential.deadline(seen, now))
        except (PkiError, MalformedError):
            due.append(None)  # unreadable content is written anew at once, or held for a reason of its own
    return upcoming(now, *due)


def next_refresh(seen: Observed, now: datetime) -> datetime | None:
    """When a token needs attention next. Not part of `deadline`, which is in the status and would change each time."""
    if seen.identity.meta.deleting or seen.identity.suspend:
        return None
    tokens = (one for one in credentials_of(seen.identity) if isinstance(one, TokenSecret))
    return earliest(*(token.next_refresh(seen, now) for token in tokens))


def next_defect(seen: Observed, now: datetime) -> datetime | None:
    """When something of a suspended identity stops being of use: nothing is done about it, but its status says so."""
    if not seen.identity.suspend:
        return None
    return upcoming(now, *(credential.ends(seen) for credential in credentials_of(seen.identity)))


def metadata_of(seen: Observed, credential: Credential, content: SecretContent | SecretView) -> Metadata:
    """Return the metadata that a credential's Secret must have."""
    return ownership.metadata_for(
        Kind.SERVICE_IDENTITY,
        seen.identity.meta,
        seen.identity.deletion_policy,
        credential.secret_name(seen.identity),
        {ownership.IDENTITY_LABEL: seen.identity.meta.name, ownership.CREDENTIAL_LABEL: credential.name},
        SecretContent(content.type, content.data, ownership.records_of(content)),
        credential.template(seen.identity),
    )


def _for_credential(credential: Credential, seen: Observed, now: datetime) -> list[Action]:
    actions = _for_secret(credential, seen, now)
    if isinstance(credential, JwtKeys) and not any(isinstance(action, Write | Restore) for action in actions):
        # Who writes the Secret publishes first, so that is a step of its own only when the Secret stays as it is.
        due, spec = jwt.unpublished(seen, now), jwt.signing_key(seen.identity)
        actions += [Publish(credential, spec.config_map_name, due)] if due is not None and spec is not None else []
    return actions


def _for_secret(credential: Credential, seen: Observed, now: datetime) -> list[Action]:
    secret = credential.secret_name(seen.identity)
    outcome = credential.decide(seen, now)
    denied = _denied(credential, seen, outcome)
    held: list[Action] = [] if denied is None else [Hold(credential, denied, intact=outcome is None)]
    if isinstance(outcome, Due) and (denied is None or not _is_new(outcome)):
        return [*held, Write(credential, secret, outcome)]
    if isinstance(outcome, Held) and denied is None:
        held = [Hold(credential, outcome)]
    if repairs := meanwhile(credential, seen, now, trust=outcome is not None):
        return [*held, *repairs]
    view = seen.contents.get(secret)
    if held or view is None:
        return held
    if not ownership.satisfied(seen.found.get(secret, view), metadata_of(seen, credential, view)):
        return [
            Restore(credential, secret, Due(Reason.METADATA_CHANGED, "labels, annotations or owner changed", False))
        ]
    return []


def meanwhile(credential: Credential, seen: Observed, now: datetime, *, trust: bool = True) -> list[Write | Restore]:
    """Return what is done for a credential that can't be issued anew yet: drift is repaired, `trust` is published."""
    secret = credential.secret_name(seen.identity)
    if secret in seen.drifted:
        message = f"Secret {secret} was {seen.drifted[secret]} by someone else"
        return [Restore(credential, secret, Due(Reason.DRIFTED, message, fresh=False))]
    due = credential.meanwhile(seen, now) if trust else None
    return [Write(credential, secret, due)] if due is not None else []


def _denied(credential: Credential, seen: Observed, outcome: Due | Held | None) -> Held | None:
    """Return why nothing new may be issued of a credential, and what becomes of what was issued before."""
    denied = seen.denial_of(credential.name) if credential.governed else None
    if denied is None:
        return None
    if credential.secret_name(seen.identity) not in seen.contents:
        return Held(denied.reason, denied.message)
    if isinstance(outcome, Due) and outcome.reason in _NOT_KEPT:
        return Held(
            denied.reason, f"{denied.message}; what was issued before has to be replaced, and is not: {outcome.message}"
        )
    ends = credential.ends(seen)
    until = f"until it ends at {format_time(ends)}, and not renewed" if ends else "and not rotated"
    return Held(denied.reason, f"{denied.message}; what was issued before is kept {until}")


# Reasons to replace a credential that nobody is to accept any more, or soon: it is not just kept until it ends.
_NOT_KEPT = frozenset({Reason.REVOKED, Reason.EXPIRED, Reason.ISSUER_TAINTED, Reason.INCORRECT_ISSUER})


def _is_new(due: Due) -> bool:
    """Say whether something is issued, and not only written in another form."""
    return due.fresh or due.reason is Reason.DOES_NOT_EXIST


def _removals(seen: Observed, held: Collection[str]) -> list[Remove]:
    if seen.identity.deletion_policy is DeletionPolicy.RETAIN:
        return []
    wanted = {credential.secret_name(seen.identity) for credential in credentials_of(seen.identity)}
    # What a credential that has to wait is still served from, under an earlier name, stays until it has its new Secret.
    in_use = {name for name, v in seen.contents.items() if v.labels.get(ownership.CREDENTIAL_LABEL) in held}
    leftovers = sorted(seen.contents.keys() - wanted - in_use)
    due = Due(Reason.NOT_REQUESTED, "the spec does not ask for it any more", fresh=False)
    removals = [Remove(secret, due) for secret in leftovers if secret not in seen.drifted]
    spec = jwt.signing_key(seen.identity)
    published = set() if JwtKeys.name in held else seen.jwks.keys() - ({spec.config_map_name} if spec else set())
    return removals + [Remove(name, due, StoreKind.CONFIG_MAP) for name in sorted(published)]
