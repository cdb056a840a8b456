"""Keys and signatures: what the RFCs show is right, and everything else is one of two errors, never another one."""

import contextlib
import hmac
import json
import warnings

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.domain.jwt import jose
from serviceidentity.domain.jwt.jose import Algorithm, SignatureError
from serviceidentity.domain.material import KeyMaterial, MalformedError
from tests.unit.jwt import vectors
from tests.unit.jwt.tokens import b64, key, public, signed, signed_text

CLAIMS = {"sub": "shop/order-service"}
EVERY = pytest.mark.parametrize("algorithm", list(Algorithm))


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def refused(token: str, algorithm: Algorithm = Algorithm.ES256) -> str:
    with pytest.raises(SignatureError) as error:
        jose.verify(token, *jose.read_public(public(algorithm)))
    assert not set(token.split(".")) & set(str(error.value).split()) - {""}
    return str(error.value)


def split(token: str) -> list[str]:
    return token.split(".")


@EVERY
def test_a_key_signs_and_its_public_half_verifies(algorithm):
    key_id, material = key(algorithm)
    assert jose.verify(signed(CLAIMS, algorithm), *jose.read_public(public(algorithm))) == CLAIMS
    assert jose.header_of(signed(CLAIMS, algorithm)) == {"alg": algorithm.value, "kid": key_id, "typ": "JWT"}
    assert public(algorithm).keys() & {"d", "p", "q", "dp", "dq", "qi"} == set()
    assert jose.private_pem(material).startswith(b"-----BEGIN PRIVATE KEY-----")


def test_a_key_id_is_the_thumbprint_of_rfc_7638_3_1():
    found, algorithm = jose.read_public(vectors.RSA_A1)
    assert (found.thumbprint(), algorithm) == (vectors.RSA_A1_THUMBPRINT, Algorithm.RS256)
    assert jose.read_public(vectors.A8037_KEY)[0].thumbprint() == vectors.A8037_THUMBPRINT


def test_the_keys_of_rfc_7517_appendix_a():
    with pytest.raises(MalformedError, match="not for signatures"):
        jose.read_public(vectors.EC_A1)
    assert jose.read_public(vectors.EC_A1 | {"use": "sig"})[1] is Algorithm.ES256
    with pytest.raises(MalformedError, match="private"):
        jose.read_public(vectors.EC_A1 | {"use": "sig", "d": vectors.EC_A2_PRIVATE})


@pytest.mark.parametrize(
    ("jwk", "token", "begins"),
    [
        (vectors.A2_KEY, vectors.A2_TOKEN, b'{"iss":"joe"'),
        (vectors.A3_KEY, vectors.A3_TOKEN, b'{"iss":"joe"'),
        (vectors.BILBO, vectors.RFC7520_RS256, "It\u2019s a dangerous business".encode()),
        (vectors.A8037_KEY, vectors.A8037_TOKEN, b"Example of Ed25519"),
    ],
)
def test_the_examples_of_the_rfcs_verify_and_when_changed_do_not(jwk, token, begins):
    found, algorithm = jose.read_public(jwk)
    assert jose.verify_signature(token, found, algorithm).startswith(begins)
    header, payload, signature = split(token)
    changed = ("B" if signature[0] == "A" else "A") + signature[1:]
    for other in (f"{header}.{payload}.{changed}", f"{header}.{b64(b'x' + begins)}.{signature}"):
        with pytest.raises(SignatureError):
            jose.verify_signature(other, found, algorithm)


def test_rfc_7520_with_algorithms_that_are_not_accepted_is_refused():
    found, algorithm = jose.read_public(vectors.BILBO)
    with pytest.raises(SignatureError, match="algorithm"):
        jose.verify_signature(vectors.RFC7520_PS384, found, algorithm)
    for alg in ({"alg": "PS384"}, {"alg": "HS256"}):
        with pytest.raises(MalformedError):
            jose.read_public(vectors.BILBO | alg)
    with pytest.raises(MalformedError):
        jose.read_public(vectors.BILBO_P521)
    with pytest.raises(SignatureError):
        jose.verify_signature(vectors.RFC7520_ES512, found, algorithm)


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "none ", "", None, [], 0, ["ES256"], "es256"])
@pytest.mark.parametrize("signature", ["", "AA"])
def test_without_a_signature_there_is_no_token(name, signature):
    refused(f"{b64({'alg': name})}.{b64(CLAIMS)}.{signature}")


