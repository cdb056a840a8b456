"""What is in use is always the last that was good, and whoever uses it is told."""

import asyncio
import json
import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from sdk.python.tests.volumes import Volume, write_plain
from serviceidentity_sdk.credentials import CredentialError, Directory, Watch

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def number(snapshot):
    value = snapshot.text("number")
    if not value.isdigit():
        raise CredentialError("number holds no number")
    return int(value)


def watch_of(path, parse=number, **options):
    return Watch([Directory(path)], parse, **options)


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_a_swap_is_noticed_once_and_told_to_all(tmp_path):
    volume, told = Volume(tmp_path / "v", {"number": b"1"}), []
    watch = watch_of(volume.path)
    watch.subscribe(lambda value: told.append(("first", value)))
    watch.subscribe(lambda value: told.append(("second", value)))
    assert watch.current == 1 and watch.check() is False
    volume.swap({"number": b"2"})
    assert watch.check() is True and watch.check() is False
    assert watch.current == 2
    assert told == [("first", 2), ("second", 2)]
    assert watch.state.changes == 1


def test_files_that_are_written_again_as_they_were_are_nothing_new(tmp_path):
    volume = Volume(tmp_path / "v", {"number": b"1"})
    watch = watch_of(volume.path, parse=lambda snapshot: [number(snapshot)])
    before = watch.current
    volume.swap({"number": b"1"})
    assert watch.check() is False and watch.current is before


def test_nothing_is_read_while_nothing_changes(tmp_path, monkeypatch):
    watch = watch_of(Volume(tmp_path / "v", {"number": b"1"}).path)
    monkeypatch.setattr(Directory, "read", lambda _self: pytest.fail("read"))
    assert [watch.check() for _ in range(3)] == [False] * 3
    assert watch.state.error is None


def test_bad_files_leave_the_last_good_ones_in_use_and_are_reported_once(tmp_path, caplog):
    volume, errors, now = Volume(tmp_path / "v", {"number": b"1"}), [], [T0]
    watch = watch_of(volume.path, on_error=errors.append, clock=lambda: now[0])
    volume.swap({"number": b"secret-nonsense"})
    now[0] += timedelta(minutes=1)
    with caplog.at_level(logging.INFO):
        assert [watch.check() for _ in range(3)] == [False] * 3
        now[0] += timedelta(minutes=1)
        watch.check()
        assert watch.current == 1
        assert [str(error) for error in errors] == ["number holds no number"]
        assert (watch.state.loaded_at, watch.state.failing_since) == (T0, T0 + timedelta(minutes=1))
        volume.swap({"number": b"2"})
        assert watch.check() is True
    assert watch.current == 2 and watch.state.error is None and watch.state.failing_since is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "secret-nonsense" not in caplog.text


def test_files_that_were_bad_only_for_now_are_taken_without_another_swap(tmp_path):
    """A certificate that begins in a minute, on a clock that is behind."""
    volume, ready = Volume(tmp_path / "v", {"number": b"1"}), []

    def parse(snapshot):
        if number(snapshot) == 2 and not ready:
            raise CredentialError("not yet")
        return number(snapshot)

    watch = watch_of(volume.path, parse=parse)
    volume.swap({"number": b"2"})
    assert watch.check() is False
    ready.append(True)
    assert watch.check() is True and watch.current == 2


def test_a_plain_directory_between_two_writes_is_never_in_use(tmp_path):
    """Key first, certificate after: in between they don't belong together."""
    write_plain(tmp_path / "v", {"key": b"1", "certificate": b"1"})

    def pair(snapshot):
        if snapshot.read("key") != snapshot.read("certificate"):
            raise CredentialError("the key does not belong to the certificate")
        return snapshot.text("key")

    watch = watch_of(tmp_path / "v", parse=pair)
    write_plain(tmp_path / "v", {"key": b"22"})
    assert watch.check() is False and watch.current == "1"
    write_plain(tmp_path / "v", {"certificate": b"22"})
    assert watch.check() is True and watch.current == "22"


