"""Workloads in memory, which count how often their Pods were replaced."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from serviceidentity.domain.model import Target, WorkloadKind
from serviceidentity.domain.rollout import Workload
from serviceidentity.errors import ConflictError, MissingError, PortError

Place = tuple[str, Target]
DEPLOYMENT = Target(WorkloadKind.DEPLOYMENT, "order-service")
PLACE: Place = ("shop", DEPLOYMENT)


@dataclass
class FakeWorkload:
    """One workload: each change of its template is a new generation."""

    uid: str = "uid-w"
    version: int = 1
    generation: int = 1
    annotations: dict[str, str] = field(default_factory=dict)
    paused: bool = False

    def change(self, annotations: dict[str, str]) -> None:
        self.version += 1
        self.generation += annotations != self.annotations
        self.annotations = annotations


class FakeWorkloads:
    """Implements the port Workloads. A failure is raised by the next call of that name."""

    def __init__(self) -> None:
        self.stored: dict[Place, FakeWorkload] = {}
        self.calls: Counter[str] = Counter()
        self.failures: dict[str, PortError] = {}

    async def read(self, namespace: str, target: Target) -> Workload | None:
        await self._call("read")
        found = self.stored.get((namespace, target))
        if found is None:
            return None
        return Workload(found.uid, str(found.version), dict(found.annotations), found.paused)

    async def annotate(self, namespace: str, target: Target, found: Workload, annotation: str, value: str) -> None:
        await self._call("annotate")
        stored = self.stored.get((namespace, target))
        if stored is None:
            raise MissingError("gone")
        if (stored.uid, str(stored.version)) != (found.uid, found.version):
            raise ConflictError("changed")
        stored.change({**stored.annotations, annotation: value})

    async def _call(self, name: str) -> None:
        await asyncio.sleep(0)
        self.calls[name] += 1
        if name in self.failures:
            raise self.failures[name]