@pytest.mark.parametrize("form", ["pem", "jwk", "modulus"])
def test_a_public_key_is_no_secret_to_sign_with(form):
    found, _ = jose.read_public(public(Algorithm.RS256))
    secret = {
        "pem": found.as_pem(),
        "jwk": json.dumps(public(Algorithm.RS256)).encode(),
        "modulus": public(Algorithm.RS256)["n"].encode(),
    }[form]
    content = f"{b64({'alg': 'HS256', 'kid': key(Algorithm.RS256)[0]})}.{b64(CLAIMS)}"
    refused(f"{content}.{b64(hmac.digest(secret, content.encode(), 'sha256'))}", Algorithm.RS256)
    for kind in ({"kty": "oct", "k": b64(secret)}, {"kty": "oct", "k": b64(secret), "alg": "HS256"}):
        with pytest.raises(MalformedError):
            jose.read_public(kind)


def test_a_key_in_the_header_is_not_used():
    attacker = public(Algorithm.ES256, 1)
    private, _ = jose.load_private(key(Algorithm.ES256, 1)[1])
    for header in (
        {"jwk": attacker},
        {"jku": "https://attacker.example/jwks.json"},
        {"x5u": "https://attacker.example/"},
        {"x5c": ["MIIB"]},
        {"kid": attacker["kid"], "jwk": attacker},
        {"kid": "../../../dev/null"},
    ):
        content = f"{b64({'alg': 'ES256'} | header)}.{b64(CLAIMS)}"
        signature = jose.jws.JWSRegistry.algorithms["ES256"].sign(content.encode(), private)
        refused(f"{content}.{b64(signature)}")
        ours = signed(CLAIMS, Algorithm.ES256, **header)
        assert jose.verify(ours, *jose.read_public(public(Algorithm.ES256))) == CLAIMS


def test_members_that_nobody_knows_are_ignored_unless_they_are_critical():
    assert jose.verify(signed(CLAIMS, custom=[1]), *jose.read_public(public(Algorithm.ES256))) == CLAIMS
    for header in ({"crit": ["x"], "x": 1}, {"crit": []}, {"crit": ["exp"]}, {"crit": "b64"}, {"crit": None}):
        assert "extension" in refused(signed(CLAIMS, **header))
    for header in ({"b64": False}, {"b64": False, "crit": ["b64"]}, {"b64": True}):
        assert "extension" in refused(signed(CLAIMS, **header))


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        ('{"alg":"none","alg":"ES256"}', '{"a":1}'),
        ('{"alg":"ES256"}', '{"sub":"me","sub":"you"}'),
        ('{"alg":"ES256"}', '{"exp":NaN}'),
        ('{"alg":"ES256"}', '{"exp":Infinity}'),
        ('{"alg":"ES256"}', '{"exp":' + "1" * 5000 + "}"),
        ('{"alg":"ES256"}', "[" * 20000),
        ('{"alg":"ES256"}', '{"a":' * 8000 + "1" + "}" * 8000),
        ('["alg"]', "{}"),
        ('"alg"', "{}"),
        ("7", "{}"),
        ("{}", "{}"),
        ('{"alg":"ES256","kid":7}', "{}"),
        ('{"alg":"ES256"}', "[]"),
        ('{"alg":"ES256"}', "null"),
        ('{"alg":"ES256"}', b"\xff\xfe{\x00}\x00"),
        ('{"alg":"ES256"}', b"\xef\xbb\xbf{}"),
        ('{"alg":"ES256"}', b""),
        ('{"alg":"ES256","x":"' + "x" * 9000 + '"}', "{}"),
        ('{"alg":"ES256"}', '{"x":"' + "x" * 70000 + '"}'),
    ],
)
def test_what_is_ambiguous_or_too_much_is_refused_even_with_a_right_signature(header, payload):
    refused(signed_text(header, payload))


def test_a_long_header_is_no_problem():
    assert jose.verify(signed(CLAIMS, x="x" * 2000), *jose.read_public(public(Algorithm.ES256))) == CLAIMS


