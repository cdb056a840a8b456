"""Key-encryption keys in a file: read again when it changes, refused when others can read it."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from serviceidentity.adapters.keyfile import KeyFile, MasterKeyFile
from serviceidentity.domain.pki.envelope import WrappedKey, new_data_key
from serviceidentity.errors import MissingError, RejectedError, SettingsError

T = TypeVar("T")
ONE, TWO = "00112233445566778899aabbccddeeff" * 2, "ffeeddccbbaa99887766554433221100" * 2


def now(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture
def mount(tmp_path: Path) -> Callable[..., Path]:
    """Write a file as the kubelet does: a directory with another name each time, behind a link."""

    def write(text: str, mode: int = 0o440) -> Path:
        count = len(list(tmp_path.iterdir()))
        directory = tmp_path / f"..{count}"
        directory.mkdir()
        (directory / "keys").write_text(text)
        (directory / "keys").chmod(mode)
        link = tmp_path / "..new"
        link.symlink_to(directory)
        link.rename(tmp_path / "..data")
        if not (tmp_path / "keys").is_symlink():
            (tmp_path / "keys").symlink_to("..data/keys")
        return tmp_path / "keys"

    return write


def test_the_first_wraps_and_all_unwrap(mount: Callable[..., Path]):
    keys, data_key = KeyFile(mount(f"one: {ONE}")), new_data_key()
    old = now(keys.wrap(data_key, b"here"))
    assert old.kek == now(keys.current()) == "file:one"
    mount(f"two: {TWO}\none: {ONE}")
    assert now(keys.current()) == "file:two"
    assert now(keys.unwrap(old, b"here")) == data_key
    new = now(keys.rewrap(old, b"here"))
    assert new.kek == "file:two"
    mount(f"two: {TWO}")
    assert now(keys.unwrap(new, b"here")) == data_key
    with pytest.raises(MissingError, match="file:one is not in the file"):
        now(keys.unwrap(old, b"here"))


def test_another_key_under_the_same_id_is_told_apart(mount: Callable[..., Path]):
    keys = KeyFile(mount(f"one: {ONE}"))
    wrapped = now(keys.wrap(new_data_key(), b"here"))
    mount(f"one: {TWO}")
    with pytest.raises(RejectedError, match="not the one that it was encrypted with"):
        now(keys.unwrap(wrapped, b"here"))


@pytest.mark.parametrize("text", ["", "one: nonsense", "one"])
def test_a_file_that_was_good_and_is_not_any_more_still_unwraps(mount: Callable[..., Path], text: str):
    keys, data_key = KeyFile(mount(f"one: {ONE}")), new_data_key()
    wrapped = now(keys.wrap(data_key, b"here"))
    mount(text)
    with pytest.raises(SettingsError, match="can't be used"):
        now(keys.current())
    with pytest.raises(SettingsError):
        now(keys.wrap(data_key, b"here"))
    assert now(keys.unwrap(wrapped, b"here")) == data_key
    mount(f"one: {ONE}")
    assert now(keys.current()) == "file:one"


@pytest.mark.parametrize("mode", [0o444, 0o404, 0o460, 0o600 | 0o002, 0o641])
def test_a_file_that_is_open_to_others_is_refused(mount: Callable[..., Path], mode: int):
    with pytest.raises(SettingsError, match="open to others"):
        now(KeyFile(mount(f"one: {ONE}", mode)).current())


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_the_usual_modes_will_do(mount: Callable[..., Path], mode: int):
    assert now(KeyFile(mount(f"one: {ONE}", mode)).current()) == "file:one"


def test_what_is_no_file_is_told(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, told in [("nothing", "can't be read"), ("pipe", "is not a file"), (".", "is not a file")]:
        with pytest.raises(SettingsError, match=told):
            now(KeyFile(tmp_path / path).current())
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "binary").chmod(0o600)
    with pytest.raises(SettingsError, match="can't be read"):
        now(KeyFile(tmp_path / "binary").current())


def test_it_knows_its_own_keys_alone(tmp_path: Path):
    keys = KeyFile(tmp_path / "nothing")
    assert keys.knows("file:one")
    assert not keys.knows("transit:transit/file:v1")
    with pytest.raises(SettingsError):
        now(keys.unwrap(WrappedKey("file:one", ""), b"here"))


def test_master_keys_are_read_each_time(mount):
    file = MasterKeyFile(mount(f"# newest\n{ONE}\n"))
    assert [key.reveal().hex() for key in now(file.read())] == [ONE]
    mount(f"{TWO}\n{ONE}")
    assert [key.reveal().hex() for key in now(file.read())] == [TWO, ONE]


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [(ONE, 0o444, "open to others"), (f"id: {ONE}", 0o440, "line 1"), ("", 0o440, "no key"), ("\xff", 0o440, "line 1")],
)
def test_a_file_of_master_keys_that_can_not_be_used_is_refused_and_not_quoted(mount, text, mode, message):
    with pytest.raises(SettingsError, match=message) as caught:
        now(MasterKeyFile(mount(text, mode)).read())
    assert ONE not in str(caught.value)


def test_a_file_of_master_keys_that_is_not_there_is_told(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(SettingsError, match="file of master keys"):
            now(MasterKeyFile(path).read())
