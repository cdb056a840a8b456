"""The composition root: builds the adapters, hands them to the use cases, and runs kopf."""

import asyncio
import logging
import os
import secrets
import socket
import sys
from datetime import timedelta

import kopf

from serviceidentity import handlers
from serviceidentity.adapters.cel import CelCompiler
from serviceidentity.adapters.kube.client import KubeClient
from serviceidentity.adapters.kube.events import KubeEvents
from serviceidentity.adapters.kube.lease import KubeLease
from serviceidentity.adapters.kube.objects import KubeConfigMaps, KubeObjects, KubeSecrets
from serviceidentity.adapters.kube.workloads import KubeWorkloads
from serviceidentity.app.engine import Engine, system_clock
from serviceidentity.app.leadership import LeaseLeadership
from serviceidentity.app.operator import Lists, Operator
from serviceidentity.config import Config, from_process
from serviceidentity.errors import PortError

logger = logging.getLogger("serviceidentity")


async def build(config: Config, stop: asyncio.Event) -> Operator:
    """Connect to the API server and put the parts together. Raises RejectedError without usable credentials."""
    client = await KubeClient.connect(config.kubeconfig, config.context)
    secret_store, config_maps, objects = KubeSecrets(client), KubeConfigMaps(client), KubeObjects(client)
    events = KubeEvents(client, lambda: len(engine.queue) > 0, enabled=config.events)
    served = config.namespaces
    with_authorities = None if served is None else tuple(sorted({*served, config.authority_namespace}))
    engine = Engine(
        config.authority_namespace,
        secret_store,
        objects,
        events,
        system_clock,
        KubeWorkloads(client),
        config_maps=config_maps,
        served=with_authorities,
        compile_rule=CelCompiler(),
    )

    async def lists() -> Lists:
        return Lists(
            namespaces=await objects.list_namespaces(),
            domains=await objects.list_trust_domains(),
            identities=await objects.list_identities(served),
            secrets=await secret_store.list_ours(with_authorities),
            config_maps=await config_maps.list_ours(with_authorities),
        )

    return Operator(
        engine,
        lists,
        system_clock,
        resync=timedelta(seconds=config.resync_seconds),
        background=events.run,
        close=client.close,
        leadership=LeaseLeadership(KubeLease(client, config.authority_namespace), process_identity())
        if config.leader_elect
        else None,
        end=stop.set,
    )


async def run(config: Config) -> None:
    """Run until a signal stops it."""
    stop = asyncio.Event()
    operator = await build(config, stop)
    settings = kopf.OperatorSettings()
    handlers.configure(settings)
    namespaces = config.namespaces or ()
    await kopf.operator(
        registry=handlers.registry(),
        settings=settings,
        memo=operator,
        # Given, because kopf would ask for the user's name otherwise, and the user of a container has none.
        identity=process_identity(),  # type: ignore[arg-type]  # a NewType of str that kopf does not export
        standalone=True,
        clusterwide=not namespaces,
        namespaces=sorted({*namespaces, config.authority_namespace}) if namespaces else (),
        liveness_endpoint=f"http://{config.probe_address}/healthz" if config.probe_address else None,
        stop_flag=stop,
    )


def process_identity() -> str:
    """Return a name for this process that no other one has, not even the next one in the same pod."""
    return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{secrets.token_hex(4)}"


def set_up_logging(level: str) -> None:
    """Log to stderr. kopf and the HTTP client print whole objects when they debug, so they never go below INFO."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr)
    for name in ("kopf", "aiohttp", "asyncio", "kubernetes"):
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLevelName(level)))
    for name in ("kopf.objects", "kopf.activities.probe", "aiohttp.access"):
        logging.getLogger(name).setLevel(logging.WARNING)  # a line for each watch event and probe says nothing


def main() -> None:
    """Entry point of the command `serviceidentity-operator`."""
    config = from_process(sys.argv[1:])
    set_up_logging(config.log_level)
    if config.kubeconfig:
        os.environ["KUBECONFIG"] = config.kubeconfig  # kopf's login reads it there
    try:
        asyncio.run(run(config))
    except PortError as error:
        sys.exit(f"serviceidentity-operator: {error}")


if __name__ == "__main__":
    main()
