"""A trust domain's issuer, identities that ask for tokens, and what others see in a token."""

import json
from base64 import b64decode, urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from serviceidentity.domain import key_ring, plan
from serviceidentity.domain.credentials.base import Due, Observed, Reason
from serviceidentity.domain.credentials.token import TokenSecret
from serviceidentity.domain.jwt.issuer import TokenIssuer
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.jwt.ring import maker
from serviceidentity.domain.key_ring import Ring
from serviceidentity.domain.material import SecretView
from tests.unit.domain.builders import T0, observed, view_of

ISSUER = "https://issuer.example/default"
PAYMENTS = {"name": "payments", "audiences": ["payment-service"]}
SECRET = "order-service-payments-token"


def ring(now: datetime = T0, algorithm: Algorithm = Algorithm.ES256) -> Ring:
    return key_ring.new_ring(maker(algorithm), now)


RING = ring()


def token_issuer(keys: Ring = RING, **changes: Any) -> TokenIssuer:
    return replace(TokenIssuer("default", "example.org", ISSUER, keys, timedelta(minutes=30)), **changes)


def asking(*tokens: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    """A spec that asks for these tokens, and for nothing else unless told."""
    return {"jwt": {"signingKey": "None", "tokens": [PAYMENTS | dict(token) for token in tokens or ({},)]}} | spec


def waiting(*tokens: Mapping[str, Any], **changes: Any) -> Observed:
    """What is observed before there is a token."""
    return observed(asking(*tokens), **{"token_issuer": token_issuer()} | changes)


def credential(seen: Observed) -> TokenSecret:
    assert seen.identity.jwt is not None
    return TokenSecret(seen.identity.jwt.tokens[0])


def minted(seen: Observed, now: datetime = T0) -> Observed:
    """What is observed after the first token was stored."""
    one = credential(seen)
    content = one.render(seen, Due(Reason.DOES_NOT_EXIST, ""), now, None)
    metadata = plan.metadata_of(seen, one, content)
    view = view_of(content, one.spec.secret_name, labels=metadata.labels)
    view = replace(view, annotations=metadata.annotations, owners=metadata.owners)
    return replace(seen, contents={**seen.contents, view.name: view})


def text_of(view: SecretView) -> str:
    return b64decode(view.data["token"]).decode()


def part(token: str, index: int) -> dict[str, Any]:
    encoded = token.split(".")[index]
    found = json.loads(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    assert isinstance(found, dict)
    return found


def claims_of(view: SecretView) -> dict[str, Any]:
    return part(text_of(view), 1)
