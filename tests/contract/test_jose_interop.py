"""Other implementations verify our tokens through a JWK Set, and we theirs: npm's jose and Go's go-jose."""

import json
import math
import random
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from serviceidentity.domain.jwt import jose
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.jwt.verification import Accepted, Refused, read_jwks, verify_token
from serviceidentity.domain.requests import javascript
from tests import interop

pytestmark = pytest.mark.contract
NOW = 1_800_000_000
ISSUER, AUDIENCE, SUBJECT = "https://issuer.example/default", "payments", "spiffe://example.org/ns/shop/sa/order"
KEYS = {algorithm: jose.make_key(algorithm) for algorithm in Algorithm}
JWKS = {"keys": [jose.public_jwk(material) for _, material in KEYS.values()]}
GOOD = {"iss": ISSUER, "sub": SUBJECT, "aud": AUDIENCE, "iat": NOW - 10, "nbf": NOW - 40, "exp": NOW + 900}
BAD = {
    "wrong audience": GOOD | {"aud": "orders"},
    "wrong issuer": GOOD | {"iss": ISSUER + "/"},
    "expired": GOOD | {"exp": NOW - 1},
    "not yet valid": GOOD | {"nbf": NOW + 60},
}
PROGRAMS = pytest.mark.parametrize("program", [interop.node, interop.go], ids=["node", "go"])
Program = Callable[[], list[str]]


def signed(claims: dict[str, Any], algorithm: Algorithm) -> str:
    key_id, material = KEYS[algorithm]
    return jose.sign(claims, *jose.load_private(material), key_id)


def asked(token: str) -> dict[str, Any]:
    return {"token": token, "issuer": ISSUER, "audience": AUDIENCE, "now": NOW}


def verdicts(program: Program, tokens: list[str]) -> list[str]:
    return interop.ask(program(), jwks=JWKS, verify=[asked(token) for token in tokens])["verdicts"]


def unsigned(claims: dict[str, Any]) -> str:
    return f"{encoded({'alg': 'none'})}.{encoded(claims)}."


def encoded(value: Any) -> str:
    return jose.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@PROGRAMS
def test_they_accept_our_tokens_of_every_algorithm(program: Program):
    tokens = [signed(GOOD | {"aud": aud}, algorithm) for algorithm in Algorithm for aud in (AUDIENCE, ["x", AUDIENCE])]
    assert verdicts(program, tokens) == [SUBJECT] * 8


@PROGRAMS
def test_they_refuse_what_we_refuse(program: Program):
    tokens = [signed(claims, algorithm) for claims in BAD.values() for algorithm in Algorithm] + [unsigned(GOOD)]
    changed = signed(GOOD, Algorithm.ES256).split(".")
    tokens.append(f"{changed[0]}.{encoded(GOOD | {'sub': 'me'})}.{changed[2]}")
    answers = verdicts(program, tokens)
    assert [answer for answer in answers if not answer.startswith("refused")] == []
    keys = read_jwks(json.dumps(JWKS).encode())
    now = datetime.fromtimestamp(NOW, UTC)
    ours = [verify_token(token, keys, issuer=ISSUER, audience=AUDIENCE, now=now) for token in tokens]
    assert all(isinstance(one, Refused) for one in ours)


@PROGRAMS
def test_we_accept_their_tokens_and_refuse_what_is_wrong_with_them(program: Program):
    claims = [GOOD, *BAD.values()]
    jwks = [json.loads(material.reveal()) for _, material in KEYS.values()]
    tokens = interop.ask(program(), sign=[{"jwk": jwk, "claims": one} for jwk in jwks for one in claims])["tokens"]
    keys, now = read_jwks(json.dumps(JWKS).encode()), datetime.fromtimestamp(NOW, UTC)
    found = [verify_token(token, keys, issuer=ISSUER, audience=AUDIENCE, now=now) for token in tokens]
    reasons = [one.subject if isinstance(one, Accepted) else one.first.reason for one in found]
    assert reasons == [SUBJECT, "WrongAudience", "WrongIssuer", "Expired", "NotYetValid"] * 4


def test_json_is_written_as_node_writes_it():
    chance = random.Random(6)
    doubles = [struct.unpack("<d", chance.randbytes(8))[0] for _ in range(3000)]
    numbers = [json.dumps(one) for one in doubles if math.isfinite(one)]
    numbers += [f"{chance.randrange(10**17)}e{chance.randrange(-40, 30)}" for _ in range(3000)]
    numbers += [
        "-0",
        "0.0",
        "1e21",
        "999999999999999999999",
        "1e-6",
        "1e-7",
        "123456789012345678901",
        "1e400",
        "-1e400",
    ]
    texts = [
        json.dumps([chr(one) for one in range(0x3000)]),
        '["\\ud800", "\\udc00x", "\\ud83d\\ude00", "\\u2028"]',
        '{"b": 1, "2": 2, "1": 3, "01": 4, "4294967294": 5, "4294967295": 6, "-1": 7, "a": 8, "b": 9}',
        ' { "__proto__" : [ ] , "" : { } , "x" : null , "y" : [true, false, "\\/"] } ',
    ]
    given = numbers + texts
    answers = interop.ask(interop.node(), stringify=given)["texts"]
    assert [javascript.stringify(javascript.parse(one.encode())).decode() for one in given] == answers
