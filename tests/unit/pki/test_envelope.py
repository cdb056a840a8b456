"""Envelopes: they open where they belong, with their key, unchanged; and in no other way."""

import json
from base64 import b64encode
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.pki import envelope, local_keys
from serviceidentity.domain.pki.envelope import Binding, WrappedKey
from serviceidentity.domain.pki.errors import PkiError

BINDING = Binding("example.org", "Root", "default-root-1", "ab" * 32)
KEK = local_keys.LocalKey("one", KeyMaterial(bytes(range(32))))
PLAIN = KeyMaterial(b"-----BEGIN PRIVATE KEY-----\nnot a real one\n-----END PRIVATE KEY-----\n")


def sealed(plain: KeyMaterial = PLAIN, binding: Binding = BINDING) -> bytes:
    data_key = envelope.new_data_key()
    wrapped = WrappedKey("file:one", KEK.wrap(data_key, binding.encoded()))
    return envelope.seal(plain, data_key, wrapped, binding).encode()


def opened(stored: bytes, binding: Binding = BINDING, kek: local_keys.LocalKey = KEK) -> KeyMaterial:
    found = envelope.decode(stored)
    if found.wrapped.kek != f"file:{kek.id}":
        raise PkiError("another key")
    return envelope.unseal(found, kek.unwrap(found.wrapped.text, binding.encoded()), binding)


STORED = sealed()


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=500))
def test_what_is_sealed_opens_again_and_does_not_show(plain: bytes):
    stored = sealed(KeyMaterial(plain))
    assert envelope.is_sealed(stored)
    assert opened(stored).reveal() == plain
    assert len(plain) < 8 or (plain not in stored and b64encode(plain)[:10] not in stored)


@settings(deadline=None)
@given(st.integers(0, len(STORED) - 1), st.integers(1, 255))
def test_no_byte_may_be_changed(position: int, change: int):
    damaged = bytearray(STORED)
    damaged[position] ^= change
    with pytest.raises(PkiError):
        opened(bytes(damaged))


def test_every_byte_matters_to_the_last_bit():
    for position in range(len(STORED)):
        for bit in range(8):
            damaged = bytearray(STORED)
            damaged[position] ^= 1 << bit
            with pytest.raises(PkiError):
                opened(bytes(damaged))


@settings(deadline=None)
@given(st.integers(0, len(STORED) - 1))
def test_no_part_of_it_will_do(length: int):
    with pytest.raises(PkiError):
        opened(STORED[:length])


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(BINDING, trust_domain="example.com"),
        replace(BINDING, role="Intermediate"),
        replace(BINDING, secret_name="default-root-2"),
        replace(BINDING, fingerprint="cd" * 32),
    ],
    ids=["trust domain", "role", "Secret", "certificate"],
)
def test_it_opens_in_no_other_place(elsewhere: Binding):
    with pytest.raises(PkiError):
        opened(STORED, elsewhere)
    # Not even for who has the data key: the place is bound twice.
    found = envelope.decode(STORED)
    data_key = KEK.unwrap(found.wrapped.text, BINDING.encoded())
    with pytest.raises(PkiError):
        envelope.unseal(found, data_key, elsewhere)


def test_another_key_does_not_open_it():
    with pytest.raises(PkiError):
        opened(STORED, kek=replace(KEK, key=KeyMaterial(bytes(range(1, 33)))))
    with pytest.raises(PkiError):
        KEK.unwrap(envelope.decode(STORED).wrapped.text, b"elsewhere")


def test_wrapped_anew_it_is_the_same_key_in_the_same_ciphertext():
    found = envelope.decode(STORED)
    two = replace(KEK, id="two", key=KeyMaterial(bytes(range(1, 33))))
    data_key = KEK.unwrap(found.wrapped.text, BINDING.encoded())
    again = replace(found, wrapped=WrappedKey("file:two", two.wrap(data_key, BINDING.encoded())))
    assert opened(again.encode(), kek=two) == PLAIN
    assert (again.iv, again.ciphertext) == (found.iv, found.ciphertext)


def test_two_sealings_have_nothing_in_common():
    first, second = (json.loads(sealed()) for _ in range(2))
    assert all(first[name] != second[name] for name in ("wrappedKey", "iv", "ciphertext"))


def test_nothing_shows_in_a_repr():
    found = envelope.decode(STORED)
    assert found.wrapped.text not in repr(found)
    assert "redacted" in repr(envelope.new_data_key())
    assert KEK.key.reveal().hex() not in repr(KEK)


FIELDS = json.loads(STORED)


@pytest.mark.parametrize(
    "stored",
    [
        b"{",
        b"{}",
        b"[]",
        b"{" * 100_000,
        b" " * 70_000,
        json.dumps(FIELDS).encode(),  # with spaces: means the same, and is not what was written
        json.dumps(dict(reversed(FIELDS.items())), separators=(",", ":")).encode(),
        *(
            json.dumps(FIELDS | changed, separators=(",", ":")).encode()
            for changed in (
                {"version": 2},
                {"version": True},
                {"version": "1"},
                {"kek": ""},
                {"kek": 1},
                {"kek": "a" * 600},
                {"kek": "two\nlines"},
                {"kek": None},
                {"iv": ""},
                {"iv": "AAAA"},
                {"iv": None},
                {"ciphertext": "!"},
                {"ciphertext": ["AAAA"]},
                {"extra": ""},
            )
        ),
        *(json.dumps({k: v for k, v in FIELDS.items() if k != name}).encode() for name in FIELDS),
    ],
)
def test_what_nobody_here_wrote_is_refused(stored: bytes):
    with pytest.raises(PkiError):
        opened(stored)


HEX = "00112233445566778899aabbccddeeff" * 2


@pytest.mark.parametrize(
    "text", [f"one: {HEX}", f"\n# old\n\n  one:{HEX.upper()}  \n", f"one: {b64encode(bytes.fromhex(HEX)).decode()}\r\n"]
)
def test_a_file_of_keys_is_read(text: str):
    (key,) = local_keys.parse_keys(text)
    assert (key.id, key.key.reveal().hex()) == ("one", HEX)


def test_the_order_in_the_file_is_kept():
    keys = local_keys.parse_keys(f"new: {HEX}\nold: {HEX[::-1]}\n")
    assert [key.id for key in keys] == ["new", "old"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no key"),
        ("# nothing", "no key"),
        (HEX, "line 1 is not of the form"),
        (f": {HEX}", "line 1 is not of the form"),
        (f"a b: {HEX}", "line 1 is not of the form"),
        (f"{'a' * 64}: {HEX}", "line 1 is not of the form"),
        (f"one: {HEX}\none: {HEX}", "line 2 has an ID"),
        (f"one: {HEX[:-2]}", "line 1 has a key that is"),
        (f"one: {HEX}00", "line 1 has a key that is"),
        ("one: ", "not 32 bytes"),
        ("one: !", "neither"),
        ("one: é", "neither"),
        (f"one: {'00' * 32}", "placeholder"),
    ],
)
def test_a_file_that_holds_no_keys_is_told_by_line_and_not_by_content(text: str, told: str):
    with pytest.raises(PkiError, match=told) as refused:
        local_keys.parse_keys(text)
    assert HEX[:8] not in str(refused.value)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_keys_or_an_error(text: str):
    try:
        assert local_keys.parse_keys(text)
    except PkiError:
        pass
