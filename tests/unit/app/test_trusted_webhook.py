"""The webhook's caBundle follows the roots of what is served: written when it is another one, and only then."""

import asyncio
import base64
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from serviceidentity.app.ports import WebhookConfiguration
from serviceidentity.app.webhook.trusted import COMPARE_EVERY, NAME, TrustedWebhook
from serviceidentity.domain.material import SecretView
from serviceidentity.errors import ConflictError, ForbiddenError, PortError, RetryableError
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import TLS
from tests.unit.domain.builders import T0

OURS = "admission.serviceidentity.dev"


async def _made() -> bytes:
    """Return the PEM text of a root."""
    world = World()
    world.trust_domain()
    world.apply({"certificate": {}})
    await world.settle()
    return world.api.stored[TLS].value("ca.crt")


OLD, NEW = asyncio.run(_made()), asyncio.run(_made())


class Cluster:
    """The Secret that is served, the object that is written, and the webhook between them."""

    def __init__(self) -> None:
        self.now = T0
        self.found: WebhookConfiguration | None = WebhookConfiguration(NAME, "uid", "1", {OURS: b""})
        self.failures: list[PortError] = []
        self.reads, self.writes = 0, 0
        self.view: SecretView | None = None
        self.webhook = self.restarted()
        self.serve(OLD)

    def restarted(self) -> TrustedWebhook:
        return TrustedWebhook(self, self.certificate, lambda: self.now)

    def serve(self, roots: bytes | None) -> None:
        data = {} if roots is None else {"ca.crt": base64.b64encode(roots).decode()}
        self.view = SecretView("system", "jwks-tls", "uid", 1, "kubernetes.io/tls", {}, {}, (), data)

    async def certificate(self) -> SecretView | None:
        return self.view

    async def read(self, name: str) -> WebhookConfiguration | None:
        assert name == NAME
        self.reads += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.found

    async def trust(self, found: WebhookConfiguration, authorities: bytes) -> None:
        assert self.found is not None
        if found.version != self.found.version:
            raise ConflictError("changed")
        self.writes += 1
        self.found = replace(
            found, version=f"{self.writes + 1}", authorities=dict.fromkeys(found.authorities, authorities)
        )

    @property
    def trusted(self) -> bytes:
        assert self.found is not None
        return self.found.authorities[OURS]

    async def look(self, after: timedelta = timedelta()) -> None:
        self.now += after
        await self.webhook.look()


def in_a_cluster(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    def run(caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            asyncio.run(test(Cluster(), caplog))

    run.__name__ = test.__name__
    return run


@in_a_cluster
async def test_the_roots_are_written_once_and_not_again_at_rest_nor_after_a_restart(cluster: Cluster, caplog: Any):
    for _ in range(5):
        await cluster.look(COMPARE_EVERY)
    assert (cluster.trusted, cluster.writes, cluster.reads) == (OLD, 1, 5)
    cluster.webhook = cluster.restarted()
    await cluster.look()
    assert (cluster.writes, cluster.reads) == (1, 6)


@in_a_cluster
async def test_between_comparisons_nothing_is_asked_for(cluster: Cluster, caplog: Any):
    for _ in range(10):
        await cluster.look(timedelta(seconds=2))
    assert cluster.reads == 1


@in_a_cluster
async def test_a_rotation_is_followed_at_once(cluster: Cluster, caplog: Any):
    await cluster.look()
    for roots in (OLD + NEW, NEW):
        cluster.serve(roots)
        await cluster.look(timedelta(seconds=2))
        assert cluster.trusted == roots
    assert cluster.writes == 3


@in_a_cluster
async def test_what_somebody_changed_is_put_back(cluster: Cluster, caplog: Any):
    await cluster.look()
    assert cluster.found is not None
    cluster.found = replace(cluster.found, authorities={OURS: b""}, version="7")
    await cluster.look(COMPARE_EVERY)
    assert cluster.trusted == OLD


@in_a_cluster
async def test_an_object_that_came_later_is_found(cluster: Cluster, caplog: pytest.LogCaptureFixture):
    found, cluster.found = cluster.found, None
    for _ in range(3):
        await cluster.look(COMPARE_EVERY)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    cluster.found = found
    await cluster.look(COMPARE_EVERY)
    assert cluster.trusted == OLD


@in_a_cluster
async def test_without_the_right_nothing_is_wrong(cluster: Cluster, caplog: pytest.LogCaptureFixture):
    cluster.failures = [ForbiddenError("no right") for _ in range(2)]
    await cluster.look()
    await cluster.look(COMPARE_EVERY)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    await cluster.look(COMPARE_EVERY)
    assert cluster.trusted == OLD


@in_a_cluster
async def test_trouble_is_told_once_and_tried_again_soon(cluster: Cluster, caplog: pytest.LogCaptureFixture):
    cluster.failures = [RetryableError("away") for _ in range(2)]
    for _ in range(2):
        await cluster.look(timedelta(seconds=5))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await cluster.look(timedelta(seconds=5))
    assert cluster.trusted == OLD


@in_a_cluster
async def test_without_roots_what_is_trusted_stays(cluster: Cluster, caplog: pytest.LogCaptureFixture):
    await cluster.look()
    for roots in (None, b"nonsense"):
        cluster.serve(roots)
        await cluster.look(COMPARE_EVERY)
    cluster.view = None
    await cluster.look(COMPARE_EVERY)
    assert (cluster.trusted, cluster.writes) == (OLD, 1)
    assert "nonsense" not in caplog.text
