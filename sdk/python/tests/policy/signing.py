"""Bundles as the operator signs them, with a key of the test's own."""

import json

from joserfc.jwk import ECKey

from serviceidentity_sdk.jwt.jose import KeySet, read_private, read_public, sign

TYPE = "serviceidentity-policy+jws"


def make_key():
    """Return a key that signs, and its JWK Set as text."""
    key = ECKey.generate_key("P-256")
    named = {"kid": key.thumbprint(), "alg": "ES256", "use": "sig"}
    return read_private(key.as_dict(private=True) | named), json.dumps({"keys": [key.as_dict(private=False) | named]})


def key_set(jwks):
    return KeySet(tuple(read_public(jwk) for jwk in json.loads(jwks)["keys"]))


def bundle(*policies, service="shop/orders", digest="sha256:1", **changes):
    namespace, _, name = service.partition("/")
    named = {"namespace": namespace, "name": name}
    return {"version": 1, "service": named, "policies": list(policies), "digest": digest} | changes


def policy(*rules, name="p", zone="UTC", roles=()):
    written = [
        {"name": f"r{i}", "effect": effect, "expression": text, "reason": ""} for i, (effect, text) in enumerate(rules)
    ]
    return {"name": name, "timeZone": zone, "roles": list(roles), "rules": written}


def signed(key, body, type_=TYPE):
    return sign(body, key, type_)