def test_base64url_has_one_form():
    token = signed(CLAIMS, Algorithm.EDDSA)
    header, payload, signature = split(token)
    last = {"A": "B", "Q": "R", "g": "h", "w": "x"}[signature[-1]]  # the same octets, with bits that nobody reads
    for other in (
        f"{header}.{payload}.{signature[:-1]}{last}",
        f"{header}.{payload}.{signature}==",
        f"{header}.{payload}.{signature}\n",
        f" {token}",
        f"{header}.{payload}.{signature[:40]} {signature[40:]}",
        f"{header}.{payload}.{signature[:-1]}+",
        f"{header}.{payload}.{signature}.",
        f"{header}.{payload}",
        f"{header}..{signature}",
        f"{header}.{payload}.",
        token + "\u0000",
        token.replace(".", "\uff0e"),
        "",
        "..",
        json.dumps({"payload": payload, "protected": header, "signature": signature}),
    ):
        refused(other, Algorithm.EDDSA)


def test_an_ecdsa_signature_is_two_numbers_of_32_octets_that_are_not_zero():
    header, payload, signature = split(signed(CLAIMS))
    raw = jose._octets(signature)
    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    for other in (
        encode_dss_signature(r, s),
        bytes(64),
        raw[:32] + bytes(32),
        bytes(32) + raw[32:],
        raw[:63],
        raw + b"\0",
        b"",
        b"\xff" * 64,
        raw[:32] + order.to_bytes(32),
        order.to_bytes(32) * 2,
        raw[32:] + raw[:32],
    ):
        refused(f"{header}.{payload}.{b64(other)}")


@EVERY
def test_a_signature_of_the_wrong_length_is_an_answer(algorithm):
    header, payload, _ = split(signed(CLAIMS, algorithm))
    for length in (1, 31, 63, 64, 65, 255, 256, 257, 2000):
        refused(f"{header}.{payload}.{b64(b'a' * length)}", algorithm)


@EVERY
def test_a_key_of_another_kind_or_another_key_does_not_verify(algorithm):
    for other in Algorithm:
        found = jose.read_public(public(other, 1))
        with pytest.raises(SignatureError):
            jose.verify(signed(CLAIMS, algorithm), *found)
    with pytest.raises(SignatureError, match="algorithm"):
        jose.verify(signed(CLAIMS, Algorithm.RS256), jose.read_public(public(Algorithm.RS256))[0], Algorithm.PS256)


