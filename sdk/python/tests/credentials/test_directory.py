"""A reader sees one version of a mounted volume, whatever the kubelet does meanwhile."""

import os
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.python.tests.volumes import Volume, write_plain
from serviceidentity_sdk.credentials import CredentialError, Directory, KeyMaterial

SECRET = b"not to be seen"


def test_all_files_of_a_volume_are_read(tmp_path):
    Volume(tmp_path / "v", {"tls.crt": b"one", "folder/deep/key": b"two"})
    snapshot = Directory(tmp_path / "v").read()
    assert {name: snapshot.read(name) for name in snapshot} == {"tls.crt": b"one", "folder/deep/key": b"two"}
    assert "tls.crt" in snapshot and "tls.key" not in snapshot and len(snapshot) == 2
    assert snapshot.text("tls.crt") == "one"


def test_a_reader_never_sees_two_versions_while_they_are_swapped_without_pause(tmp_path):
    """Three readers, and a writer that swaps as fast as it can: far more often than any kubelet."""

    def files(number):
        return {f"{place}/part{part}": b"%d" % number for place in ("a", "b") for part in range(4)}

    volume, stop, torn, reads = Volume(tmp_path / "v", files(0)), threading.Event(), [], []

    def read():
        directory, last = Directory(tmp_path / "v"), -1
        while not stop.is_set():
            snapshot = directory.read()
            seen = {snapshot.read(name) for name in snapshot}
            if len(snapshot) != 8 or len(seen) != 1 or int(min(seen)) < last:
                torn.append(seen)
            last = int(min(seen))
            reads.append(last)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    number = 0
    while number < 300 or len(set(reads)) < 20:
        number += 1
        volume.swap(files(number))
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == []


def test_a_swap_between_the_first_file_and_the_last_is_noticed(tmp_path, monkeypatch):
    volume = Volume(tmp_path / "v", {"a": b"old", "z": b"old"})
    opened = []
    real = os.open

    def swap_after_the_first_file(name, *args, **more):
        fd = real(name, *args, **more)
        if name == "a" and not opened:
            opened.append(name)
            volume.swap({"a": b"new", "z": b"new"})
        return fd

    monkeypatch.setattr(os, "open", swap_after_the_first_file)
    snapshot = Directory(volume.path).read()
    assert opened
    assert (snapshot.read("a"), snapshot.read("z")) == (b"new", b"new")


@pytest.mark.parametrize("use", [Directory.read, Directory.version])
def test_a_version_that_is_removed_while_it_is_opened_is_no_error(tmp_path, monkeypatch, use):
    volume = Volume(tmp_path / "v", {"a": b"old"})
    failed = []
    real = os.open

    def gone_at_first(name, *args, **more):
        if str(name).endswith("..data") and not failed:
            failed.append(name)
            raise FileNotFoundError(2, "No such file or directory")
        return real(name, *args, **more)

    monkeypatch.setattr(os, "open", gone_at_first)
    use(Directory(volume.path))
    assert failed


def test_a_swap_whose_old_files_are_all_still_there_is_noticed(tmp_path, monkeypatch):
    """The kubelet removes the old version some time after the rename: what was read is whole, and old."""
    volume = Volume(tmp_path / "v", {"a": b"old"})
    monkeypatch.setattr("sdk.python.tests.volumes.shutil.rmtree", lambda _path: None)
    real, swapped = os.scandir, []

    def swap_first(fd):
        if not swapped:
            swapped.append(fd)
            volume.swap({"a": b"new"})
        return real(fd)

    monkeypatch.setattr(os, "scandir", swap_first)
    assert Directory(volume.path).read().read("a") == b"new"


def test_a_plain_file_that_changes_after_it_was_read_is_read_again(tmp_path, monkeypatch):
    write_plain(tmp_path / "v", {"a": b"old", "b": b"old"})
    os.utime(tmp_path / "v" / "a", ns=(1, 1))  # a clock of coarse ticks may give two writes one time
    real, opened = os.fdopen, []

    def change_before_the_second(fd, mode):
        opened.append(fd)
        if len(opened) == 2:
            write_plain(tmp_path / "v", {"a": b"new", "b": b"new"})
        return real(fd, mode)

    monkeypatch.setattr(os, "fdopen", change_before_the_second)
    snapshot = Directory(tmp_path / "v").read()
    assert (snapshot.read("a"), snapshot.read("b")) == (b"new", b"new")


