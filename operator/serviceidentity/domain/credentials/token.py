"""The credentials behind `spec.jwt.tokens`: a token that the trust domain signs, in a Secret of its own, each.

When it is refreshed is read from the token itself, and is nowhere in the status: at rest a refresh is one write.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from serviceidentity.domain import ownership
from serviceidentity.domain.credentials.base import Due, Made, MadeHere, Observed, Reason
from serviceidentity.domain.jwt import tokens
from serviceidentity.domain.jwt.issuer import TokenIssuer
from serviceidentity.domain.jwt.spec import TokenSpec
from serviceidentity.domain.jwt.tokens import Token
from serviceidentity.domain.material import Held, KeyMaterial, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import Identity, SecretTemplate
from serviceidentity.domain.schedule import format_time, upcoming

SECRET_TYPE: Final = "serviceidentity.dev/token"  # noqa: S105  # a Secret's type, not a secret
DATA_KEY: Final = "token"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: whether this token, which `spec` asked for, has to be replaced now."""

    spec: TokenSpec
    seen: Observed
    token: Token
    now: datetime

    @property
    def issuer(self) -> TokenIssuer | None:
        """Who signs now; None when nobody does, and then only what the token says itself can be judged."""
        return self.seen.token_issuer if isinstance(self.seen.token_issuer, TokenIssuer) else None


Check = Callable[[Question], Due | None]


def read_token(view: SecretView) -> Token:
    """Return the token in a Secret. Raises MalformedError when there is none of ours, or more than that."""
    if set(view.data) != {DATA_KEY}:
        raise MalformedError("it does not hold a token, and nothing else")
    return tokens.read(KeyMaterial(view.value(DATA_KEY)))


def issuer_changed(asked: Question) -> Due | None:
    """Verifiers compare `iss` with the issuer that they were told of."""
    if asked.issuer is not None and asked.token.issuer != asked.issuer.issuer:
        return Due(Reason.INCORRECT_ISSUER, "the trust domain's tokens have another issuer now")
    return None


def key_withdrawn(asked: Question) -> Due | None:
    """A key that left the ring before its last token's end was revoked: verifiers refuse what it signed."""
    if asked.issuer is not None and asked.token.key_id not in asked.issuer.ring.key_ids:
        return Due(Reason.REVOKED, "the key that signed the token was revoked")
    return None


def not_genuine(asked: Question) -> Due | None:
    """Somebody edited it while nobody looked."""
    if asked.issuer is not None and not tokens.is_signed_by(asked.issuer.ring, asked.token):
        return Due(Reason.SECRET_MISMATCH, "the signature of the token in the Secret does not verify")
    return None


def request_changed(asked: Question) -> Due | None:
    """The spec asks for other claims, another lifetime, or is about another service account."""
    spec, token, identity = asked.spec, asked.token, asked.seen.identity
    about = tokens.subject_of(spec, identity, asked.issuer.spiffe_domain) if asked.issuer else token.subject
    if token.subject != about or token.lifetime != spec.lifetime or not tokens.same_claims(token, spec):
        return Due(Reason.REQUEST_CHANGED, "a token with other claims is asked for")
    return None


def rotation_requested(asked: Question) -> Due | None:
    """Somebody asked for a new one."""
    if ownership.rotation_requested(asked.seen.identity.meta, asked.seen.contents[asked.spec.secret_name]):
        return Due(Reason.ROTATION_REQUESTED, "a rotation was asked for")
    return None


def expired(asked: Question) -> Due | None:
    """Nobody accepts it any more (RFC 7519 4.1.4)."""
    if asked.now >= asked.token.expires:
        return Due(Reason.EXPIRED, f"the token expired at {format_time(asked.token.expires)}")
    return None


def from_the_future(asked: Question) -> Due | None:
    """The clock was put back: verifiers, whose clocks are right, don't accept the token yet (RFC 7519 4.1.5)."""
    if asked.token.issued > asked.now + tokens.LONGEST_AHEAD:
        return Due(Reason.RENEWING, "the token was signed by a clock that was ahead")
    return None


