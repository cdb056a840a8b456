"""The composition root: builds the adapters, hands them to the use cases, and runs kopf."""

import asyncio
import gc
import logging
import os
import secrets
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final

import kopf

from serviceidentity import handlers
from serviceidentity.adapters.cel import CelCompiler
from serviceidentity.adapters.jinja import JinjaTemplates
from serviceidentity.adapters.keyfile import KeyFile, MasterKeyFile
from serviceidentity.adapters.kube.client import KubeClient
from serviceidentity.adapters.kube.events import KubeEvents
from serviceidentity.adapters.kube.lease import KubeLease
from serviceidentity.adapters.kube.objects import KubeConfigMaps, KubeObjects, KubeSecrets
from serviceidentity.adapters.kube.tokens import KubeTokens
from serviceidentity.adapters.kube.webhooks import KubeWebhookConfigurations
from serviceidentity.adapters.kube.workloads import KubeWorkloads
from serviceidentity.adapters.vault.connection import VaultConnection
from serviceidentity.adapters.vault.pki import VaultPki
from serviceidentity.adapters.vault.servers import HvacServers
from serviceidentity.adapters.vault.session import VaultSession
from serviceidentity.adapters.vault.settings import default_connection, from_environment
from serviceidentity.adapters.vault.transit import TransitKey
from serviceidentity.adapters.web.fetch import fetch
from serviceidentity.adapters.web.reviews import ReviewEndpoint
from serviceidentity.adapters.web.server import HttpsServer
from serviceidentity.app.encryption import EncryptionSettings, MasterKeys, MasterKeySecret
from serviceidentity.app.engine import Engine, system_clock
from serviceidentity.app.jwt.certificate import ServingCertificate
from serviceidentity.app.keyguard import KeyEncryption, KeyEncryptionKeys
from serviceidentity.app.leadership import LeaseLeadership
from serviceidentity.app.operator import Lists, Operator
from serviceidentity.app.ports import Secrets
from serviceidentity.app.webhook.trusted import TrustedWebhook
from serviceidentity.config import Config, from_process
from serviceidentity.domain.access.spec import VARIABLES as ACCESS_VARIABLES
from serviceidentity.errors import PortError

logger = logging.getLogger("serviceidentity")

NEW_OBJECTS_BEFORE_COLLECTION: Final = 20_000


async def build(config: Config, stop: asyncio.Event) -> Operator:
    """Connect to the API server and put the parts together. Raises PortError when the settings can't be used."""
    vault = vault_session(config)
    keys = await key_encryption(config, vault)
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
        keys=keys,
        compile_rule=CelCompiler(),
        compile_access=CelCompiler(ACCESS_VARIABLES),
        compile_template=JinjaTemplates(),
        pki=VaultPki(vault) if vault else None,
        jwks_url=config.jwks_url,
        fetch=fetch,
        encryption=encryption_settings(config, secret_store),
        vault=HvacServers(secret_store, config.authority_namespace, KubeTokens(client)),
        default_connection=default_connection(os.environ, config.vault_allowed_namespaces)
        if os.environ.get("VAULT_ADDR")
        else None,
    )

    certificate = ServingCertificate(engine.inventory, secret_store, config.jwks_secret, system_clock)
    webhook = TrustedWebhook(KubeWebhookConfigurations(client), certificate.read, system_clock)

    async def background() -> None:
        # Side by side: trouble in one is not the end of the other.
        others = [vault.keep()] if vault else []
        others += [webhook.run()] if config.jwks_address else []
        await asyncio.gather(events.run(), *others, return_exceptions=True)

    async def close() -> None:
        await engine.connections.close()
        await client.close()
        if vault is not None:
            await vault.close()

    async def lists() -> Lists:
        return Lists(
            namespaces=await objects.list_namespaces(),
            domains=await objects.list_trust_domains(),
            identities=await objects.list_identities(with_authorities),
            secrets=await secret_store.list_ours(with_authorities),
            config_maps=await config_maps.list_ours(with_authorities),
            connections=await objects.list_vault_connections(),
            policies=await objects.list_access_policies(with_authorities),
        )

    def https() -> HttpsServer | None:
        if config.jwks_address is None:
            return None
        serving, review = engine.serving(lambda: operator.complete), ReviewEndpoint(engine.reviews().answer)
        return HttpsServer(*config.jwks_address, serving.answer, certificate.read, review=review)

    server = https()
    operator = Operator(
        engine,
        lists,
        system_clock,
        resync=timedelta(seconds=config.resync_seconds),
        background=background,
        close=close,
        leadership=LeaseLeadership(KubeLease(client, config.authority_namespace), process_identity())
        if config.leader_elect
        else None,
        end=stop.set,
        serve=server.run if server else None,
    )
    return operator  # the server asks it


def vault_session(config: Config) -> VaultSession | None:
    """Return who we are at Vault or OpenBao, if VAULT_ADDR names one or a key needs it. Raises SettingsError."""
    needed = any(way.startswith("transit:") for way in config.ca_key_encryption)
    if not needed and not os.environ.get("VAULT_ADDR"):
        return None
    settings = from_environment(os.environ)
    return VaultSession(settings, VaultConnection(settings))


async def key_encryption(config: Config, vault: VaultSession | None) -> KeyEncryptionKeys:
    """Return the keys that encrypt and decrypt CA keys. Raises SettingsError for a file that can't be used.

    A server that is away is no reason not to start: what it is needed for waits, and says so.
    """
    keys: list[KeyEncryption] = []
    for way in config.ca_key_encryption:
        scheme, _, rest = way.partition(":")
        if scheme == "file":
            file = KeyFile(Path(rest))
            await file.current()
            keys.append(file)
        elif vault is not None and scheme == "transit":
            mount, _, key = rest.rpartition("/")
            keys.append(TransitKey(vault, mount, key))
    return KeyEncryptionKeys(None if config.ca_key_encryption[0] == "none" else keys[0], tuple(keys))


def encryption_settings(config: Config, secret_store: Secrets) -> EncryptionSettings:
    """Return what is to be known about the keys of encrypted values."""
    scheme, _, rest = (config.master_keys or "").partition(":")
    masters: MasterKeys | None = None
    if scheme == "file":
        masters = MasterKeyFile(Path(rest))
    elif scheme == "secret":
        name, _, key = rest.partition("/")
        masters = MasterKeySecret(secret_store, config.authority_namespace, name, key or "keys")
    allowed = config.master_key_namespaces
    return EncryptionSettings(
        masters, None if allowed is None else frozenset(allowed), config.rotate_encryption_key_every
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


def collect_garbage_less_often() -> None:
    """Leave out what was imported, and look for cycles after more than the 700 new objects of a default.

    A thousand identities that come at once stay: searching all of them for cycles again and again was a fifth of the
    CPU time. What is freed by counting references, which is nearly everything, is freed at once as before.
    """
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS_BEFORE_COLLECTION, 10, 10)


def main() -> None:
    """Entry point of the command `serviceidentity-operator`."""
    config = from_process(sys.argv[1:])
    set_up_logging(config.log_level)
    collect_garbage_less_often()
    if config.kubeconfig:
        os.environ["KUBECONFIG"] = config.kubeconfig  # kopf's login reads it there
    try:
        asyncio.run(run(config))
    except PortError as error:
        sys.exit(f"serviceidentity-operator: {error}")


if __name__ == "__main__":
    main()
