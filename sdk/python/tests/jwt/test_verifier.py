"""Which tokens are accepted, and above all which are not."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity_sdk.jwt import (
    Fixed,
    KeySet,
    MountedKeys,
    TokenError,
    TokenVerifier,
    UnavailableError,
    read_key_set,
)
from serviceidentity_sdk.principal import Kind

from .tokens import ES256, NOW, PAIRS, SECONDS, Pair, b64, claims, compact, hs256, jwks, token

KEYS = read_key_set(jwks(*(pair.published() for pair in PAIRS.values())))


def verify(text, keys=KEYS, **options):
    verifier = TokenVerifier(MountedKeys(Fixed(keys)), clock=lambda: NOW, **options)
    return asyncio.run(verifier.verify(text))


def refusal(text, keys=KEYS, **options):
    with pytest.raises(TokenError) as caught:
        verify(text, keys, **options)
    return str(caught.value)


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
def test_a_good_token(algorithm):
    found = verify(token(pair=PAIRS[algorithm]))
    assert found.claims == claims()
    assert (found.principal.kind, found.principal.subject) == (Kind.TOKEN, "user-1")
    assert found.principal.roles == {"customer"}
    assert found.principal.permissions == {"orders:read", "orders:create"}


def test_rfc_8037_a4_vector():
    """The token of RFC 8037 A.4 has a payload that is no claims; its signature verifies all the same, so it gets that far."""
    key = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    text = (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    with pytest.raises(TokenError) as caught:
        verify(text, read_key_set(jwks(key)))
    assert caught.value.detail == "the claims are no JSON"


def test_ps256_is_accepted_where_it_is_asked_for():
    assert refusal(token(pair=PAIRS["PS256"])) == "Invalid token"
    assert verify(token(pair=PAIRS["PS256"]), algorithms=["PS256"])


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS512", "RS1", "", "ES256K"])
def test_nobody_can_ask_for_another_algorithm(algorithm):
    with pytest.raises(ValueError):
        TokenVerifier(MountedKeys(Fixed(KEYS)), algorithms=["ES256", algorithm])


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "nOnE", "", "ES256 ", "es256", "HS256", None, 5, ["ES256"], {"a": 1}, True]
)
@pytest.mark.parametrize("signature", [b"", b"x", None])
def test_no_algorithm(algorithm, signature):
    header = {"alg": algorithm, "typ": "JWT", "kid": ES256.kid}
    assert (
        refusal(compact(header, claims(), ES256.sign if signature is None else lambda _: signature)) == "Invalid token"
    )


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_public_key_is_no_hmac_secret(pair):
    public = pair.pem()
    point = pair.private.public_key()
    secrets = [public, public.strip(), json.dumps(pair.public).encode(), json.dumps(pair.published()).encode(), pair.kid.encode(), b"", pair.public.get("x", pair.public.get("n")).encode()]  # fmt: skip
    assert point is not None
    for secret in secrets:
        for kid in (pair.kid, ...):
            header = {
                name: value for name, value in {"alg": "HS256", "typ": "JWT", "kid": kid}.items() if value is not ...
            }
            assert refusal(compact(header, claims(), hs256(secret))) == "Invalid token"


def test_an_oct_key_in_the_set_verifies_nothing():
    keys = read_key_set(
        jwks({"kty": "oct", "k": b64(b"k" * 32), "kid": "h", "alg": "HS256"}, {"kty": "oct", "k": "AA", "kid": "h"})
    )
    assert keys == KeySet()
    assert refusal(compact({"alg": "HS256", "kid": "h"}, claims(), hs256(b"k" * 32)), keys) == "Invalid token"


@pytest.mark.parametrize("alg", ["RS256", "PS256", "EdDSA", "ES384"])
def test_a_key_is_for_its_one_algorithm(alg):
    assert refusal(token(header={"alg": alg})) == "Invalid token"
    rsa = PAIRS["RS256"]
    assert (
        refusal(compact({"alg": "PS256", "kid": rsa.kid}, claims(), PAIRS["PS256"].sign), algorithms=["RS256", "PS256"])
        == "Invalid token"
    )


def test_keys_in_the_header_are_never_used():
    attacker = Pair("ES256")
    for kid in (ES256.kid, attacker.kid, ...):
        for extra in (
            {"jwk": attacker.published()},
            {"jku": "https://evil/jwks.json"},
            {"x5u": "https://evil/x"},
            {"x5c": ["MIIB"]},
        ):
            assert refusal(token(pair=attacker, header={"kid": kid} | extra)) == "Invalid token"
    assert (
        verify(token(header={"jku": "https://evil/jwks.json", "jwk": attacker.published()})).principal.subject
        == "user-1"
    )


PATHS = [
    "../../dev/null",
    "/etc/passwd",
    "' OR 1=1--",
    "",
    "\x00",
    "https://evil/jwks.json",
    "*",
    "a" * 5000,
    "é",
    "0",
    "null",
]


@pytest.mark.parametrize(
    "kid", [*PATHS, 0, 1, True, None, [], {}, [ES256.kid], {"a": 1}, 1.5], ids=range(len(PATHS) + 9)
)
def test_a_kid_is_compared_and_nothing_else(kid):
    assert refusal(token(header={"kid": kid})) == "Invalid token"


def test_without_a_kid_every_key_of_the_algorithm_is_tried():
    keys = read_key_set(jwks(Pair("ES256").published(), ES256.published(), PAIRS["RS256"].published()))
    assert verify(token(header={"kid": ...}), keys)
    assert refusal(token(pair=Pair("ES256"), header={"kid": ...}), keys) == "Invalid token"


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"crit": ["b64"], "b64": False},
        {"b64": False, "crit": ["b64", "x"], "x": 1},
        {"crit": "b64"},
    ],
)
def test_critical_headers_are_not_understood(header):
    assert refusal(token(header=header)) == "Invalid token"


@pytest.mark.parametrize("type_", ["JWT", "jwt", "at+jwt", "application/at+JWT", ...])
def test_types_of_access_tokens(type_):
    assert verify(token(header={"typ": type_}))


@pytest.mark.parametrize("type_", ["logout+jwt", "secevent+jwt", "dpop+jwt", "JWE", "", 5, ["JWT"], "JWT\x00"])
def test_tokens_for_something_else(type_):
    assert refusal(token(header={"typ": type_})) == "Invalid token"


def test_headers_that_are_not_known_are_ignored():
    assert verify(token(header={"org": "shop", "cty": "x", "x5t": "abc"}))


WRONG = {
    "iss": ["auth-service2", "Auth-Service", "", None, ..., ["auth-service"], 5, {"a": 1}, "auth-service\x00", " auth-service"],
    "aud": ["other", "", None, ..., [], ["other"], {"microservices": 1}, 5, "micro", ["microservices", 5], [["microservices"]], "Microservices"],
    "sub": ["", None, ..., 5, ["user-1"], True],
    "exp": [..., None, "text", str(SECONDS + 900), "", True, False, [], {}, [SECONDS + 900], 10**30, 1e300, -(10**30)],
    "nbf": [SECONDS + 6, SECONDS + 3600, str(SECONDS), None, True, "text", 10**30],
    "iat": [SECONDS + 6, SECONDS + 3600, "text", None, True],
    "jti": [5, True, ["a"], {}],
    "roles": ["admin", None, 5, {"admin": 1}, [5], [["admin"]], [None]],
    "permissions": ["*", None, {"*": 1}, [5]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values if (name, value) != ("jti", None)],
)
def test_wrong_claims(name, value):
    assert refusal(token(claims(**{name: value}))) == "Invalid token"


@pytest.mark.parametrize("exp", [SECONDS, SECONDS - 1, SECONDS - 0.5, 0, -1, SECONDS - 10**6, 1.5])
def test_expired(exp):
    assert refusal(token(claims(exp=exp))) == "Token expired"


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": SECONDS + 1},
        {"exp": SECONDS + 0.5},
        {"nbf": SECONDS + 5},
        {"iat": SECONDS + 5},
        {"nbf": ...},
        {"iat": ...},
        {"jti": ...},
        {"roles": ...},
        {"aud": ["x", "microservices"]},
        {"nbf": 0},
    ],
)
def test_right_at_the_edge(changes):
    assert verify(token(claims(**changes)))


def test_that_a_token_has_expired_is_said_of_genuine_ones_only():
    stale = token(claims(exp=SECONDS - 1))
    assert refusal(stale[:-4] + ("AAAA" if stale[-4:] != "AAAA" else "BBBB")) == "Invalid token"
    assert refusal(token(claims(exp=SECONDS - 1, aud="other"))) == "Invalid token"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5000, "01", "0x7fffffff"])
def test_numbers_that_are_none(number):
    for name in ("exp", "nbf"):
        text = json.dumps(claims(**{name: "@"})).replace('"@"', number)
        assert refusal(token(text)) in {"Invalid token", "Token expired"}
    assert refusal(token(json.dumps(claims(exp="@")).replace('"@"', "1e999"))) == "Invalid token"


PAYLOADS = [
    "",
    "null",
    "[]",
    '"a"',
    "5",
    "{",
    "\x00",
    b"\xff",
    "[" * 9000,
    '{"a":' * 2000,
    "\ufeff{}",
    '{"exp":1,"exp":9999999999}',
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_payloads_that_are_no_claims(payload):
    assert refusal(token(payload)) == "Invalid token"


def test_a_claim_that_is_there_twice():
    """Which of the two another program reads is not known."""
    doubled = json.dumps(claims())[:-1] + ', "sub": "admin"}'
    assert refusal(token(doubled)) == "Invalid token"


def test_every_character_counts():
    good = token()
    for at in range(0, len(good) - 1, 7):
        other = "A" if good[at] != "A" else "B"
        assert refusal(good[:at] + other + good[at + 1 :]) == "Invalid token"


NO_TOKENS = [
    "",
    ".",
    "..",
    "...",
    "a",
    "a.b",
    "a.b.c",
    "a.b.c.d.e",
    "é.b.c",
    " ",
    "a b.c.d",
    "\x00",
    "e30.e30.",
    "e30.e30.e30",
    "." * 1000,
    "a" * 20_000,
    "\ud800",
]


@pytest.mark.parametrize("text", NO_TOKENS, ids=range(len(NO_TOKENS)))
def test_what_is_no_token(text):
    assert refusal(text) == "Invalid token"
    assert not text or refusal(f"{text}{token()}") == "Invalid token"
    assert not text or refusal(f"{token()}{text}") == "Invalid token"


def test_forms_with_padding_or_other_alphabets():
    head, body, signature = token().split(".")
    for text in (
        f"{head}=.{body}.{signature}",
        f"{head}.{body}.{signature}==",
        f"{head}.{body}.{signature}\n",
        f"{head}.{body}.",
    ):
        assert refusal(text) == "Invalid token"


def test_huge_tokens_are_not_looked_at():
    assert refusal(token(claims(x="a" * 20_000))) == "Invalid token"
    assert verify(token(claims(x="a" * 8_000)))


def test_es256_signatures_of_other_forms():
    good = token()
    message, _, _ = good.rpartition(".")
    zero = bytes(64)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    for raw in (
        zero,
        zero[:63],
        zero + b"\0",
        (1).to_bytes(32, "big") + order.to_bytes(32, "big"),
        order.to_bytes(32, "big") * 2,
    ):
        assert refusal(f"{message}.{b64(raw)}") == "Invalid token"  # CVE-2022-21449


@given(st.text(st.characters(codec=None), max_size=200))
def test_any_text_is_an_answer(text):
    assert refusal(text) == "Invalid token"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "roles", "permissions", "scope", "act"]),
        json_values,
    ),
    json_values,
)
def test_any_claims_are_an_answer(changes, whole):
    for payload in (claims(**changes), whole):
        try:
            found = verify(token(json.dumps(payload)))
        except TokenError:
            continue
        assert found.principal.subject and found.claims["iss"] == "auth-service" and found.claims["exp"] > SECONDS


def test_scope_stands_for_permissions_where_there_are_none():
    assert verify(token(claims(permissions=..., scope="a:read b:write"))).principal.permissions == {"a:read", "b:write"}
    assert verify(token(claims(scope="*"))).principal.permissions == {"orders:read", "orders:create"}


def test_a_spiffe_id():
    assert verify(token(claims(sub="spiffe://td/ns/shop/sa/x"))).principal.spiffe_id == "spiffe://td/ns/shop/sa/x"


def test_revoked():
    class Listed:
        async def is_revoked(self, found):
            return found["jti"] == "id-1"

    class Away:
        async def is_revoked(self, found):
            raise UnavailableError

    assert refusal(token(), revocations=Listed()) == "Token revoked"
    assert verify(token(claims(jti="id-2")), revocations=Listed())
    assert refusal(token(claims(exp=SECONDS - 1)), revocations=Listed()) == "Token expired"
    with pytest.raises(UnavailableError):
        verify(token(), revocations=Away())


def test_keys_that_are_left_out_of_a_set():
    weak = {"kty": "RSA", "n": b64(b"\x9b" + b"\x01" * 127), "e": "AQAB", "kid": "weak"}
    other = [None, 5, "a", {}, {"kty": "EC"}, {"kty": "??"}, ES256.published(crv="P-384"), ES256.published(x="AA"), ES256.published(alg="HS256"), ES256.published(alg="none"), ES256.published(use="enc"), ES256.published(key_ops=["sign"]), ES256.published(key_ops="verify"), ES256.published(kid=5), weak]  # fmt: skip
    for key in [*other, ES256.kept()]:
        assert read_key_set(json.dumps({"keys": [key]})) == KeySet(), key
    assert verify(token(), read_key_set(json.dumps({"keys": [*other, ES256.published()]})))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys":{}}', '{"keys":5}', "[" * 9000, json.dumps({"keys": [{}] * 101})]
)
def test_what_is_no_set(text):
    with pytest.raises(ValueError):
        read_key_set(text)