def test_a_volume_that_is_unmounted_under_way_leaves_what_was_read(tmp_path):
    volume = Volume(tmp_path / "v", {"number": b"1"})
    watch = watch_of(volume.path)
    volume.path.rename(tmp_path / "gone")
    assert watch.check() is False and watch.current == 1
    assert "No such file" in str(watch.state.error)
    (tmp_path / "gone").rename(volume.path)
    watch.check()
    assert watch.state.error is None


def test_a_service_with_bad_files_does_not_start(tmp_path):
    with pytest.raises(CredentialError):
        watch_of(tmp_path / "missing")
    with pytest.raises(CredentialError, match="holds no number"):
        watch_of(Volume(tmp_path / "v", {"number": b"x"}).path)


def test_a_parser_that_fails_in_its_own_way_is_bad_files_and_its_text_is_not_shown(tmp_path, caplog):
    volume = Volume(tmp_path / "v", {"number": b'{"n": 1}'})
    watch = watch_of(volume.path, parse=lambda snapshot: json.loads(snapshot.read("number"))["n"])
    volume.swap({"number": b'{"hunter2": 1}'})
    assert watch.check() is False and watch.current == 1
    assert str(watch.state.error) == "the files can't be used: KeyError"
    assert "hunter2" not in caplog.text


def test_a_subscriber_that_fails_keeps_nothing_from_the_others(tmp_path, caplog):
    volume, told = Volume(tmp_path / "v", {"number": b"1"}), []

    def fails(value):
        raise ValueError(f"hunter2 {value}")

    watch = watch_of(volume.path, on_error=fails)
    watch.subscribe(fails)
    stop = watch.subscribe(told.append)
    volume.swap({"number": b"2"})
    assert watch.check() is True and told == [2]
    volume.swap({})
    assert watch.check() is False
    stop()
    stop()
    volume.swap({"number": b"3"})
    assert watch.check() is True and told == [2]
    assert "hunter2" not in caplog.text and "ValueError" in caplog.text


def test_several_directories_are_one(tmp_path):
    first, second = Volume(tmp_path / "a", {"number": b"1"}), Volume(tmp_path / "b", {"number": b"10"})
    watch = Watch([Directory(first.path), Directory(second.path)], lambda a, b: number(a) + number(b))
    assert watch.current == 11
    second.swap({"number": b"20"})
    assert watch.check() is True and watch.current == 21
    first.swap({"number": b"2"})
    assert watch.check() is True and watch.current == 22


def test_a_thread_follows_the_files(tmp_path):
    volume, threads = Volume(tmp_path / "v", {"number": b"1"}), []
    watch = watch_of(volume.path, interval=0.01)
    watch.subscribe(lambda _value: threads.append(threading.current_thread().name))
    with watch:
        with pytest.raises(RuntimeError, match="started already"):
            watch.start()
        volume.swap({"number": b"2"})
        until(lambda: watch.current == 2)
        until(lambda: threads == ["credentials"])
    volume.swap({"number": b"3"})
    assert "credentials" not in [thread.name for thread in threading.enumerate()]
    assert watch.current == 2
    with watch:  # a watch may be started again
        until(lambda: watch.current == 3)


def test_a_task_follows_the_files_and_tells_in_the_event_loop(tmp_path):
    volume = Volume(tmp_path / "v", {"number": b"1"})

    async def main():
        told = asyncio.Event()
        watch = watch_of(volume.path, interval=0.01)
        watch.subscribe(lambda _value: (asyncio.get_running_loop(), told.set()))
        async with watch:
            volume.swap({"number": b"2"})
            async with asyncio.timeout(10):
                await told.wait()
        assert len(asyncio.all_tasks()) == 1
        return watch.current

    assert asyncio.run(main()) == 2
