"""Where a setting comes from, and what it says when it can't be used."""

import os

import pytest

from sdk.python.tests.config.test_encrypted import KEY_TEXT, PLAIN, encrypted
from serviceidentity_sdk.config import Secrets, SecretsError, load_secrets, read_secret
from serviceidentity_sdk.credentials import CredentialError


def load(env, **options) -> Secrets:
    return load_secrets({"MASTER_KEY": KEY_TEXT} | env, **options)


def swap(volume, version, **values):
    """Write a version of a Secret as the kubelet does."""
    folder = volume / f"..{version}"
    folder.mkdir(parents=True)
    for name, value in values.items():
        (folder / name).write_text(value)
        link = volume / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    (volume / "..data_tmp").symlink_to(folder.name)
    (volume / "..data_tmp").replace(volume / "..data")


def test_encrypted_values_are_decrypted_and_others_are_left():
    found = load({"STRIPE_KEY": encrypted(PLAIN.encode()), "PORT": "80"})
    assert found["STRIPE_KEY"] == PLAIN
    assert dict(found) == {"STRIPE_KEY": PLAIN, "PORT": "80"}  # and not the master key
    assert PLAIN not in repr(found) and "STRIPE" not in repr(found)
    with pytest.raises(KeyError):
        found["MASTER_KEY"]


def test_nothing_is_written_to_the_environment(monkeypatch):
    text = encrypted(PLAIN.encode())
    monkeypatch.setenv("STRIPE_KEY", text)
    monkeypatch.setenv("MASTER_KEY", KEY_TEXT)
    before = dict(os.environ)
    assert load_secrets()["STRIPE_KEY"] == PLAIN
    assert dict(os.environ) == before

    env = {"MASTER_KEY": KEY_TEXT, "STRIPE_KEY": text, "PORT": "80"}
    exported = {}
    load_secrets(env, export=exported)
    assert exported == {"STRIPE_KEY": PLAIN}
    assert env["STRIPE_KEY"] == text


def test_all_that_is_wrong_is_said_at_once_and_no_value(tmp_path):
    good = encrypted(PLAIN.encode())
    env = {
        "FLIPPED": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "MALFORMED": "ENC:geheim",
        "GONE_FILE": str(tmp_path / "none"),
        "EMPTY": "",
        "GOOD": good,
    }
    with pytest.raises(SecretsError) as error:
        load(env, required=iter(["ABSENT", "EMPTY", "GONE", "GOOD"]))
    assert error.value.names == ("ABSENT", "EMPTY", "FLIPPED", "GONE", "MALFORMED")
    lines = str(error.value).splitlines()
    assert lines[0] == "ABSENT: missing"
    assert lines[2] == "FLIPPED: it was changed, or encrypted with another master key"
    assert lines[3] == "GONE: the file that GONE_FILE names can't be read"
    for secret in (PLAIN, "geheim", good[4:], KEY_TEXT):
        assert secret not in str(error.value)
    assert error.value.__cause__ is None


def test_an_encrypted_value_needs_a_key_and_a_good_one():
    with pytest.raises(SecretsError, match="^A: encrypted, and there is no master key$"):
        load_secrets({"A": encrypted(b"x")})
    with pytest.raises(SecretsError, match="^MASTER_KEY: a master key has 64 hexadecimal digits$"):
        load_secrets({"MASTER_KEY": "short"})
    assert load_secrets({"A": "plain"})["A"] == "plain"


def test_the_key_may_be_in_a_file_and_have_another_name(tmp_path):
    (tmp_path / "key").write_text(f"{KEY_TEXT}\n")
    text = encrypted(PLAIN.encode())
    assert load_secrets({"MASTER_KEY_FILE": str(tmp_path / "key"), "A": text})["A"] == PLAIN
    assert load_secrets({"OTHER": KEY_TEXT, "A": text}, master_key="OTHER")["A"] == PLAIN
    with pytest.raises(SecretsError, match="MASTER_KEY_FILE names"):
        load_secrets({"MASTER_KEY_FILE": str(tmp_path / "none")})


def test_a_file_wins_over_a_mounted_secret_and_that_over_the_environment(tmp_path):
    (tmp_path / "file").write_text("from the file\n")
    mounted = tmp_path / "mounted"
    swap(mounted, 1, A="mounted", B="mounted", D=encrypted(b"decrypted"))
    env = {"A_FILE": str(tmp_path / "file"), "A": "env", "B": "env", "C": "env", "SSL_CERT_FILE": "/none"}
    found = load(env, directories=[mounted])
    assert [found[name] for name in "ABCD"] == ["from the file", "mounted", "env", "decrypted"]
    assert "A" in found and "E" not in found
    assert {"A", "B", "C", "D"} <= set(found) and "SSL_CERT" not in set(found)


def test_a_rotated_secret_is_seen_without_a_restart(tmp_path):
    mounted = tmp_path / "mounted"
    swap(mounted, 1, PASSWORD="one")
    (tmp_path / "file").write_text("one")
    found = load({"TOKEN_FILE": str(tmp_path / "file")}, directories=[mounted])
    assert (found["PASSWORD"], found["TOKEN"]) == ("one", "one")
    swap(mounted, 2, PASSWORD="two")
    (tmp_path / "file").write_text("two")
    assert (found["PASSWORD"], found["TOKEN"]) == ("two", "two")


@pytest.mark.parametrize(
    ("written", "read"), [("x", "x"), ("x\n", "x"), ("x\r\n", "x"), ("x\n\n", "x\n"), (" x ", " x "), ("x\r", "x\r")]
)
def test_one_line_end_at_the_end_of_a_file_is_no_part_of_it(tmp_path, written, read):
    (tmp_path / "file").write_bytes(written.encode())
    assert load({"A_FILE": str(tmp_path / "file")})["A"] == read


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "file").write_bytes(b"\xff\x00")
    found = load({"A_FILE": str(tmp_path / "file"), "B": encrypted(b"\xff")})
    assert (found.raw("A"), found.raw("B")) == (b"\xff\x00", b"\xff")
    with pytest.raises(SecretsError, match="A: not UTF-8"):
        found["A"]


def test_a_mounted_secret_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(SecretsError, match="can't be read"):
        load({}, directories=[tmp_path / "none"])["A"]
    with pytest.raises(CredentialError):
        read_secret(tmp_path / "none")


def test_a_mounted_secret_is_read_as_it_is(tmp_path):
    swap(tmp_path / "mounted", 1, a="1", empty="")
    assert read_secret(tmp_path / "mounted") == {"a": b"1", "empty": b""}


def test_typed_access():
    found = load({"N": "42", "F": "Yes", "G": "off", "J": '{"a": [1]}', "E": "", "X": "geheim", "A": "\u0664"})
    assert (found.integer("N"), found.flag("F"), found.flag("G"), found.json("J")) == (42, True, False, {"a": [1]})
    assert (found.integer("none", 1), found.flag("none", False), found.text("none", ""), found.json("none", None)) == (
        1,
        False,
        "",
        None,
    )
    for read in (found.integer, found.flag, found.json):
        with pytest.raises(SecretsError, match="^X: (not|neither)") as error:
            read("X")
        assert "geheim" not in str(error.value)
    with pytest.raises(SecretsError, match="^E: empty$"):
        found.text("E")
    with pytest.raises(SecretsError, match="^none: missing$"):
        found.text("none")
    with pytest.raises(SecretsError, match="^N: not a whole number from 50 to 60$"):
        found.integer("N", minimum=50, maximum=60)
    with pytest.raises(SecretsError):
        found.integer("A")  # a digit, and none of ours
