"""Words for the contract tests of what Vault itself promises: one request, and what came of it."""

import json
import time
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.controlplane import OpenBao


@dataclass(frozen=True)
class Answer:
    """A status, 200 for every success, and a body: what was asked for, or `errors`."""

    status: int
    body: dict[str, Any]

    @property
    def auth(self) -> dict[str, Any]:
        assert self.status == 200, self
        return dict(self.body["auth"])

    @property
    def data(self) -> dict[str, Any]:
        assert self.status == 200, self
        return dict(self.body["data"])

    @property
    def duration(self) -> int:
        """The lease's, or the token's where the answer is about a token, in seconds."""
        assert self.status == 200, self
        return int((self.body.get("auth") or self.body)["lease_duration"])

    @property
    def error(self) -> str:
        return "; ".join(self.body.get("errors", []))


def ask(bao: OpenBao, token: str, method: str, path: str, **body: Any) -> Answer:
    """Send one request; a refusal is an answer like any other."""
    try:
        return Answer(200, bao.request(method, path, body if method != "GET" else None, token=token))
    except urllib.error.HTTPError as error:
        return Answer(error.code, json.loads(error.read() or b"{}"))


def eventually(condition: Callable[[], object], timeout: float = 15) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
