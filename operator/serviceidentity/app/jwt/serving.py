"""What is answered at which path: public keys and bundles, from what the watches have seen. No I/O.

Everything here is public, so there is no log-in. What is not there, and what nobody may ask for, look the same: 404.
While something is not known yet the answer is 503, and a verifier tries again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.app.entries import Entry
from serviceidentity.app.inventory import Inventory
from serviceidentity.app.ports import Clock
from serviceidentity.domain import bundle as bundles
from serviceidentity.domain import ownership
from serviceidentity.domain.authority import Trust
from serviceidentity.domain.jwt import documents
from serviceidentity.domain.jwt.authority import document_key
from serviceidentity.domain.material import Held, MalformedError, SecretView
from serviceidentity.domain.model import Identity, Kind, TrustDomain, identity_key, trust_domain_key
from serviceidentity.domain.policy.checks import Denial, DenialReason
from serviceidentity.errors import InvalidSpecError

logger = logging.getLogger(__name__)

JSON: Final = "application/json"
JWK_SET: Final = "application/jwk-set+json"  # RFC 7517 8.5.2
TEXT: Final = "text/plain; charset=utf-8"
AGE_OF_UNKNOWN: Final = timedelta(minutes=1)
TRY_AGAIN_AFTER: Final = 5  # seconds
LONGEST_PATH: Final = 1024
MOST_TROUBLES: Final = 1024  # that are remembered
FEDERATION: Final = "serviceidentity-federation-{}"  # of one TrustDomain, in the operator's namespace as well


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of HTTP, as it is for GET."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


NOT_FOUND: Final = Answer(404, {"Content-Type": TEXT, "Cache-Control": "no-store"}, b"not found\n")
NOT_YET: Final = Answer(
    503,
    {"Content-Type": TEXT, "Cache-Control": "no-store", "Retry-After": str(TRY_AGAIN_AFTER)},
    b"not known yet\n",
)
HEALTHY: Final = Answer(200, {"Content-Type": TEXT, "Cache-Control": "no-store"}, b"ok\n")


class Serving:
    """Answers from the inventory. `complete` says whether that has been filled since the start."""

    def __init__(
        self,
        inventory: Inventory,
        trust: Callable[[str, datetime], Trust | Held],
        base_url: str,
        clock: Clock,
        complete: Callable[[], bool],
        denials: Callable[[Identity], Sequence[Denial]],
    ) -> None:
        self._inventory = inventory
        self._trust = trust
        self._base_url = base_url
        self._clock = clock
        self._complete = complete
        self._denials = denials
        self._told: dict[str, str] = {}  # by path: what is wrong there

    def answer(self, path: str, if_none_match: str | None = None) -> Answer:
        """Answer a GET of this path, which begins with a slash. Never raises."""
        if not self._complete():
            return NOT_YET
        try:
            found = self._route(path.split("/")[1:]) if len(path) <= LONGEST_PATH else NOT_FOUND
        except MalformedError as error:
            self._tell(path, str(error))
            return NOT_YET
        self._told.pop(path, None)
        if found.status == 200 and documents.is_known(found.headers.get("ETag", ""), if_none_match):  # noqa: PLR2004
            kept = {name: value for name, value in found.headers.items() if name != "Content-Type"}
            return Answer(304, kept)
        return found

    def _tell(self, path: str, trouble: str) -> None:
        """Log what can't be served once, however often somebody asks for it: anybody may."""
        if self._told.get(path) != trouble:
            if len(self._told) >= MOST_TROUBLES:
                self._told.clear()
            self._told[path] = trouble
            logger.warning("what is published for %s can't be served: %s", path, trouble)

    def _route(self, segments: Sequence[str]) -> Answer:
        match segments:
            case ["healthz"]:
                return HEALTHY
            case [domain, *rest]:
                entry = self._inventory.domains.get(trust_domain_key(domain))
                return NOT_FOUND if entry is None else self._of_domain(entry, rest)
        return NOT_FOUND

    def _of_domain(self, entry: Entry[TrustDomain], segments: Sequence[str]) -> Answer:
        match segments:
            case [".well-known", "openid-configuration"]:
                return self._discovery(entry)
            case ["jwks.json"]:
                keys = self._keys(entry)
                return _missing(entry) if keys is None else _document(documents.jwks(keys), _age(entry), JWK_SET)
            case ["bundle.json"]:
                return self._bundle(entry)
            case ["identities", namespace, name, "jwks.json"]:
                return self._of_identity(entry, namespace, name)
            case ["federation", other, "jwks.json" | "bundle.json" as what]:
                return self._federated(entry, f"{other}.{what}", JWK_SET if what == "jwks.json" else JSON)
        return NOT_FOUND

    def _discovery(self, entry: Entry[TrustDomain]) -> Answer:
        keys = self._keys(entry)
        if keys is None or isinstance(entry.spec, InvalidSpecError):
            return _missing(entry)
        issuer = documents.issuer_of(entry.spec.jwt.issuer, self._base_url, entry.meta.name)
        return _document(documents.discovery(issuer, keys), _age(entry))

    def _bundle(self, entry: Entry[TrustDomain]) -> Answer:
        """Roots come from the operator's own namespace: a copy elsewhere may have been edited a moment ago."""
        if isinstance(entry.spec, InvalidSpecError):
            return NOT_YET
        trust = self._trust(entry.meta.name, self._clock())
        if isinstance(trust, Held):
            return NOT_YET
        refresh = bundles.refresh_hint(entry.spec.propagation)
        body = documents.bundle(trust.roots, self._keys(entry) or (), _sequence(entry.status), refresh)
        return _document(body, min(_age(entry), refresh))

    def _of_identity(self, domain: Entry[TrustDomain], namespace: str, name: str) -> Answer:
        entry = self._inventory.identities.get(identity_key(namespace, name))
        if entry is None or isinstance(entry.spec, InvalidSpecError) or not _belongs(entry.spec, domain):
            return NOT_FOUND
        key = entry.spec.jwt.key if entry.spec.jwt else None
        if key is None:
            return NOT_FOUND
        # Nothing is made for whom the policy keeps out; anybody can make the ConfigMap that is read here.
        denied = next((denial for denial in self._denials(entry.spec) if denial.whole), None)
        if denied is not None:
            return NOT_YET if denied.reason is DenialReason.NAMESPACE_NOT_SEEN else NOT_FOUND
        view = self._inventory.jwks.at((namespace, key.config_map_name))
        if view is None or not ownership.is_owned(view, Kind.SERVICE_IDENTITY, entry.meta):
            return NOT_YET
        age = documents.max_age(key.rotation.cache_time)
        return _document(documents.jwks(_keys_in(view)), age, JWK_SET)

    def _federated(self, entry: Entry[TrustDomain], data_key: str, content_type: str) -> Answer:
        view = self._inventory.published.in_ours(FEDERATION.format(entry.meta.name))
        if view is None or not ownership.is_owned(view, Kind.TRUST_DOMAIN, entry.meta) or data_key not in view.data:
            return NOT_FOUND
        return _document(view.value(data_key), _age(entry), content_type)

    def _keys(self, entry: Entry[TrustDomain]) -> tuple[Mapping[str, Any], ...] | None:
        """Return the public keys of the trust domain's tokens; None when there are none. Raises MalformedError."""
        view, data_key = self._inventory.token_keys, document_key(entry.meta.name)
        return _keys_in(view, data_key) if view is not None and data_key in view.data else None


