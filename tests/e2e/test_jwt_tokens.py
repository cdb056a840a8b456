"""Tokens for services that don't sign themselves, as a service and a verifier see them."""

import json
from typing import Any

import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from tests.controlplane import ControlPlane
from tests.controlplane.operator import NAMESPACE
from tests.e2e.support import Space, eventually, trust_domain

pytestmark = pytest.mark.e2e

SECRET = "orders-payments-token"


def asking(*tokens: dict[str, Any], **spec: Any) -> dict[str, Any]:
    entries = [{"name": "payments", "audiences": ["payment-service"]} | token for token in tokens or ({},)]
    return {"serviceAccountName": "orders", "jwt": {"signingKey": "None", "tokens": entries}} | spec


def token(space: Space) -> str:
    return space.data(SECRET)["token"].decode()


def verified(plane: ControlPlane, text: str, domain: str = "default") -> dict[str, Any]:
    """Verify a token as another service would, with nothing but the published keys; return its claims."""
    published = plane.get("configmap", "serviceidentity-jwks", f"--namespace={NAMESPACE}")
    keys = KeySet.import_key_set(json.loads(published["data"][f"{domain}.json"]))
    return dict(jwt.decode(text, keys, algorithms=["ES256"]).claims)


def test_a_token_is_verified_with_the_published_keys_and_replaced_in_time_without_a_word(
    space: Space, control_plane: ControlPlane
):
    space.apply("orders", asking({"ttl": "10s", "subject": "SPIFFEID"}))
    space.ready("orders")
    first = token(space)
    claims = verified(control_plane, first)
    assert claims["sub"] == f"spiffe://test.example/ns/{space.name}/sa/orders"
    assert (claims["aud"], claims["exp"] - claims["iat"]) == ("payment-service", 10)
    assert space.secret(SECRET)["type"] == "serviceidentity.dev/token"
    before = space.sid("orders")
    second = eventually(lambda: found if (found := token(space)) != first else None)
    after = verified(control_plane, second)
    assert claims["iat"] < after["iat"] < claims["exp"]
    assert after["jti"] != claims["jti"]
    assert space.sid("orders")["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    shown = space.kubectl("get", "sid,events", "-o=json")
    assert not any(piece in shown for piece in (*first.split("."), *second.split("."), claims["jti"]))


def test_rights_are_given_by_the_platform_and_taken_away_by_it(space: Space, control_plane: ControlPlane):
    trust_domain(control_plane, "rights", policy={"tokens": {"roles": ["clerk"]}})
    reference = {"trustDomainRef": {"name": "rights"}}
    space.apply("orders", asking({"roles": ["admin"]}, {"name": "stock", "roles": ["clerk"]}, **reference))
    eventually(lambda: space.condition("orders", "TokenReady.stock").get("status") == "True")
    denied = space.condition("orders", "TokenReady.payments")
    assert denied["reason"] == "PolicyDenied"
    assert "spec.policy.tokens.roles (allowed: clerk)" in denied["message"]
    assert space.secret(SECRET) is None
    trust_domain(control_plane, "rights", policy={"tokens": {"roles": ["clerk", "admin"]}})
    space.ready("orders")
    assert verified(control_plane, token(space), "rights")["roles"] == ["admin"]


def test_an_edit_is_undone_with_the_token_that_was_there(space: Space):
    space.apply("orders", asking())
    space.ready("orders")
    before = token(space)
    space.kubectl("patch", "secret", SECRET, "--type=merge", '--patch={"data": {"token": "YWJj"}}')
    eventually(lambda: token(space) == before)


def test_a_revoked_key_takes_its_tokens_along(space: Space, control_plane: ControlPlane):
    trust_domain(control_plane, "revoking")
    space.apply("orders", asking(trustDomainRef={"name": "revoking"}))
    space.ready("orders")
    before = token(space)
    verified(control_plane, before, "revoking")
    control_plane.kubectl("annotate", "td", "revoking", "serviceidentity.dev/revoke-jwt=1")
    after = eventually(lambda: found if (found := token(space)) != before else None)
    verified(control_plane, after, "revoking")
    with pytest.raises(JoseError):
        verified(control_plane, before, "revoking")