def edwards_order_divides_eight(encoded: bytes) -> bool:
    """Decode a point of Curve25519's Edwards form (RFC 8032 5.1.3, lenient) and multiply it by eight."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p
    y = (int.from_bytes(encoded, "little") & (2**255 - 1)) % p
    square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
    x = pow(square, (p + 3) // 8, p)
    if (x * x - square) % p:
        x = x * pow(2, (p - 1) // 4, p) % p
    assert (x * x - square) % p == 0

    def double(x: int, y: int) -> tuple[int, int]:
        k = d * x * x * y * y
        return 2 * x * y * pow(1 + k, -1, p) % p, (y * y + x * x) * pow(1 - k, -1, p) % p

    for _ in range(3):
        x, y = double(x, y)
    return (x, y) == (0, 1)


@pytest.mark.parametrize("point", sorted(jose._SMALL_ORDER))
@pytest.mark.parametrize("sign", [0, 0x80])
def test_an_ed25519_key_of_small_order_is_refused(point, sign):
    assert edwards_order_divides_eight(point)
    encoded = point[:31] + bytes([point[31] | sign])
    with pytest.raises(MalformedError, match="small order"):
        jose.read_public({"kty": "OKP", "crv": "Ed25519", "x": b64(encoded)})


def rsa_jwk(bits: int, exponent: int = 65537) -> dict[str, str]:
    numbers = rsa.generate_private_key(exponent, bits).public_key().public_numbers()
    return {
        "kty": "RSA",
        "n": b64(numbers.n.to_bytes((bits + 7) // 8)),
        "e": b64(numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8)),
    }


def test_rsa_keys_have_2048_to_8192_bits():
    with pytest.raises(MalformedError, match="2048"):
        jose.read_public(rsa_jwk(1024))
    good = public(Algorithm.RS256)
    for changed in (
        {"n": b64(b"\xff" * 1025)},
        {"n": b64(b"\0" + jose._octets(good["n"]))},
        {"n": ""},
        {"n": 7},
        {"n": None},
        {"n": good["n"] + "="},
        {"e": "AQ"},
        {"e": "Ag"},
        {"e": ""},
        {"e": b64(b"\xff" * 300)},
        {"e": None},
    ):
        with pytest.raises(MalformedError):
            jose.read_public(good | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"crv": ["P-256"]},
        {"alg": "RS256"},
        {"alg": "ES384"},
        {"alg": 7},
        {"alg": ["ES256"]},
        {"x": b64(b"\1" * 32)},
        {"x": b64(bytes(32)), "y": b64(bytes(32))},
        {"x": b64(b"\1" * 33)},
        {"x": b64(b"\1" * 31)},
        {"x": None},
        {"x": {}},
        {"use": "enc"},
        {"use": None},
        {"use": ["sig"]},
        {"key_ops": ["sign"]},
        {"key_ops": []},
        {"key_ops": "verify"},
        {"key_ops": 5},
        {"key_ops": None},
        {"kty": "RSA"},
        {"kty": "oct"},
        {"kty": None},
        {"kty": ["EC"]},
        {"d": "AQ"},
        {"k": "AQ"},
    ],
)
def test_a_public_key_that_is_not_right_is_malformed(changed):
    with pytest.raises(MalformedError):
        jose.read_public(public(Algorithm.ES256) | changed)


def test_what_else_a_published_key_says_makes_no_difference():
    extra = {"x5u": 7, "x5c": "no", "x5t": [], "exp": "soon", "kid": 7, "use": "jwt-svid", "key_ops": ["verify"]}
    assert jose.read_public(public(Algorithm.ES256) | extra)[1] is Algorithm.ES256


@EVERY
def test_a_private_key_has_to_be_whole(algorithm):
    _, material = key(algorithm)
    jwk = json.loads(material.reveal())
    other = json.loads(key(algorithm, 1)[1].reveal())
    public_names = [name for name in ("x", "y", "n") if name in jwk]
    for changed in (
        {"kid": "x"},
        {"kid": None},
        {"alg": None},
        {"alg": "HS256"},
        {"d": other["d"]},
        {"d": "AQ"},
        {"d": None},
        {"kty": "oct"},
        {name: other[name] for name in public_names},
        {name: other[name] for name in public_names} | {"kid": other["kid"]},  # another's public half, with its ID
    ):
        with pytest.raises(MalformedError):
            jose.load_private(KeyMaterial(json.dumps(jwk | changed).encode()))
    with pytest.raises(MalformedError):
        jose.load_private(KeyMaterial(json.dumps({n: v for n, v in jwk.items() if n != "alg"}).encode()))
    with pytest.raises(MalformedError):
        jose.load_private(KeyMaterial(json.dumps(jose.public_jwk(material)).encode()))
    assert jose.public_jwk(KeyMaterial(json.dumps(jwk | {"note": "n", "password": "p"}).encode())) == jose.public_jwk(
        material
    )


def test_an_elliptic_key_of_another_curve_is_no_p256_key():
    numbers = ec.generate_private_key(ec.SECP256K1()).public_key().public_numbers()
    jwk = {"kty": "EC", "crv": "P-256", "x": b64(numbers.x.to_bytes(32)), "y": b64(numbers.y.to_bytes(32))}
    with pytest.raises(MalformedError):
        jose.read_public(jwk)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["AQAB", "ES256", "sig"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "p", "q", "alg", "use", "key_ops", "kid", "x5c", "oth"])
parts = st.text() | st.binary().map(b64) | values.map(lambda value: b64(json.dumps(value)))


@given(st.one_of(st.text(), st.tuples(parts, parts, parts).map(".".join)))
def test_no_text_raises_anything_else(text):
    for algorithm in (Algorithm.ES256, Algorithm.EDDSA):
        with pytest.raises(SignatureError):
            jose.verify(text, *jose.read_public(public(algorithm)))
    with contextlib.suppress(SignatureError):
        jose.header_of(text)


@given(st.sampled_from(list(Algorithm)), st.dictionaries(names, values), st.booleans())
@settings(max_examples=400)
def test_no_key_raises_anything_else(algorithm, changed, private):
    base = json.loads(key(algorithm)[1].reveal()) if private else public(algorithm)
    with contextlib.suppress(MalformedError):
        jose.read_public(base | changed)
    with contextlib.suppress(MalformedError):
        jose.load_private(KeyMaterial(json.dumps(base | changed).encode()))


@given(values)
def test_what_is_no_object_at_all_is_no_key(value):
    with contextlib.suppress(MalformedError):
        jose.read_public(value)
    for function in (jose.load_private, jose.public_jwk, jose.private_pem):
        with contextlib.suppress(MalformedError):
            function(KeyMaterial(json.dumps(value).encode()))
    with contextlib.suppress(MalformedError):
        jose.read_set(json.dumps(value).encode())
