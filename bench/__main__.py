"""python -m bench --count 1000: this operator beside the bare floor, on one control plane, in one run.

The floor is the least that any controller has to write for the same result, over 32 connections: the Secrets and
ConfigMaps and one status patch; for secrets of Vault also one GET of each. Prints a table on stderr and JSON on stdout.
"""

import argparse
import asyncio
import json
import sys
from typing import Final

from bench.run import API, Json, Run
from bench.vault import KV, measure_vault
from serviceidentity.adapters.kube.client import KubeClient
from tests.controlplane import ControlPlane, start_control_plane
from tests.controlplane.operator import OperatorProcess, install

KINDS: Final[dict[str, Json]] = {
    "certificate": {"certificate": {}},
    "certificate+hmac": {"certificate": {}, "hmac": {}},
    "jwt": {"jwt": {}},
    "token": {"jwt": {"signingKey": "None", "tokens": [{"name": "api", "audiences": ["payment-service"]}]}},
}


async def measure(plane: ControlPlane, count: int, kinds: list[str]) -> Json:
    """Run everything and return the figures."""
    install(plane)
    domain = {"apiVersion": API, "kind": "TrustDomain", "metadata": {"name": "default"}}
    client = await KubeClient.connect(str(plane.admin_kubeconfig))
    run = Run(plane, client, count)
    await client.request("POST", f"/apis/{API}/trustdomains", domain | {"spec": {"trustDomain": "bench.example"}})
    results: Json = {"count": count, "kinds": {}}
    operator = OperatorProcess(plane)
    for kind in kinds:
        results["kinds"][kind] = await (
            measure_vault(run, operator, tell) if kind == KV else measure_kind(run, operator, kind)
        )
    await client.close()
    return results


async def measure_kind(run: Run, operator: OperatorProcess, kind: str) -> Json:
    """Everything about one kind of identity that needs nothing but the cluster."""
    label = kind.replace("+", "-")

    def spec(_: int) -> Json:
        return KINDS[kind]

    tell(f"{kind}: the floor ...")
    operator.start()
    template = await run.template(operator, spec)
    operator.stop()
    floor = await run.floor(f"floor-{label}", spec, template)
    tell(f"{kind}: all at once, operator started cold ...")
    cold = await run.bulk(f"cold-{label}", spec, operator, cold=True)
    tell(f"{kind}: restart ...")
    restart = await run.restart(operator)
    await run.forget(f"cold-{label}")
    tell(f"{kind}: all at once, operator running ...")
    warm = await run.bulk(f"warm-{label}", spec, operator, cold=False)
    await run.forget(f"warm-{label}")
    tell(f"{kind}: one by one ...")
    one = await run.one_by_one(f"one-{label}", spec)
    operator.stop()
    return {"floor": floor, "cold": cold, "warm": warm | one, "restart": restart}


def tell(text: str) -> None:
    """Say what is going on."""
    print(text, file=sys.stderr, flush=True)


def table(results: Json) -> str:
    """Return the figures for people."""
    head = (
        "",
        "seconds",
        "x floor",
        "x with creates",
        "writes each",
        "Vault each",
        "CPU s until ready",
        "CPU s",
        "peak MiB",
        "one p50 ms",
        "one p99 ms",
    )
    rows = [head]
    for kind, figures in results["kinds"].items():
        floor = figures["floor"]
        with_creates = floor["seconds"] + floor["seconds_creating"]  # while the operator runs, the objects are created
        for name in ("floor", "cold", "warm"):
            found = figures[name]
            rows.append(
                (
                    f"{kind}, {name}",
                    f"{found['seconds']:.2f}",
                    f"{found['seconds'] / floor['seconds']:.2f}",
                    f"{found['seconds'] / with_creates:.2f}" if name == "warm" else "",
                    f"{found['writes_each']:g}",
                    f"{found.get('vault_requests_each', '')}",
                    f"{found.get('cpu_seconds_until_ready', '')}",
                    f"{found.get('cpu_seconds', '')}",
                    f"{found.get('peak_mib', '')}",
                    f"{found.get('one_p50_ms', '')}",
                    f"{found.get('one_p99_ms', '')}",
                )
            )
        restart = figures["restart"]
        settle, writes = f"{restart['cpu_seconds_to_settle']}", f"{restart['writes']}"
        asked = f"{restart.get('vault_requests_each', '')}"
        rows.append((f"{kind}, restart", "", "", "", writes, asked, "", settle, f"{restart['peak_mib']}", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many identities")
    known = [*KINDS, KV]
    parser.add_argument("--kind", choices=known, action="append", help="only this one; may be given again")
    given = parser.parse_args()
    kinds = given.kind or known
    with start_control_plane(openbao=KV in kinds) as plane:
        results = asyncio.run(measure(plane, given.count, kinds))
    tell(table(results))
    print(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