def _keys_in(view: SecretView, data_key: str = documents.JWKS_KEY) -> tuple[Mapping[str, Any], ...]:
    return documents.read_jwks(view.value(data_key))


def _document(body: bytes, age: int, content_type: str = JSON) -> Answer:
    return Answer(
        200,
        {
            "Content-Type": content_type,
            "Cache-Control": f"public, max-age={age}",
            "ETag": documents.etag(body),
            "X-Content-Type-Options": "nosniff",
        },
        body,
    )


def _missing(entry: Entry[TrustDomain]) -> Answer:
    """There are no keys: not yet, if the trust domain is to have some; else it has none."""
    expected = isinstance(entry.spec, InvalidSpecError) or entry.spec.jwt.asked_for
    return NOT_YET if expected else NOT_FOUND


def _age(entry: Entry[TrustDomain]) -> int:
    """An edit that can't be understood takes no keys away: they are served, for a short while each time."""
    if isinstance(entry.spec, InvalidSpecError):
        return documents.max_age(AGE_OF_UNKNOWN)
    return documents.max_age(entry.spec.jwt.rotation.cache_time)


def _belongs(identity: Identity, domain: Entry[TrustDomain]) -> bool:
    return identity.trust_domain == domain.meta.name


def _sequence(status: Mapping[str, Any]) -> int | None:
    """Return the number of the published trust bundle, if one is published."""
    found = (status.get("bundle") or {}).get("sequence")
    return found if isinstance(found, int) else None
