"""From `spec.jwt` of an identity and of a trust domain to its value. Raises InvalidSpecError with the field's path."""

import re
from datetime import timedelta
from typing import Final

from serviceidentity.domain.fields import Json, block, blocks, choice, duration, is_https, text, texts
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.jwt.spec import (
    DEFAULT_LIFETIME,
    LONGEST_LIFETIME,
    JwtSpec,
    KeyRotation,
    SigningKeySpec,
    Subject,
    TokenIssuerSpec,
    TokenSpec,
)
from serviceidentity.errors import InvalidSpecError

PATH: Final = "spec.jwt"
SHORTEST_TOKEN: Final = timedelta(seconds=10)
LONGEST_TOKEN: Final = timedelta(hours=24)
MOST_TOKENS: Final = 16
_ENTRY_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_CLAIM: Final = re.compile(r"[!-~]{1,256}")  # printable ASCII without spaces: a StringOrURI, or a scope token


def jwt_spec(given: Json, identity: str) -> JwtSpec:
    """Read `spec.jwt` of the identity called `identity`."""
    managed = text(given, "signingKey", PATH, "Managed")
    if managed not in ("Managed", "None"):
        raise InvalidSpecError(f"{PATH}.signingKey", "must be Managed or None")
    tokens = tuple(_token(item, path, identity) for path, item in blocks(given, "tokens", PATH))
    if managed == "None" and not tokens:
        raise InvalidSpecError(f"{PATH}.tokens", "must name at least one token, because signingKey is None")
    if len(tokens) > MOST_TOKENS or len({token.name for token in tokens}) < len(tokens):
        raise InvalidSpecError(f"{PATH}.tokens", f"must be at most {MOST_TOKENS}, and no name twice")
    return JwtSpec(None if managed == "None" else _signing_key(given, identity), tokens)


def token_issuer(spec: Json) -> TokenIssuerSpec:
    """Read `spec.jwt` of a trust domain's spec; without the block all is as by default."""
    given = block(spec, "jwt", "spec")
    issuer = text(given, "issuer", PATH, "") or None
    if issuer is not None and not is_issuer(issuer):
        raise InvalidSpecError(f"{PATH}.issuer", "must be an https URL without query, fragment or slash at its end")
    return TokenIssuerSpec(_rotation(given, LONGEST_LIFETIME), issuer, asked_for=spec.get("jwt") is not None)


def _signing_key(given: Json, identity: str) -> SigningKeySpec:
    labels, annotations = _template(given)
    return SigningKeySpec(
        secret_name=text(given, "secretName", PATH, f"{identity}-jwt"),
        config_map_name=text(given, "jwksConfigMapName", PATH, f"{identity}-jwks"),
        rotation=_rotation(given, timedelta(hours=1)),
        labels=labels,
        annotations=annotations,
    )


def _rotation(given: Json, max_token_lifetime: timedelta) -> KeyRotation:
    rotation = KeyRotation(
        algorithm=choice(given, "algorithm", PATH, Algorithm, Algorithm.ES256),
        rotate_every=duration(given, "rotateEvery", PATH, timedelta(hours=720)),
        max_token_lifetime=duration(given, "maxTokenTTL", PATH, max_token_lifetime),
        cache_time=duration(given, "cacheTime", PATH, timedelta(minutes=30)),
        propagation=duration(given, "propagation", PATH, timedelta(minutes=2)),
    )
    if not SHORTEST_TOKEN <= rotation.max_token_lifetime <= timedelta(days=366):
        raise InvalidSpecError(f"{PATH}.maxTokenTTL", "must be from 10s to 8784h")
    if rotation.lead + rotation.tail > rotation.rotate_every or rotation.rotate_every <= timedelta(0):
        raise InvalidSpecError(
            f"{PATH}.rotateEvery", "must be at least maxTokenTTL plus cacheTime plus twice propagation"
        )
    return rotation


def _token(item: Json, path: str, identity: str) -> TokenSpec:
    name = text(item, "name", path)
    if not _ENTRY_NAME.fullmatch(name):
        raise InvalidSpecError(f"{path}.name", "must be at most 40 lower-case letters, digits and dashes")
    labels, annotations = _template(item, path)
    token = TokenSpec(
        name=name,
        secret_name=text(item, "secretName", path, f"{identity}-{name}-token"),
        audiences=_claims(item, "audiences", path),
        lifetime=duration(item, "ttl", path, DEFAULT_LIFETIME),
        subject=choice(item, "subject", path, Subject, Subject.SERVICE),
        permissions=_claims(item, "permissions", path),
        roles=_claims(item, "roles", path),
        labels=labels,
        annotations=annotations,
    )
    if not token.audiences:
        raise InvalidSpecError(f"{path}.audiences", "must name at least one audience")
    if not SHORTEST_TOKEN <= token.lifetime <= LONGEST_TOKEN:
        raise InvalidSpecError(f"{path}.ttl", "must be from 10s to 24h")
    return token


def _claims(item: Json, field: str, path: str) -> tuple[str, ...]:
    values = texts(item, field, path)
    if len(set(values)) < len(values) or not all(map(_CLAIM.fullmatch, values)):
        raise InvalidSpecError(f"{path}.{field}", "must be different texts of 1 to 256 ASCII characters without spaces")
    return values


def _template(given: Json, path: str = PATH) -> tuple[dict[str, str], dict[str, str]]:
    template = block(given, "secretTemplate", path)
    where = f"{path}.secretTemplate"
    return dict(block(template, "labels", where)), dict(block(template, "annotations", where))


def is_issuer(url: str) -> bool:
    """Say whether it can be an `iss`: https with host, perhaps port and path, no query or fragment.

    OpenID Connect Discovery 1.0, 3.
    """
    return is_https(url) and not {"?", "#"} & set(url) and not url.endswith("/")
