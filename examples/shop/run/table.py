"""Who talked to whom, with which credential: read from the lines that the services write, one a request."""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

Columns = Sequence[Sequence[str]]
FIELDS: Final = ("certificate", "signature", "token", "database")
HEAD: Final = ("CALLER", "SERVICE", "REQUESTS", "REFUSED", "CERTIFICATES", "HMAC KEYS", "TOKEN KEYS", "DATABASE USERS")
LAST: Final = "LAST ANSWER"
EDGE: Final = "storefront"
CUSTOMERS, NOBODY = "customers", "without certificate"
_REFUSED: Final = range(400, 500)
_TRIED_AGAIN: Final = b"at the database failed"
_SHOWN: Final = 8  # characters of a serial number or key ID


@dataclass
class Row:
    """What one caller did at one service. `seen` has, by field, the credentials in the order in which they came."""

    requests: int = 0
    refused: int = 0
    failed: int = 0
    retries: int = 0  # calls of its own that it had to make again, in the course of these requests
    seen: dict[str, dict[str, None]] = field(default_factory=lambda: {name: {} for name in FIELDS})
    last: str = ""

    def add(self, line: dict[str, Any]) -> None:
        """Count one request."""
        status = int(line["status"])
        self.requests += 1
        self.refused += status in _REFUSED
        self.failed += status >= _REFUSED.stop
        self.retries += int(line.get("retries", 0))
        for name in FIELDS:
            if line.get(name):
                self.seen[name].pop(line[name], None)  # the newest is the last
                self.seen[name][line[name]] = None
        self.last = f"{status} {line.get('reason') or line.get('action') or ''}".strip()

    def cells(self) -> list[str]:
        """What the table shows: of each kind of credential how many there were, and the newest."""
        kinds = (f"{len(seen)}  {_short(list(seen)[-1])}" if seen else "" for seen in self.seen.values())
        return [str(self.requests), str(self.refused), *kinds, self.last]


class Table:
    """All rows so far. `logs` returns the services' log files; `read` takes in what they have got since."""

    def __init__(self, logs: Callable[[], Iterable[Path]]) -> None:
        self._logs = logs
        self._read: dict[Path, int] = {}
        self._lock = threading.Lock()
        self.rows: dict[tuple[str, str], Row] = {}
        self.errors: list[dict[str, Any]] = []  # lines with an answer of 500 or more
        self.database_retries = 0  # work at a database that had to be done again
        self.replayed = 0  # signatures that were seen before

    def read(self) -> None:
        """Take in the new lines. What is no line of a request is left alone."""
        with self._lock:
            for path in self._logs():
                for line in self._new_lines(path):
                    self._add(line)

    def _new_lines(self, path: Path) -> Iterator[bytes]:
        start = self._read.get(path, 0)
        try:
            with path.open("rb") as file:
                file.seek(start)
                text = file.read()
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]  # the last one may be half written
        self._read[path] = start + len(whole)
        yield from whole.splitlines()

    def begin(self) -> None:
        """Forget what was so far."""
        self.read()
        self.rows, self.errors, self.database_retries, self.replayed = {}, [], 0, 0

    def _add(self, text: bytes) -> None:
        if not text.startswith(b"{"):
            self.database_retries += _TRIED_AGAIN in text
            return
        try:
            line = json.loads(text)
            caller = line.get("caller") or (CUSTOMERS if line["service"] == EDGE else NOBODY)
            row = self.rows.setdefault((caller, line["service"]), Row())
            row.add(line)
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        self.replayed += line.get("reason") == "Request replayed"
        if line["status"] >= _REFUSED.stop:
            self.errors.append(line)

    def number(self, caller: str, service: str, kind: str) -> int:
        """How many credentials of a kind (of FIELDS) were seen in one row."""
        row = self.rows.get((caller, service))
        return len(row.seen[kind]) if row else 0

    def credentials(self) -> dict[str, int]:
        """How many credentials of each kind were seen, all services together."""
        return {kind: len({one for row in self.rows.values() for one in row.seen[kind]}) for kind in FIELDS}

    @property
    def retries(self) -> int:
        """How often a service had to ask another one once more, because a connection was lost."""
        return sum(row.retries for row in self.rows.values())

    @property
    def requests(self) -> int:
        """All requests so far, at all services."""
        return sum(row.requests for row in self.rows.values())

    @property
    def refused(self) -> int:
        """Those of them that were answered with 4xx."""
        return sum(row.refused for row in self.rows.values())

    def columns(self) -> Columns:
        """Return the table as rows of cells, its head first."""
        with self._lock:
            body = [[*names, *row.cells()] for names, row in sorted(self.rows.items())]
        return [[*HEAD, LAST], *body]

    def summary(self) -> str:
        """Return all of it in one line."""
        kinds = zip(("certificates", "HMAC keys", "token keys", "database users"), FIELDS, strict=True)
        numbers = self.credentials()
        return f"{self.requests} requests, {self.refused} refused; " + ", ".join(
            f"{numbers[name]} {words}" for words, name in kinds
        )


@contextmanager
def live(table: Table, say: Callable[[str], None], output: TextIO = sys.stdout) -> Iterator[None]:
    """Show the table while the block runs: redrawn each second on a terminal, elsewhere a summary line now and then."""
    stop = threading.Event()
    terminal = output.isatty()

    def show() -> None:
        started, drawn = time.monotonic(), 0
        while not stop.wait(1 if terminal else 5):
            table.read()
            if terminal:
                drawn = _draw(table.columns(), drawn, output)
            else:
                say(f"{time.monotonic() - started:5.1f} s  {table.summary()}")
        if terminal:
            output.write(f"\x1b[{drawn}A\x1b[J" if drawn else "")  # it is printed once more, for good
            output.flush()

    thread = threading.Thread(target=show, name="table", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        table.read()


def _draw(rows: Columns, before: int, output: TextIO) -> int:
    """Write the table over the one before it, cut to the terminal; return how many lines it has."""
    size = shutil.get_terminal_size()
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ][: size.lines - 1]
    text = "".join(f"\x1b[K{line[: size.columns - 1]}\n" for line in lines)
    output.write((f"\x1b[{before}A" if before else "") + text + "\x1b[J")
    output.flush()
    return len(lines)


def _short(name: str) -> str:
    """Return what tells a serial number, a key ID or a leased user (v-token-sh-orders-RANDOM-1764096000) apart."""
    return (name.split("-")[-2] if name.startswith("v-") else name)[:_SHOWN]