@given(contents=st.lists(st.dictionaries(st.sampled_from("abc"), st.binary(max_size=3)), min_size=2, max_size=6))
def test_each_swap_is_another_version_and_no_swap_is_the_same(tmp_path_factory, contents):
    path = tmp_path_factory.mktemp("volumes") / "v"
    volume, seen = Volume(path, {}), []
    for files in contents:
        volume.swap(files)
        version = Directory(path).version()
        assert version == Directory(path).version()
        assert version not in seen
        snapshot = Directory(path).read()
        assert {name: snapshot._files[name].reveal() for name in snapshot} == files
        seen.append(version)


@pytest.mark.parametrize("change", ["content", "new file", "file gone", "same size"])
def test_each_change_of_a_plain_directory_is_another_version(tmp_path, change):
    path = tmp_path / "v"
    write_plain(path, {"a": b"one", "b": b"two"})
    before = Directory(path).version()
    if change == "file gone":
        (path / "b").unlink()
    else:
        os.utime(path / "a", ns=(1, 1))  # a clock of coarse ticks may give two writes one time
        write_plain(path, {"content": {"a": b"longer"}, "new file": {"c": b""}, "same size": {"a": b"six"}}[change])
    assert Directory(path).version() != before


def test_what_is_missing_is_named(tmp_path):
    write_plain(tmp_path / "v", {"empty": b"", "binary": b"\xff"})
    snapshot = Directory(tmp_path / "v").read()
    with pytest.raises(CredentialError, match="has no file tls"):
        snapshot.material("tls.key")
    with pytest.raises(CredentialError, match="empty is empty"):
        snapshot.read("empty")
    with pytest.raises(CredentialError, match="binary is not UTF-8") as caught:
        snapshot.text("binary")
    assert "xff" not in repr(caught.value)


@pytest.mark.parametrize("use", [Directory.read, Directory.version])
def test_a_directory_that_is_not_there_is_an_error_of_one_kind(tmp_path, use):
    with pytest.raises(CredentialError, match="No such file or directory"):
        use(Directory(tmp_path / "v"))
    (tmp_path / "v").symlink_to(tmp_path / "v")
    with pytest.raises(CredentialError, match="symbolic links"):
        use(Directory(tmp_path / "v"))
    (tmp_path / "file").write_text("")
    with pytest.raises(CredentialError, match="Not a directory"):
        use(Directory(tmp_path / "file"))


def test_data_that_points_nowhere_is_not_an_empty_directory(tmp_path):
    volume = Volume(tmp_path / "v", {"a": b"1"})
    (volume.path / "..data").unlink()
    (volume.path / "..data").symlink_to("..gone")
    with pytest.raises(CredentialError):
        Directory(volume.path).read()
    with pytest.raises(CredentialError):
        Directory(volume.path).version()


def test_what_is_no_secret_by_its_size_is_not_read_into_memory(tmp_path):
    write_plain(tmp_path / "v", {})
    with (tmp_path / "v" / "a").open("wb") as file:
        file.truncate(5 * 1024 * 1024)
    with pytest.raises(CredentialError, match="larger than"):
        Directory(tmp_path / "v").read()


def test_pipes_and_devices_are_not_opened(tmp_path):
    write_plain(tmp_path / "v", {"a": b"1"})
    os.mkfifo(tmp_path / "v" / "pipe")
    assert list(Directory(tmp_path / "v").read()) == ["a"]


def test_content_shows_nowhere(tmp_path):
    write_plain(tmp_path / "v", {"key": SECRET})
    snapshot = Directory(tmp_path / "v").read()
    key = snapshot.material("key")
    for shown in (repr(snapshot), str(snapshot), repr(key), str(key), f"{key}", f"{key!r:>40}", repr([key])):
        assert SECRET.decode() not in shown
    with pytest.raises(TypeError):
        pickle.dumps(key)
    assert key == KeyMaterial(SECRET) and hash(key) == hash(KeyMaterial(SECRET)) and key != SECRET
