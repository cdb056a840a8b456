"""Both forms of an encrypted value: what goes in comes out, in its place and unchanged, or not at all."""

import base64
import hashlib
import hmac
import json
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.domain.encryption import values
from serviceidentity.domain.encryption.ring import key_id
from serviceidentity.domain.encryption.values import (
    Asymmetric,
    MalformedValueError,
    Scope,
    Symmetric,
    UndecryptableError,
)
from serviceidentity.domain.material import KeyMaterial

PRIVATE = X25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key()
ID = key_id(PUBLIC)
SCOPE = Scope("shop", "order-service", "STRIPE_KEY")
MASTER = "7f3c9a51e8d20b64a1f0c2d3e4b5968778695a4b3c2d1e0ff1e2d3c4b5a69788"
MASTER_KEY = KeyMaterial(bytes.fromhex(MASTER))
# Made by Node 20: createCipheriv("aes-256-gcm", key, iv), with IVs of 16 and 12 bytes.
FROM_NODE = [
    (
        "ENC:45b1a68758cdcf42ad6ebd8ed4df9707:6cbac8ae5d2233d627cee3cfaec2f19f:f3e961c301a2bfee1d9e0618c71f63c75a1d01f2cf",
        "sk_live_Ünïcode€\n",
    ),
    (
        "ENC:0cb70aa7ab5b495f714e8b5a:b18a7b9f18acbc96d9f26dd703ac3139:095e0cec5207579d5de9a6a481fd649d7a35",
        "twelve bytes of IV",
    ),
    ("ENC:4aaeadbd6cfc5a8ff783d4d45ce651e9:cb1b21bb319b9975d53daefe62bbe936:", ""),
    ("ENC:d19f91dffa7aae03cf15ef1e44f98e5a:8727661d9ec120a0594e187c88f5930e:b140241a5d681fa52314e8", "line\nline\r\n"),
]
NODE = """
const crypto = require("crypto");
const [key, text, value] = process.argv.slice(1);
const [iv, tag, sealed] = text.slice(4).split(":").map((part) => Buffer.from(part, "hex"));
const decipher = crypto.createDecipheriv("aes-256-gcm", Buffer.from(key, "hex"), iv);
decipher.setAuthTag(tag);
const plain = Buffer.concat([decipher.update(sealed), decipher.final()]);
const fresh = crypto.randomBytes(16);
const cipher = crypto.createCipheriv("aes-256-gcm", Buffer.from(key, "hex"), fresh);
const made = Buffer.concat([cipher.update(Buffer.from(value, "base64")), cipher.final()]);
const encrypted = "ENC:" + [fresh, cipher.getAuthTag(), made].map((part) => part.toString("hex")).join(":");
console.log(JSON.stringify({ plain: plain.toString("base64"), encrypted }));
"""


def asymmetric(value: bytes, scope: Scope = SCOPE) -> str:
    return values.encrypt(KeyMaterial(value), PUBLIC, ID, scope)


def symmetric(value: bytes) -> str:
    return values.encrypt_symmetric(KeyMaterial(value), MASTER_KEY)


def opened(text: str, scope: Scope = SCOPE) -> bytes:
    value = values.parse(text)
    if isinstance(value, Asymmetric):
        assert value.key_id == ID
        return value.decrypt(PRIVATE, scope).reveal()
    return value.decrypt(MASTER_KEY).reveal()


@given(st.binary(max_size=400))
def test_what_goes_in_comes_out(value):
    assert opened(asymmetric(value)) == value
    assert opened(symmetric(value)) == value


@pytest.mark.parametrize("make", [asymmetric, symmetric])
def test_largest_value_comes_out_and_a_larger_one_does_not_go_in(make):
    value = b"\xff" * values.LARGEST
    assert len(make(value)) <= values.LONGEST
    assert opened(make(value)) == value
    with pytest.raises(ValueError, match="at most"):
        make(value + b"x")


@settings(max_examples=300)
@given(st.sampled_from([asymmetric, symmetric]), st.binary(max_size=40), st.data())
def test_any_changed_character_is_refused(make, value, data):
    text = make(value)
    at = data.draw(st.integers(0, len(text) - 1))
    to = data.draw(st.characters(max_codepoint=255).filter(lambda c: c != text[at]))
    with pytest.raises((MalformedValueError, UndecryptableError, AssertionError)):  # the last: of another key's ID
        opened(text[:at] + to + text[at + 1 :])


