"""All values of an identity or none, and what is said of those that can't be decrypted."""

import pytest

from serviceidentity.domain.encryption import opening, values
from serviceidentity.domain.encryption.opening import Opened, ValueKeys, open_values, parse_master_keys
from serviceidentity.domain.encryption.ring import EMPTY
from serviceidentity.domain.encryption.values import Scope
from serviceidentity.domain.material import Held, KeyMaterial
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.errors import InvalidSpecError
from tests.unit.domain.builders import DAY, T0, identity

RING = EMPTY.with_new(T0).with_new(T0 + DAY)
MASTERS = (KeyMaterial(bytes(range(32))), KeyMaterial(bytes(range(1, 33))))
KEYS = ValueKeys(RING, MASTERS)


def sealed(value: bytes, key: str = "A", pair=RING.newest, scope=("shop", "order-service")) -> str:
    return values.encrypt(KeyMaterial(value), pair.private_key.public_key(), pair.id, Scope(*scope, key))


def by_master(value: bytes, number: int = 0) -> str:
    return values.encrypt_symmetric(KeyMaterial(value), MASTERS[number])


def opened(texts, keys=KEYS):
    return open_values(texts, "shop", "order-service", keys)


def test_every_key_of_the_ring_and_every_master_key_decrypts():
    texts = {"A": sealed(b"1"), "B": sealed(b"2", "B", RING.pairs[1]), "C": by_master(b"3"), "D": by_master(b"4", 1)}
    found = opened(texts)
    assert isinstance(found, Opened)
    assert {key: value.reveal() for key, value in found.values.items()} == {"A": b"1", "B": b"2", "C": b"3", "D": b"4"}


def test_nothing_shows_the_values():
    assert "reveal" not in repr(opened({"A": sealed(b"sk_live_1")}))
    assert "sk_live_1" not in repr(opened({"A": sealed(b"sk_live_1")}))


OLD = EMPTY.with_new(T0).newest


@pytest.mark.parametrize(
    ("text", "keys", "reason", "says"),
    [
        ("ENC:what", KEYS, "MalformedValue", "A: in neither form"),
        (sealed(b"x", "B"), KEYS, "DecryptionFailed", "A: changed, or made for another"),
        (sealed(b"x", scope=("billing", "order-service")), KEYS, "DecryptionFailed", "A: changed"),
        (sealed(b"x", scope=("shop", "other")), KEYS, "DecryptionFailed", "A: changed"),
        (values.encrypt_symmetric(KeyMaterial(b"x"), KeyMaterial(bytes(31) + b"x")), KEYS, "DecryptionFailed", "A:"),
        (sealed(b"x", pair=OLD), KEYS, "KeyUnknown", f"A (key {OLD.id}): "),
        (
            sealed(b"x"),
            ValueKeys(EMPTY, trouble="it is gone"),
            "EncryptionKeysMissing",
            "can't be decrypted: it is gone",
        ),
        (by_master(b"x"), ValueKeys(RING), "MasterKeyMissing", "A: symmetric, and the operator has no master key"),
        (by_master(b"x"), ValueKeys(RING, master_trouble="no such file"), "MasterKeyMissing", "no such file"),
        (
            by_master(b"x"),
            ValueKeys(RING, MASTERS, frozenset({"billing"})),
            "MasterKeyNotAllowed",
            "not for this namespace",
        ),
        (sealed(b"x"), ValueKeys(RING, known=False), "EncryptionKeysNotRead", "not read"),
    ],
    ids=lambda given: given if isinstance(given, str) and given.isalpha() else "",  # the same in each worker
)
def test_what_can_not_be_decrypted_is_named_and_all_is_held(text, keys, reason, says):
    found = opened({"A": text, "Z": sealed(b"fine", "Z")}, keys)
    assert isinstance(found, Held)
    assert found.reason == reason
    assert says in found.message
    assert text not in found.message


def test_allowed_namespaces_are_about_symmetric_values_only():
    keys = ValueKeys(RING, MASTERS, frozenset({"shop"}))
    assert isinstance(opened({"A": by_master(b"x")}, keys), Opened)
    assert isinstance(opened({"A": sealed(b"x")}, ValueKeys(RING, MASTERS, frozenset({"billing"}))), Opened)


def test_several_problems_are_all_told_and_the_most_telling_is_the_reason():
    found = opened({"A": "ENC:what", "B": sealed(b"x", "A"), "C": sealed(b"x", "C", OLD)})
    assert found.reason == "MalformedValue"
    assert [part.split(":")[0] for part in found.message.split("; ")] == ["B", f"C (key {OLD.id})", "A"]
    many = opened({f"K{number}": "ENC:what" for number in range(9)})
    assert "and 4 more" in many.message


def test_more_than_a_secret_can_hold_is_held():
    texts = {f"K{number}": sealed(b"x" * values.LARGEST, f"K{number}") for number in range(22)}
    assert opened(texts).reason == "TooLarge"


def test_master_keys_are_read_line_by_line():
    text = "# newest\n" + bytes(range(32)).hex() + "\n\n  " + bytes(range(1, 33)).hex().upper() + "\r\n"
    assert parse_master_keys(text) == MASTERS


@pytest.mark.parametrize("text", ["", "# none", "00" * 31, "zz" * 32, "00" * 32, "id: " + bytes(range(32)).hex()])
def test_what_is_no_master_key_is_refused_and_not_quoted(text):
    with pytest.raises(PkiError) as caught:
        parse_master_keys(text)
    assert len(text) < 10 or text not in str(caught.value)


def test_key_ids_are_told_of_asymmetric_values():
    assert opening.key_id_of(sealed(b"x")) == RING.newest.id
    assert opening.key_id_of(by_master(b"x")) is None
    assert opening.key_id_of("ENC:what") is None


@pytest.mark.parametrize(
    ("block", "field"),
    [
        ({}, "values"),
        ({"values": {}}, "values"),
        ({"values": ["ENC:x"]}, "values"),
        ({"values": {"A": "sk_live_1"}}, "values.A"),
        ({"values": {"A": None}}, "values.A"),
        ({"values": {"A B": "ENC:x"}}, "values"),
        ({"values": {"..a": "ENC:x"}}, "values"),
        ({"values": {"A": "ENC:x"}, "secretName": "order-service-hmac-keyring"}, "secretName"),
        ({"values": {"A": "ENC:x"}, "secretName": "order-service-tls"}, "secretName"),
    ],
)
def test_a_spec_that_makes_no_sense_is_invalid_and_not_quoted(block, field):
    with pytest.raises(InvalidSpecError) as caught:
        identity({"encrypted": block, "certificate": {}})
    assert caught.value.path == f"spec.encrypted.{field}"
    assert "sk_live_1" not in str(caught.value)
