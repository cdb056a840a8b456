"""python -m bench.seal: Vault sealed, or hanging, under load for a while; what is asked of it, and how all comes back.

Each identity reads a KV secret of its own every few seconds. A proxy before OpenBao counts requests, and how many wait
for an answer at once. Prints JSON.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from bench.probe import usage
from bench.proxy import CountingProxy
from bench.run import API, Json, Run, each
from bench.vault import connection, fill, spec
from serviceidentity.adapters.kube.client import KubeClient
from tests.controlplane import ControlPlane, start_control_plane
from tests.controlplane.openbao import OpenBao
from tests.controlplane.operator import OperatorProcess, install

SPACE = "load"


async def ready(run: Run) -> Counter[str]:
    """How many identities there are, by what their Ready condition says."""
    items, _ = await run.client.list_all(run.path(SPACE))
    conditions = (((item.get("status") or {}).get("conditions") or [{}])[0] for item in items)
    return Counter("Ready" if one.get("status") == "True" else str(one.get("reason")) for one in conditions)


async def until(run: Run, enough: Callable[[Counter[str]], bool], timeout: float) -> float:
    """Return how many seconds passed until that many are; raises TimeoutError with the last count."""
    started = time.monotonic()
    while not enough(found := await ready(run)):
        if time.monotonic() > started + timeout:
            raise TimeoutError(f"not within {timeout:.0f} s: {dict(found)}")
        await asyncio.sleep(0.25)
    return time.monotonic() - started


async def served_meanwhile(run: Run, number: int, seconds: float) -> Json:
    """Identities that need nothing of Vault, one after another, while it is away: from create to Ready."""
    latencies: list[float] = []
    async with run.watch("others").running() as watch:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            index = number + len(latencies)
            started = time.perf_counter()
            await run.create("others", index, lambda _: {"certificate": {}})
            await watch.wait_for([f"id-{index}"], 60)
            latencies.append(watch.ready[f"id-{index}"] - started)
            await asyncio.sleep(max(0.0, 0.5 - latencies[-1]))
    ordered = sorted(latencies)
    return {"identities": len(ordered), "p50_ms": round(ordered[len(ordered) // 2] * 1000, 1),
            "longest_ms": round(ordered[-1] * 1000, 1)}  # fmt: skip


async def away(
    run: Run,
    proxy: CountingProxy,
    operator: OperatorProcess,
    seconds: float,
    go: Callable[[], Any],
    back: Callable[[], Any],
) -> Json:
    """Take Vault away for so many seconds and give it back; return what happened."""
    settled = run.writes()
    used, started = usage(operator.pid), time.monotonic()
    proxy.begin()
    await asyncio.to_thread(go)
    others = asyncio.create_task(served_meanwhile(run, int(started) % 10**6 * 1000, seconds - 2))
    await asyncio.sleep(5)
    first = proxy.requests
    others_found = await others
    await asyncio.sleep(max(0.0, started + seconds - time.monotonic()))
    told, meanwhile, probes = await ready(run), proxy.requests, proxy.probes
    writes_away = run.writes() - settled
    before, cpu = run.writes(), usage(operator.pid).cpu - used.cpu
    returning = time.monotonic()
    await asyncio.to_thread(back)
    returning = time.monotonic() - returning
    proxy.begin()
    recovered = await until(run, lambda found: found["Ready"] == run.count, 60)
    most = proxy.most_in_flight
    busiest = max(proxy.by_second.values(), default=0)
    await asyncio.sleep(5)
    return {
        "seconds_away": seconds,
        "requests_in_the_first_5_s": first,
        "requests_after_that": meanwhile - first,
        "health_probes": probes,
        "told_so": dict(told),
        "status_writes_each": round(_statuses(writes_away) / run.count, 3),
        "cpu_seconds_away": round(cpu, 2),
        "other_identities_meanwhile": others_found,
        "seconds_until_it_serves": round(returning, 2),
        "seconds_until_all_ready": round(recovered, 2),
        "most_in_flight_after": most,
        "busiest_second_after": busiest,
        "status_writes_each_after": round(_statuses(run.writes() - before) / run.count, 3),
    }


def _statuses(writes: Counter[tuple[str, str, str]]) -> int:
    # What the other identities are given counts as one each, in Secrets as in status.
    others = writes["POST", "secrets", ""]
    return sum(number for key, number in writes.items() if key[1:] == ("serviceidentities", "status")) - others


async def measure(plane: ControlPlane, given: argparse.Namespace) -> Json:
    """Run everything and return the figures."""
    bao = _started(plane)
    install(plane)
    client = await KubeClient.connect(str(plane.admin_kubeconfig))
    run = Run(plane, client, given.count)
    domain = {"apiVersion": API, "kind": "TrustDomain", "metadata": {"name": "default"}}
    await client.request("POST", f"/apis/{API}/trustdomains", domain | {"spec": {"trustDomain": "bench.example"}})
    token = await fill(bao, given.count)
    at = urlsplit(bao.address)
    results: Json = {"count": given.count, "refresh_seconds": given.refresh}
    async with CountingProxy(str(at.hostname), int(at.port or 0)).running() as proxy:
        await connection(run, proxy.address, token)
        operator = OperatorProcess(plane)
        operator.start()
        await run.namespace("others")
        await run.namespace(SPACE)
        await each(range(given.count), lambda i: run.create(SPACE, i, lambda n: spec(n, f"{given.refresh}s")))
        await until(run, lambda found: found["Ready"] == given.count, 120)
        await asyncio.sleep(given.refresh)
        results["sealed"] = await away(run, proxy, operator, given.sealed, bao.seal, bao.unseal)
        if given.hanging:
            pid = bao.process.pid
            results["hanging"] = await away(
                run,
                proxy,
                operator,
                given.hanging,
                lambda: os.kill(pid, signal.SIGSTOP),
                lambda: os.kill(pid, signal.SIGCONT),
            )
        print("\n".join(l for l in operator.log.splitlines() if "onnection" in l), file=sys.stderr)
        await asyncio.to_thread(operator.stop)
    await client.close()
    return results


def _started(plane: ControlPlane) -> OpenBao:
    if plane.openbao is None:
        raise LookupError("the control plane was started without OpenBao")
    return plane.openbao


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.seal", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="how many identities")
    parser.add_argument("--refresh", type=int, default=5, help="seconds between reads of each")
    parser.add_argument("--sealed", type=float, default=60, help="seconds that Vault is sealed")
    parser.add_argument("--hanging", type=float, default=20, help="seconds that Vault hangs afterwards; 0: not at all")
    given = parser.parse_args()
    with start_control_plane(openbao=True) as plane:
        results = asyncio.run(measure(plane, given))
    print(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
