"""Secrets of a KV engine: each identity has a path of its own, all go through one connection."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Final, Self

import aiohttp

from bench.probe import usage
from bench.run import API, CONNECTIONS, Json, Run, each
from tests.controlplane.openbao import OpenBao
from tests.controlplane.operator import NAMESPACE, OperatorProcess

KV: Final = "vault-kv"
AT_REST: Final = 200  # identities that are watched at rest
REFRESH: Final = 5  # seconds
PERIODS: Final = 6
_POLICY: Final = """
path "secret/data/bench/*" { capabilities = ["read"] }
path "sys/internal/ui/mounts/*" { capabilities = ["read"] }
"""


def spec(number: int, refresh: str = "5m") -> Json:
    """What an identity asks for."""
    return {"vault": {"secrets": [{"name": "app", "kv": {"path": f"bench/{number}"}, "refreshEvery": refresh}]}}


async def connection(run: Run, address: str, token: str) -> None:
    """Make the connection that identities mean when they name none."""
    secret = {"metadata": {"name": "vault-token"}, "stringData": {"token": token}}
    await run.client.request("POST", f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)
    body = {
        "apiVersion": API,
        "kind": "VaultConnection",
        "metadata": {"name": "default"},
        "spec": {
            "address": address,
            "auth": {"token": {"secretRef": {"name": "vault-token"}}},
            "allowedNamespaces": {"names": ["*"]},
        },
    }
    await run.client.request("POST", f"/apis/{API}/vaultconnections", body)


async def fill(bao: OpenBao, count: int) -> str:
    """Write a secret for each identity; return a token that may read them and do nothing else."""
    bao.request("PUT", "sys/policies/acl/bench", {"policy": _POLICY})
    made = bao.request("POST", "auth/token/create", {"policies": ["bench"]})
    async with aiohttp.ClientSession(headers={"X-Vault-Token": bao.root_token}) as session:

        async def write(number: int) -> None:
            body = {"data": {"username": f"user-{number}", "password": "x" * 32}}
            async with session.post(f"{bao.address}/v1/secret/data/bench/{number}", json=body) as answer:
                answer.raise_for_status()

        await each(range(count), write)
    return str(made["auth"]["client_token"])


class Counted:
    """What Vault was asked in the block, health and the counting itself left out; `each` of so many identities."""

    def __init__(self, bao: OpenBao, count: int) -> None:
        self._bao, self._count = bao, count
        self.total, self.each = 0, 0.0

    def __enter__(self) -> Self:
        self._before = self._bao.served()
        return self

    def __exit__(self, *_: object) -> None:
        self.total = self._bao.served() - self._before - 1
        self.each = round(self.total / self._count, 3)


async def measure_vault(run: Run, operator: OperatorProcess, tell: Callable[[str], None]) -> Json:
    """Everything about identities with one KV secret each."""
    if run.plane.openbao is None:
        raise LookupError("the control plane was started without OpenBao")
    bao = run.plane.openbao
    token = await fill(bao, run.count)
    await connection(run, bao.address, token)
    tell(f"{KV}: the floor ...")
    operator.start()
    template = await run.template(operator, spec)
    operator.stop()
    pool = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(headers={"X-Vault-Token": token}, connector=pool) as session:

        async def read(number: int) -> None:
            async with session.get(f"{bao.address}/v1/secret/data/bench/{number}") as answer:
                answer.raise_for_status()
                await answer.read()

        floor = await run.floor("floor-vault", spec, template, read)
    tell(f"{KV}: all at once, operator started cold ...")
    with Counted(bao, run.count) as counted:
        cold = await run.bulk("cold-vault", spec, operator, cold=True)
    cold["vault_requests_each"] = counted.each
    tell(f"{KV}: restart ...")
    with Counted(bao, run.count) as counted:
        restart = await run.restart(operator)
    restart["vault_requests_each"] = counted.each
    await run.forget("cold-vault")
    tell(f"{KV}: all at once, operator running ...")
    with Counted(bao, run.count) as counted:
        warm = await run.bulk("warm-vault", spec, operator, cold=False)
    warm["vault_requests_each"] = counted.each
    await run.forget("warm-vault")
    tell(f"{KV}: one by one ...")
    one = await run.one_by_one("one-vault", spec)
    tell(f"{KV}: at rest ...")
    rest = await at_rest(run, operator, bao)
    operator.stop()
    return {"floor": floor, "cold": cold, "warm": warm | one, "restart": restart, "at_rest": rest}


async def at_rest(run: Run, operator: OperatorProcess, bao: OpenBao) -> Json:
    """Identities that read again every few seconds what never changes: what is written, and how reads are spread."""
    number, name = min(AT_REST, run.count), "rest-vault"
    await run.namespace(name)
    async with run.watch(name).running() as watch:
        await each(range(number), lambda index: run.create(name, index, lambda i: spec(i, f"{REFRESH}s")))
        await watch.wait_for([f"id-{index}" for index in range(number)], 60)
    await asyncio.sleep(2 * REFRESH)
    before, served, used = run.writes(), [bao.served()], usage(operator.pid)
    loop = asyncio.get_running_loop()
    started = loop.time()
    for second in range(1, REFRESH * PERIODS + 1):
        await asyncio.sleep(started + second - loop.time())
        served.append(bao.served())
    cpu = usage(operator.pid).cpu - used.cpu
    a_second = [after - earlier - 1 for earlier, after in itertools.pairwise(served)]
    writes = sum((run.writes() - before).values())
    await run.forget(name)
    return {
        "identities": number,
        "refresh_seconds": REFRESH,
        "writes": writes,
        "vault_requests": sum(a_second),
        "vault_requests_each_period": round(sum(a_second) / number / PERIODS, 3),
        "vault_requests_a_second": {"most": max(a_second), "least": min(a_second)},
        "cpu_percent": round(cpu / (REFRESH * PERIODS) * 100, 1),
    }
