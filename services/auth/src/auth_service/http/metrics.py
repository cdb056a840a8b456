"""Metrics in Prometheus' text format. No label comes from a request."""

from datetime import UTC, datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from serviceidentity_sdk.credentials import Watch

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.logins = Counter("auth_logins_total", "Logins by result", ["result"], registry=self._registry)
        self.refreshes = Counter("auth_refreshes_total", "Refreshes by result", ["result"], registry=self._registry)
        self.logouts = Counter("auth_logouts_total", "Logouts by result", ["result"], registry=self._registry)
        self.seconds = Histogram(
            "auth_request_seconds",
            "Time of requests by route and status",
            ["route", "status"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._failing = Gauge(
            "auth_credentials_failing_seconds",
            "How long the mounted files of a credential have been unusable",
            ["credential"],
            registry=self._registry,
        )

    def follow(self, credential: str, watch: Watch[Any]) -> None:
        """Say of a watch for how long its files have been bad; 0 when they are good."""

        def failing() -> float:
            since = watch.state.failing_since
            return 0.0 if since is None else (datetime.now(UTC) - since).total_seconds()

        self._failing.labels(credential).set_function(failing)

    def text(self) -> bytes:
        """Return all of them."""
        return generate_latest(self._registry)