def refresh_due(asked: Question) -> Due | None:
    """Two thirds of its life have passed."""
    if asked.now >= asked.token.refresh_time(_seed(asked.spec, asked.seen)):
        return Due(Reason.RENEWING, "two thirds of the token's life have passed", routine=True)
    return None


# Whether it is any good comes before when it ends: the first reason is the one that is told.
REMINT: Final[tuple[Check, ...]] = (
    issuer_changed,
    key_withdrawn,
    not_genuine,
    request_changed,
    rotation_requested,
    expired,
    from_the_future,
    refresh_due,
)


class TokenSecret(MadeHere):
    """The credential of one entry of `spec.jwt.tokens`."""

    status_field = "tokens"
    listed = True
    governed = True

    def __init__(self, spec: TokenSpec) -> None:
        self.spec = spec
        self.name = spec.credential
        self.condition = f"TokenReady.{spec.name}"

    def requested(self, identity: Identity) -> bool:
        return identity.jwt is not None and self.spec in identity.jwt.tokens

    def secret_name(self, identity: Identity) -> str:
        return self.spec.secret_name

    def template(self, identity: Identity) -> SecretTemplate:
        return SecretTemplate(dict(self.spec.labels), dict(self.spec.annotations))

    def decide(self, seen: Observed, now: datetime) -> Due | Held | None:
        due, issuer = self._due(seen, now), seen.token_issuer
        if due is None or not isinstance(issuer, Held):
            return due  # a token that is still good is left alone, whether or not another could be signed
        if due.reason is Reason.EXPIRED:
            return Held(due.reason, f"{due.message}: {issuer.message}", issuer.retry)
        return issuer

    def render(
        self, seen: Observed, due: Due, now: datetime, password: bytes | None, made: Made | None = None
    ) -> SecretContent:
        issuer = seen.token_issuer
        if not isinstance(issuer, TokenIssuer):
            raise LookupError("nobody signs tokens")  # noqa: TRY004  # the type is not the caller's mistake
        token = tokens.mint(self.spec, seen.identity, issuer, secrets.token_hex(16), now)
        record = ownership.rotation_record(seen.identity.meta)
        return SecretContent.of(SECRET_TYPE, {DATA_KEY: token.reveal()}, record)

    def consumed(self, content: SecretContent | SecretView) -> object:
        return content.data

    def deadline(self, seen: Observed, now: datetime) -> datetime | None:
        return None  # it would be in the status, which would then change with each refresh: see next_refresh

    def next_refresh(self, seen: Observed, now: datetime) -> datetime | None:
        """When to look at it again: at its refresh; when that can't be done, at its end."""
        token = self._token(seen)
        return upcoming(now, token.refresh_time(_seed(self.spec, seen)), token.expires) if token is not None else None

    def ends(self, seen: Observed) -> datetime | None:
        token = self._token(seen)
        return token.expires if token is not None else None

    def report(self, seen: Observed, now: datetime) -> dict[str, Any]:
        token = read_token(seen.contents[self.spec.secret_name])
        return {
            "name": self.spec.name,
            "secretName": self.spec.secret_name,
            "issuer": token.issuer,
            "subject": token.subject,
            "keyID": token.key_id,
        }

    def summary(self, seen: Observed, now: datetime) -> str:
        token = read_token(seen.contents[self.spec.secret_name])
        return f"token {self.spec.name} has the subject {token.subject}"

    def _due(self, seen: Observed, now: datetime) -> Due | None:
        view = seen.contents.get(self.spec.secret_name)
        if view is None:
            return Due(Reason.DOES_NOT_EXIST, "the Secret does not exist yet")
        try:
            token = read_token(view)
        except MalformedError as error:
            return Due(Reason.MISSING_DATA, f"the Secret can't be used: {error}")
        asked = Question(self.spec, seen, token, now)
        verdicts = (check(asked) for check in REMINT)
        return next((due for due in verdicts if due is not None), None)

    def _token(self, seen: Observed) -> Token | None:
        view = seen.contents.get(self.spec.secret_name)
        try:
            return read_token(view) if view is not None else None
        except MalformedError:
            return None


def _seed(spec: TokenSpec, seen: Observed) -> str:
    """Return what spreads tokens that were signed in the same second: known after a restart, and no secret."""
    return f"{seen.identity.meta.uid}/{spec.name}"
