"""Values that Node's crypto encrypted."""

import json
import os
import pickle
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity_sdk.config import DecryptionError, MasterKey, decrypt, parse_master_keys

KEY_TEXT = "8f" * 31 + "01"
KEY = MasterKey(KEY_TEXT)
PLAIN = "sk_live_5tgb"

SCRIPT = """
const crypto = require('crypto');
const input = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const key = Buffer.from(input.key, 'hex');
console.log(JSON.stringify(input.values.map(([value, size]) => {
  const iv = crypto.randomBytes(size);
  const cipher = crypto.createCipheriv('aes-256-gcm', key, iv);
  const text = cipher.update(value, 'utf8', 'hex') + cipher.final('hex');
  return `ENC:${iv.toString('hex')}:${cipher.getAuthTag().toString('hex')}:${text}`;
})));
"""


def encrypted(value: bytes, iv_size: int = 16) -> str:
    iv = os.urandom(iv_size)
    sealed = AESGCM(bytes.fromhex(KEY_TEXT)).encrypt(iv, value, None)
    return f"ENC:{iv.hex()}:{sealed[-16:].hex()}:{sealed[:-16].hex()}"


@pytest.mark.skipif(shutil.which("node") is None, reason="NO NODE HERE: what Node encrypts is not tested")
def test_what_node_encrypts_is_read():
    values = ["", "plain", "ünïcode \U0001f511", "line\nend\n", "ENC:not", "x" * 10_000]
    pairs = [(value, size) for value in values for size in (16, 12)]
    done = subprocess.run(
        ["node", "-e", SCRIPT],
        input=json.dumps({"key": KEY_TEXT, "values": pairs}),
        capture_output=True,
        text=True,
        check=True,
    )
    for (value, _), text in zip(pairs, json.loads(done.stdout), strict=True):
        assert decrypt(text, [KEY]).decode() == value
        assert decrypt("ENC:" + text[4:].upper(), [KEY]).decode() == value


@given(st.binary(max_size=40), st.data())
def test_a_flipped_bit_anywhere_is_a_clear_error(value, data):
    text = encrypted(value)
    at = data.draw(st.sampled_from([index for index in range(4, len(text)) if text[index] != ":"]))
    flipped = f"{int(text[at], 16) ^ (1 << data.draw(st.integers(0, 3))):x}"
    with pytest.raises(DecryptionError, match="changed, or encrypted with another master key"):
        decrypt(text[:at] + flipped + text[at + 1 :], [KEY])


@pytest.mark.parametrize(
    "text",
    [
        "ENC:",
        "ENC:::",
        "ENC:zz",
        "ENC:" + "00" * 16 + ":" + "00" * 16,
        "ENC:" + "00" * 16 + ":" + "00" * 15 + ":00",
        "ENC:" + "00" * 16 + ":" + "00" * 16 + ":0",
        "ENC:" + "00" * 16 + ":" + "00" * 16 + ":00\n",
        "ENC:" + "00" * 8 + ":" + "00" * 16 + ":00",
        "ENC:" + "00" * 16 + ":" + "00" * 4 + ":00",  # a tag cut to 32 bits is easily guessed
        "ENC:" + "00" * 16 + ":" + "00" * 16 + ":" + "0" * 200_000,
        "ENC:v1:0011223344556677:AAAA",
        "enc:" + "00" * 16 + ":" + "00" * 16 + ":00",
        "ENC:\u0663\u0663:00:00",
    ],
)
def test_a_text_of_another_form_is_refused_without_being_quoted(text):
    with pytest.raises(DecryptionError) as error:
        decrypt(text, [KEY])
    assert text[4:] not in str(error.value) or not text[4:].strip(":")


def test_any_of_the_keys_opens_the_newest_first():
    other = "11" * 31 + "02"
    keys = parse_master_keys(f"# the newest\n{other}\n\n{KEY_TEXT}\n")
    assert decrypt(encrypted(PLAIN.encode()), keys).decode() == PLAIN
    with pytest.raises(DecryptionError, match="another master key"):
        decrypt(encrypted(PLAIN.encode()), keys[:1])
    with pytest.raises(DecryptionError, match="no master key"):
        decrypt(encrypted(PLAIN.encode()), [])


@pytest.mark.parametrize("text", ["", "00" * 31, "00" * 33, "zz" * 32, "00" * 32 + "\n"])
def test_a_key_of_another_length_is_refused_without_being_quoted(text):
    with pytest.raises(DecryptionError) as error:
        MasterKey(text)
    assert not text.strip() or text.strip() not in str(error.value)


def test_a_key_shows_nothing():
    assert repr(KEY) == str(KEY) == f"{KEY}" == "<redacted>"
    with pytest.raises(TypeError):
        pickle.dumps(KEY)


def test_a_value_has_one_spelling():
    """Of the same bytes, cut at another place, none is taken."""
    iv, tag, ciphertext = encrypted(PLAIN.encode())[4:].split(":")
    for text in (f"ENC:{iv}:{tag[2:]}:{ciphertext}{tag[:2]}", f"ENC:{iv}:{ciphertext[-2:]}{tag}:{ciphertext[:-2]}"):
        with pytest.raises(DecryptionError, match="its tag 16"):
            decrypt(text, [KEY])
