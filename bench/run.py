"""One control plane and what is measured on it, for any kind of identity."""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from bench.probe import ReadyWatch, percentile, usage
from serviceidentity.adapters.kube.client import MERGE_PATCH, KubeClient
from serviceidentity.domain.ownership import MANAGED_BY_LABEL
from tests.controlplane import ControlPlane
from tests.controlplane.operator import OperatorProcess

API: Final = "serviceidentity.dev/v1alpha1"
CONNECTIONS: Final = 32
OURS: Final = frozenset(
    {"secrets", "configmaps", "serviceidentities", "trustdomains", "vaultconnections", "accesspolicies", "events"}
)
STORES: Final = ("configmaps", "secrets")

Json = dict[str, Any]
Spec = Callable[[int], Json]  # of the identity of that number


async def nothing(_: int) -> None:
    """Nothing has to be had from elsewhere before a Secret is written."""


async def each(items: Iterable[int], work: Callable[[int], Awaitable[Any]], connections: int = CONNECTIONS) -> None:
    """Do `work` for each item, so many at a time."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(connections)))


class Run:
    """One control plane with a namespace for each measurement."""

    def __init__(self, plane: ControlPlane, client: KubeClient, count: int) -> None:
        self.plane, self.client, self.count = plane, client, count

    def path(self, namespace: str) -> str:
        return f"/apis/{API}/namespaces/{namespace}/serviceidentities"

    def watch(self, namespace: str) -> ReadyWatch:
        headers = {"Authorization": f"Bearer {self.plane.admin_token}", "Accept": "application/json"}
        tls = ssl.create_default_context(cafile=str(self.plane.ca_file))
        return ReadyWatch(self.plane.url + self.path(namespace), headers, tls)

    async def namespace(self, name: str) -> None:
        await self.client.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    async def create(self, namespace: str, number: int, spec: Spec) -> None:
        body = {
            "apiVersion": API,
            "kind": "ServiceIdentity",
            "metadata": {"name": f"id-{number}"},
            "spec": spec(number),
        }
        await self.client.request("POST", self.path(namespace), body)

    def writes(self) -> Counter[tuple[str, str, str]]:
        return Counter({key: n for key, n in self.plane.api_writes().items() if key[1] in OURS})

    async def floor(
        self, name: str, spec: Spec, template: Json, before: Callable[[int], Awaitable[Any]] = nothing
    ) -> Json:
        """Write what the operator would write, with nothing else to do; and how long it takes to create the objects.

        `before` is what has to be had from elsewhere first.
        """
        await self.namespace(name)
        started = time.perf_counter()
        await each(range(self.count), lambda number: self.create(name, number, spec))
        creating = time.perf_counter() - started
        latencies: list[float] = []

        async def bare(number: int) -> None:
            started = time.perf_counter()
            await before(number)
            for kind in STORES:
                for index, stored in enumerate(template[kind]):
                    body = {
                        "metadata": {"name": f"bare-{number}-{index}", "labels": stored["metadata"]["labels"]},
                        **{field: stored[field] for field in ("type", "data") if field in stored},
                    }
                    await self.client.request("POST", f"/api/v1/namespaces/{name}/{kind}", body)
            patch = {"status": template["status"]}
            await self.client.request("PATCH", f"{self.path(name)}/id-{number}/status", patch, MERGE_PATCH)
            latencies.append(time.perf_counter() - started)

        await asyncio.sleep(1)
        started = time.perf_counter()
        await each(range(self.count), bare)
        seconds = time.perf_counter() - started
        latencies.clear()
        for kind in STORES:
            await self.client.request("DELETE", f"/api/v1/namespaces/{name}/{kind}")
        await asyncio.sleep(1)
        await each(range(min(self.count, 100)), bare, connections=1)
        await self.forget(name)
        return {
            "seconds": round(seconds, 2),
            "seconds_creating": round(creating, 2),
            "writes_each": sum(len(template[kind]) for kind in STORES) + 1,
            "one_p50_ms": round(percentile(latencies, 0.5) * 1000, 1),
            "one_p99_ms": round(percentile(latencies, 0.99) * 1000, 1),
        }

    async def bulk(self, name: str, spec: Spec, operator: OperatorProcess, *, cold: bool) -> Json:
        """All at once: for a running operator, or (cold) for one that is started over objects that wait for it."""
        await self.namespace(name)
        names = [f"id-{number}" for number in range(self.count)]
        if cold:
            await each(range(self.count), lambda number: self.create(name, number, spec))
            await asyncio.sleep(2)
        before_writes = self.writes()
        async with self.watch(name).running() as watch:
            if cold:
                started = time.perf_counter()
                operator.start(wait=False)
                before = 0.0
            else:
                before = usage(operator.pid).cpu
                started = time.perf_counter()
                await each(range(self.count), lambda number: self.create(name, number, spec))
            created = time.perf_counter()
            await watch.wait_for(names, 300)
            until_ready = usage(operator.pid).cpu - before
        finished = max(watch.ready.values())
        await asyncio.sleep(3)
        used = usage(operator.pid)
        writes = self.writes() - before_writes
        del writes["POST", "serviceidentities", ""]
        events = sum(number for key, number in writes.items() if key[1] == "events")
        return {
            "seconds": round(finished - started, 2),
            "seconds_creating": 0.0 if cold else round(created - started, 2),
            "cpu_seconds_until_ready": round(until_ready, 2),
            "cpu_seconds": round(used.cpu - before, 2),
            "peak_mib": round(used.peak),
            "writes_each": round((sum(writes.values()) - events) / self.count, 3),
            "events_each": round(events / self.count, 3),
            "writes": {" ".join(part for part in key if part): number for key, number in sorted(writes.items())},
        }

    async def one_by_one(self, name: str, spec: Spec) -> Json:
        """One object from create to Ready, a hundred times."""
        await self.namespace(name)
        latencies: list[float] = []
        async with self.watch(name).running() as watch:
            for number in range(min(self.count, 100)):
                started = time.perf_counter()
                await self.create(name, number, spec)
                await watch.wait_for([f"id-{number}"], 30)
                latencies.append(watch.ready[f"id-{number}"] - started)
        await self.forget(name)
        return {
            "one_p50_ms": round(percentile(latencies, 0.5) * 1000, 1),
            "one_p99_ms": round(percentile(latencies, 0.99) * 1000, 1),
        }

    async def restart(self, operator: OperatorProcess) -> Json:
        """Restart over everything that is Ready: what is written, and what an idle minute costs."""
        operator.stop()
        before = self.writes()
        operator.start()
        await asyncio.sleep(5)
        settled = usage(operator.pid)
        await asyncio.sleep(10)
        idle = usage(operator.pid)
        return {
            "writes": sum((self.writes() - before).values()),
            "cpu_seconds_to_settle": round(settled.cpu, 2),
            "idle_cpu_percent": round((idle.cpu - settled.cpu) * 10, 2),
            "peak_mib": round(idle.peak),
        }

    async def forget(self, namespace: str) -> None:
        """Delete a namespace and wait until it is gone, so that its clean-up is not measured with what follows."""
        await self.client.request("DELETE", f"/api/v1/namespaces/{namespace}")
        while True:
            items, _ = await self.client.list_all("/api/v1/namespaces")
            if namespace not in [item["metadata"]["name"] for item in items]:
                return
            await asyncio.sleep(0.5)

    async def template(self, operator: OperatorProcess, spec: Spec) -> Json:
        """One finished identity: what the floor has to write."""
        await self.namespace("template")
        async with self.watch("template").running() as watch:
            await self.create("template", 0, spec)
            await watch.wait_for(["id-0"], 60)
        stored = {}
        for kind in STORES:
            found, _ = await self.client.list_all(f"/api/v1/namespaces/template/{kind}")
            stored[kind] = [item for item in found if MANAGED_BY_LABEL in item["metadata"].get("labels", {})]
        body = await self.client.request("GET", f"{self.path('template')}/id-0")
        await self.forget("template")
        return {**stored, "status": body["status"]}
