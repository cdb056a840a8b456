"""What the demo shows: steps with their outcome as they happen, and a table at the end."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
Broken = tuple[type[Exception], ...]


@dataclass(frozen=True)
class Line:
    """One step and how it went."""

    what: str
    ok: bool
    detail: str


@dataclass
class Screen:
    """Prints as it goes, and remembers for the table."""

    lines: list[Line] = field(default_factory=list)

    @property
    def all_ok(self) -> bool:
        """Whether there were steps and none failed."""
        return bool(self.lines) and all(line.ok for line in self.lines)

    def head(self, text: str) -> None:
        """Begin a part."""
        print(f"\n{_paint('1', text)}", flush=True)

    def say(self, text: str) -> None:
        """Print a text, indented."""
        for line in text.rstrip().splitlines() or [""]:
            print(f"  {line}".rstrip(), flush=True)

    def columns(self, rows: Sequence[Sequence[str]]) -> None:
        """Print rows with their columns aligned, as kubectl does."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            self.say("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))

    def step(self, what: str, ok: bool, detail: str = "") -> None:
        """Print a step's outcome and remember it."""
        self.lines.append(Line(what, ok, detail))
        print(f"  {_mark(ok)} {what}" + (f": {detail}" if detail else ""), flush=True)

    def play(self, parts: Iterable[tuple[str, Callable[[T, "Screen"], None]]], of: T, broken: Broken) -> None:
        """Run parts in their order; one that ends with one of the exceptions is a failed step, and the last."""
        for title, part in parts:
            self.head(title)
            try:
                part(of, self)
            except broken as error:
                self.step(title, False, f"broke off: {type(error).__name__}: {error}")
                return

    def table(self) -> None:
        """Print all steps once more: step, result, detail."""
        width = max((len(line.what) for line in self.lines), default=0)
        self.head("Result")
        for line in self.lines:
            print(f"  {line.what.ljust(width)}  {_mark(line.ok)}  {line.detail}".rstrip())
        good = sum(line.ok for line in self.lines)
        print(f"\n  {good} of {len(self.lines)} steps went as they should", flush=True)


def _mark(ok: bool) -> str:
    return _paint("32", "ok    ") if ok else _paint("31", "failed")


def _paint(code: str, text: str) -> str:
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\033[{code}m{text}\033[0m" if coloured else text