@given(st.sampled_from([asymmetric, symmetric]), st.binary(max_size=40), st.data())
def test_any_flipped_bit_is_refused(make, value, data):
    text = make(value).encode()
    at, bit = data.draw(st.integers(0, len(text) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(text)
    flipped[at] ^= 1 << bit
    with pytest.raises((MalformedValueError, UndecryptableError, AssertionError)):
        opened(flipped.decode("latin-1"))


@given(st.sampled_from([asymmetric, symmetric]), st.binary(max_size=40), st.data())
def test_a_value_that_was_cut_off_or_goes_on_is_refused(make, value, data):
    text = make(value)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    for other in (cut, text + "A", text + "0", text + "\n", " " + text):
        with pytest.raises((MalformedValueError, UndecryptableError)):
            opened(other)


@pytest.mark.parametrize(
    "scope",
    [
        Scope("billing", "order-service", "STRIPE_KEY"),
        Scope("shop", "payment-service", "STRIPE_KEY"),
        Scope("shop", "order-service", "OTHER"),
        Scope("shop", 'order-service","STRIPE_KEY', ""),
    ],
)
def test_a_copied_value_does_not_open_in_another_place(scope):
    with pytest.raises(UndecryptableError, match="another namespace, name or key"):
        opened(asymmetric(b"sk_live_1"), scope)


def test_the_same_value_looks_different_each_time():
    assert asymmetric(b"x") != asymmetric(b"x")
    assert symmetric(b"x") != symmetric(b"x")


@pytest.mark.parametrize(("text", "value"), FROM_NODE)
def test_values_that_node_encrypted_open(text, value):
    assert opened(text) == value.encode()
    assert opened("ENC:" + text[4:].upper()) == value.encode()


def test_a_spelling_with_letters_of_both_cases_is_refused():
    text = FROM_NODE[0][0]
    with pytest.raises(MalformedValueError):
        values.parse(text.replace("b1a6", "B1a6"))


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on the PATH")
@pytest.mark.parametrize("value", [b"sk_live_1", b"", bytes(range(256)), "Ünïcode€\n".encode()])
def test_node_opens_ours_and_we_open_nodes(value):
    arguments = [MASTER, symmetric(value), base64.b64encode(value).decode()]
    done = subprocess.run(["node", "-e", NODE, *arguments], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert base64.b64decode(answer["plain"]) == value
    assert opened(answer["encrypted"]) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "ENC:", "ENC:v1", "ENC:v1::", "ENC:v2:0011223344556677:AAAA", f"ENC:v1:{ID}:", f"ENC:v1:{ID}:AAAA",
        f"ENC:v1:{ID.upper()}:" + "A" * 80, f"ENC:v1:{ID}:" + "A" * 79 + "=", f"ENC:v1:{ID}:" + "A" * 81, "ENC:00:00:00",
        "ENC:" + "0" * 31 + ":" + "0" * 32 + ":00", "ENC:" + "0" * 32 + ":" + "0" * 30 + ":00",
        "ENC:" + "0" * 28 + ":" + "0" * 32 + ":00", "ENC:" + "0" * 32 + ":" + "0" * 32 + ":0",
        "ENC:" + "0" * 32 + ":" + "0" * 32, "ENC:" + "0" * 32 + ":" + "0" * 32 + ":00:00", "ENC:" + "0" * 200_000,
        "ENC:" + "0" * 32 + ":" + "0" * 32 + ":0\N{ARABIC-INDIC DIGIT ZERO}",
    ],
)  # fmt: skip
def test_what_is_in_neither_form_is_malformed_and_not_quoted(text):
    with pytest.raises(MalformedValueError) as caught:
        values.parse(text)
    assert len(text) < 12 or text not in str(caught.value)


def test_encryption_to_a_point_of_low_order_is_refused():
    with pytest.raises(ValueError):
        values.encrypt(KeyMaterial(b"x"), X25519PublicKey.from_public_bytes(bytes(32)), ID, SCOPE)


def test_nothing_shows_the_value():
    value = values.parse(symmetric(b"sk_live_1"))
    assert isinstance(value, Symmetric)
    assert repr(value) == "Symmetric()"


def extract(salt: bytes, label: bytes, secret: bytes, suite: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")


def expand(key: bytes, label: bytes, info: bytes, length: int, suite: bytes) -> bytes:
    text, block, out = length.to_bytes(2) + b"HPKE-v1" + suite + label + info, b"", b""
    for number in range(1, 3):
        block = hmac.digest(key, block + text + bytes([number]), "sha256")
        out += block
    return out[:length]


@given(st.binary(max_size=100))
def test_it_is_hpke_as_rfc_9180_spells_it_out(value):
    """Section 4.1 and 5.1, written here once more: DHKEM(X25519) 0x0020, HKDF-SHA256 0x0001, AES-256-GCM 0x0002."""
    text = asymmetric(value).split(":")[3]
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    enc, sealed = raw[:32], raw[32:]
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    shared = PRIVATE.exchange(X25519PublicKey.from_public_bytes(enc))
    eae = extract(b"", b"eae_prk", shared, kem)
    secret = expand(eae, b"shared_secret", enc + PUBLIC.public_bytes_raw(), 32, kem)
    info = b'serviceidentity.dev/encrypted-value/v1:["shop","order-service","STRIPE_KEY"]'
    context = b"\x00" + extract(b"", b"psk_id_hash", b"", suite) + extract(b"", b"info_hash", info, suite)
    scheduled = extract(secret, b"secret", b"", suite)
    key = expand(scheduled, b"key", context, 32, suite)
    nonce = expand(scheduled, b"base_nonce", context, 12, suite)
    assert AESGCM(key).decrypt(nonce, sealed, b"") == value


def test_key_id_is_the_beginning_of_the_public_keys_hash():
    assert hashlib.sha256(PUBLIC.public_bytes_raw()).hexdigest().startswith(ID)


@pytest.mark.parametrize("size", range(3))
def test_another_spelling_of_the_same_bytes_is_refused(size):
    text = asymmetric(b"x" * size)
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        if last != text[-1]:
            with pytest.raises((MalformedValueError, UndecryptableError)):
                opened(text[:-1] + last)
