"""What the tests' own PostgreSQL promises to the tests that stand on it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.controlplane import Postgres
from tests.controlplane.binaries import ROOT

pytestmark = pytest.mark.contract


def eventually(condition: Callable[[], bool], timeout: float = 10) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_nobody_gets_in_without_the_password(postgres: Postgres) -> None:
    assert postgres.ready()
    assert not postgres.lets_in(postgres.superuser, "guessed")
    assert not postgres.lets_in("somebody", postgres.password)


def test_users_are_counted_and_what_a_crash_interrupts_is_kept(postgres: Postgres) -> None:
    with postgres.connect() as connection:
        connection.execute("CREATE ROLE crash LOGIN PASSWORD 'known'")
        try:
            postgres.stop()
            assert not postgres.ready()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        finally:
            postgres.start()
    assert "crash" in postgres.users()
    assert postgres.lets_in("crash", "known")
    with postgres.connect() as connection:
        connection.execute("DROP ROLE crash")
    assert "crash" not in postgres.users()


@pytest.mark.parametrize(
    ("blow", "data_stays"),
    [(signal.SIGKILL, True), (signal.SIGTERM, False), (signal.SIGINT, False)],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
def test_it_does_not_outlive_its_parent(blow: signal.Signals, data_stays: bool, tmp_path: Path) -> None:
    script = (
        "import json, signal, time\n"
        "from tests.controlplane import start_postgres\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job has it ignored
        "with start_postgres() as server:\n"
        "    print(json.dumps([str(server.data), server.process.pid]), flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        data, pid = json.loads(parent.stdout.readline())
    assert family(pid)
    parent.send_signal(blow)
    parent.wait(10)
    assert eventually(lambda: not family(pid))
    assert Path(data).exists() == data_stays
    shutil.rmtree(Path(data).parent, ignore_errors=True)


def family(pid: int) -> list[Path]:
    """The process and its children, as far as they live; a zombie does not."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        if state != "Z" and (int(parent) == pid or path.parent.name == str(pid)):
            found.append(path)
    return found
