"""The token keys of a trust domain: what their Secret holds, what is due, and what is told of them.

One Secret, `<trust domain>-token-keys`, in the operator's namespace. `ring.json` has the public halves with the states
and times of each key, `keys.json` the same with the private halves: a JSON list, or the envelope that it is encrypted
in, which is a JSON object. The envelope is bound to `ring.json`, so what is public is known, and can't be changed,
while a key-encryption key is out of reach.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from serviceidentity.domain.authority.records import SPIFFE_DOMAIN_ANNOTATION, Locked, made_for
from serviceidentity.domain.jwt import ring as rings
from serviceidentity.domain.key_ring import Ring
from serviceidentity.domain.material import KeyMaterial, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import TrustDomain
from serviceidentity.domain.pki import envelope
from serviceidentity.domain.pki.envelope import Binding
from serviceidentity.domain.pki.errors import PkiError

SECRET_TYPE: Final = "serviceidentity.dev/token-keys"  # noqa: S105  # a Secret's type, not a secret
RING_KEY: Final = "ring.json"
KEYS_KEY: Final = "keys.json"
CONFIG_MAP: Final = "serviceidentity-jwks"  # in the operator's namespace, with the JWK Sets of all trust domains
_ROLE: Final = "TokenIssuer"  # in the binding; no authority has such a role


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """The token keys of a trust domain, as found in their Secret.

    `public` is the ring of their public halves; `ring` is None, with `locked` as the reason, while the private ones
    can't be read. `kek` names the key that they are encrypted with at rest: None when they are in plain.
    """

    view: SecretView
    public: Ring
    ring: Ring | None
    locked: str = ""
    kek: str | None = None

    @property
    def jwks(self) -> bytes:
        """The JWK Set to publish."""
        return rings.jwks(self.public)


def secret_name(domain: str) -> str:
    """Return the name of the Secret with the token keys of the TrustDomain of that name."""
    return f"{domain}-token-keys"


def document_key(domain: str) -> str:
    """Return the key under which a trust domain's JWK Set is in the ConfigMap."""
    return f"{domain}.json"


def binding_of(view: SecretView, domain: TrustDomain) -> Binding:
    """Return what the private keys in a Secret belong to. Raises MalformedError."""
    return _binding(view.name, made_for(view, domain), view.value(RING_KEY))


def binding_for(domain: TrustDomain, content: SecretContent) -> Binding:
    """Return what the private keys in a Secret to be written belong to. Raises MalformedError."""
    made = content.annotations.get(SPIFFE_DOMAIN_ANNOTATION, domain.trust_domain)
    return _binding(secret_name(domain.meta.name), made, content.value(RING_KEY))


def content_of(ring: Ring, domain: TrustDomain, annotations: Mapping[str, str]) -> SecretContent:
    """Return what the Secret of a ring holds, with the private keys in plain."""
    private = json.dumps(json.loads(rings.to_json(ring))["keys"], separators=(",", ":")).encode()
    data = {RING_KEY: rings.to_json(rings.public(ring)), KEYS_KEY: private}
    return SecretContent.of(SECRET_TYPE, data, {**annotations, SPIFFE_DOMAIN_ANNOTATION: domain.trust_domain})


def read_keys(view: SecretView, opened: KeyMaterial | Locked | None = None) -> TokenKeys:
    """Read the keys in a Secret; `opened` are the private ones, when the Secret has them encrypted.

    Raises MalformedError with what is wrong.
    """
    try:
        public, stored = rings.from_json(view.value(RING_KEY), public=True), view.value(KEYS_KEY)
        if not envelope.is_sealed(stored):
            return TokenKeys(view, public, _joined(public, stored))
        kek = _kek(stored)
        if isinstance(opened, KeyMaterial):
            return TokenKeys(view, public, _joined(public, opened.reveal()), kek=kek)
    except MalformedError as error:
        raise MalformedError(f"Secret {view.name} does not hold readable token keys: {error}") from None
    return TokenKeys(view, public, None, opened.message if opened else "they are encrypted", kek)


def published_ids(document: bytes) -> frozenset[str]:
    """Return the IDs of the keys in a published JWK Set; none when it can't be read."""
    try:
        return frozenset(str(jwk["kid"]) for jwk in json.loads(document)["keys"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return frozenset()


def _binding(name: str, trust_domain: str, public: bytes) -> Binding:
    return Binding(trust_domain, _ROLE, name, hashlib.sha256(public).hexdigest())


def _joined(public: Ring, private: bytes) -> Ring:
    ring = rings.from_json(b'{"keys":' + private + b"}")
    if rings.to_json(rings.public(ring)) != rings.to_json(public):
        raise MalformedError("the private keys are not those of the public ones")
    return ring


def _kek(stored: bytes) -> str:
    try:
        return envelope.decode(stored).wrapped.kek
    except PkiError:
        return ""
