"""Kubernetes Events: the port `Events`."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from serviceidentity.adapters.kube.client import Json, KubeClient, segment
from serviceidentity.domain.model import API_VERSION, Key
from serviceidentity.errors import PortError

logger = logging.getLogger(__name__)

COMPONENT: Final = "serviceidentity-operator"
MOST_WAITING: Final = 5000
MESSAGE_LIMIT: Final = 1024
IDLE_CHECK: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Note:
    key: Key
    uid: str
    reason: str
    message: str
    warning: bool
    at: datetime


class KubeEvents:
    """Writes Events one after another while the queue is empty, so that they never delay a credential."""

    def __init__(self, client: KubeClient, busy: Callable[[], bool], *, enabled: bool) -> None:
        self._client = client
        self._busy = busy
        self._enabled = enabled
        self._waiting: asyncio.Queue[_Note] = asyncio.Queue(MOST_WAITING)

    def emit(self, key: Key, uid: str, reason: str, message: str, *, warning: bool = False) -> None:
        if not self._enabled:
            return
        note = _Note(key, uid, reason, message[:MESSAGE_LIMIT], warning, datetime.now(UTC))
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait(note)

    async def run(self) -> None:
        """Write what is waiting; runs until cancelled."""
        while True:
            note = await self._waiting.get()
            while self._busy():  # noqa: ASYNC110  # idleness is nothing that anybody signals
                await asyncio.sleep(IDLE_CHECK)
            try:
                await self._client.request(
                    "POST", f"/api/v1/namespaces/{segment(self._place(note.key))}/events", self._body(note)
                )
            except PortError as error:
                logger.debug("an Event about %s was not written: %s", note.key, error)

    def _place(self, key: Key) -> str:
        # Events about cluster-scoped objects go to "default": that is where kubectl describe looks for them.
        return key.namespace or "default"

    def _body(self, note: _Note) -> Json:
        stamp = note.at.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": self._place(note.key), "name": f"{note.key.name}.{secrets.token_hex(8)}"},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": note.key.kind.value,
                "namespace": note.key.namespace,
                "name": note.key.name,
                "uid": note.uid,
            },
            "type": "Warning" if note.warning else "Normal",
            "reason": note.reason,
            "message": note.message,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": COMPONENT,
        }
