"""All of the shop on one machine: what a cluster and its platform team provide, and on it the manifests as they are."""

import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from examples.shop.run.customers import PASSWORDS, Storefront
from examples.shop.run.platform import AUDIENCE, NAMESPACE, Database, Platform
from examples.shop.run.table import Table
from tests.controlplane import ControlPlane, Postgres, start_control_plane, start_postgres
from tests.controlplane.binaries import ROOT
from tests.controlplane.node import Node, start_node
from tests.controlplane.operator import OperatorProcess, install
from tests.controlplane.redis import Redis, start_redis

API: Final = "serviceidentity.dev/v1alpha1"
OVERLAY: Final = ROOT / "examples/shop/local"
SERVICES: Final = ("auth-service", "order-service", "payment-service", "inventory-service", "storefront")
IMAGES: Final = {
    "auth-service": [sys.executable, "-m", "auth_service"],
    "shop": [sys.executable, "-m", "examples.shop.services"],
}
DATABASES: Final = (
    Database("auth-service", "auth", "auth-database-owner"),
    Database("order-service", "orders", "order-database-owner"),
    Database("payment-service", "payments", "payment-database-owner"),
    Database("inventory-service", "inventory", "inventory-database-owner"),
)
PROVIDER: Final = "shop/payment-provider"
ROLES: Final = {"customer": ("orders:read", "orders:create", "payments:create"), "admin": ("*",)}
USERS: Final = {"alice": "customer", "bob": "customer", "admin": "admin"}
PORT: Final = 8443
_START: Final = 40  # seconds that all Deployments may take to become available

Say = Callable[[str], None]


@dataclass
class Bed:
    """The shop that runs, with whatever it stands on."""

    plane: ControlPlane
    platform: Platform
    node: Node
    operator: OperatorProcess

    def __post_init__(self) -> None:
        self.table = Table(self.logs)

    def kubectl(self, *arguments: str, **options: Any) -> str:
        """Return what kubectl prints, run in the shop's namespace. Raises KubectlError."""
        return str(self.plane.kubectl(f"--namespace={NAMESPACE}", *arguments, **options).stdout)

    def patch(self, kind: str, name: str, spec: Mapping[str, Any]) -> None:
        """Change fields of an object's spec; None takes one away. Raises KubectlError."""
        self.kubectl("patch", kind, name, "--type=merge", "--patch", json.dumps({"spec": spec}))

    def rotate(self, *services: str) -> None:
        """Ask for new credentials of identities, as `kubectl sid rotate` does. Raises KubectlError."""
        mark = f"serviceidentity.dev/rotate={time.time_ns()}"
        self.kubectl("annotate", "--overwrite", "sid", *services, mark)

    def files(self, secret: str) -> dict[str, bytes]:
        """Return what is in a Secret now. Raises OSError or KubectlError when there is none."""
        found = json.loads(self.plane.raw(f"/api/v1/namespaces/{NAMESPACE}/secrets/{secret}"))
        return {name: b64decode(value) for name, value in found["data"].items()}

    def address(self, service: str) -> str:
        """Return where a service is reached, as host:port."""
        return self.node.address(service, NAMESPACE, PORT)

    def storefront(self) -> Storefront:
        """Return what a customer has to know."""
        roots = self.files("storefront-tls")["ca.crt"].decode()
        trust = ssl.create_default_context(cadata=roots)
        return Storefront(self.address("storefront"), f"storefront.{NAMESPACE}.svc", trust)

    def logs(self) -> list[Path]:
        """Return the log files of all Pods of the shop."""
        return [path for service in SERVICES for path in self.node.log(service, NAMESPACE)]

    def troubles(self) -> list[str]:
        """Return, for each Pod that is not ready, what it waits for."""
        pods = self.node.pods(namespace=NAMESPACE)
        return [f"{pod.name}: {pod.phase} {pod.reason}".strip() for pod in pods if not pod.ready]


@contextmanager
def shop(say: Say) -> Iterator[Bed]:
    """Bring everything up and end it after the block, also on Ctrl-C.

    Raises NotReadyError, KubectlError, MissingProgramError when something does not come up.
    """
    with ExitStack() as stack:
        say("starting PostgreSQL, Redis, etcd, kube-apiserver, kube-controller-manager and OpenBao ...")
        postgres = stack.enter_context(start_postgres())
        redis = stack.enter_context(start_redis())
        plane = stack.enter_context(start_control_plane(openbao=True))
        assert plane.openbao is not None
        platform = Platform(plane, plane.openbao, postgres, DATABASES)
        with ThreadPoolExecutor(1) as aside:
            platform.make_databases()
            users = aside.submit(add_users, platform, postgres)  # each is a run of a program: seconds
            say("installing the operator: CRDs and rights, OpenBao and the databases ...")
            install(plane)
            plane.kubectl("apply", "--kustomize", str(ROOT / "deploy/vault"))
            operator = OperatorProcess(plane)
            stack.callback(operator.stop)
            operator.start(wait=False)
            plane.kubectl("create", "namespace", NAMESPACE)
            platform.set_up(PROVIDER)
            connect(plane)
            users.result()
        node = stack.enter_context(node_of(plane, postgres, redis))
        say("applying examples/shop/local ...")
        plane.kubectl("apply", "--kustomize", str(OVERLAY))
        bed = Bed(plane, platform, node, operator)
        wait_until_available(bed, say)
        yield bed


def node_of(plane: ControlPlane, postgres: Postgres, redis: Redis) -> Any:
    """Return a node whose Pods find PostgreSQL and Redis under the names that the manifests use."""
    hosts = {"postgres.shop.svc:5432": postgres.address, "redis.shop.svc:6379": redis.address}
    return start_node(plane, IMAGES, namespaces=[NAMESPACE], hosts=hosts, sync=(0.0, 1.0))


def connect(plane: ControlPlane) -> None:
    """Apply the VaultConnection: each identity logs in as its own service account, in the role of that name."""
    assert plane.openbao is not None
    spec = {
        "address": plane.openbao.address,
        "auth": {"kubernetes": {"audiences": [AUDIENCE]}},
        "allowedNamespaces": {"names": [NAMESPACE]},
    }
    body = {"apiVersion": API, "kind": "VaultConnection", "metadata": {"name": "default"}, "spec": spec}
    plane.kubectl("apply", "--filename=-", input=json.dumps(body))


def add_users(platform: Platform, postgres: Postgres) -> None:
    """Migrate auth-service's database, and add roles and users, with its own command line as docs/auth-service.md says.

    Raises subprocess.CalledProcessError.
    """
    owner = next(one for one in platform.databases if one.service == "auth-service")
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "username").write_text(owner.owner)
        (Path(directory) / "password").write_text(owner.password)
        address = f"host=127.0.0.1 port={postgres.port} dbname={owner.name}"
        environment = os.environ | {"AUTH_DATABASE": address, "AUTH_DATABASE_OWNER": directory}

        def run(*arguments: str, typed: str = "") -> None:
            command = [*IMAGES["auth-service"], *arguments]
            subprocess.run(command, input=typed, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)

        run("migrate")
        for role, permissions in ROLES.items():
            run("add-role", role, *permissions)
        for name, role in USERS.items():
            run("add-user", name, "--role", role, typed=PASSWORDS[name])


def wait_until_available(bed: Bed, say: Say) -> None:
    """Return when all Deployments are available, and tell what is waited for now and then. Raises TimeoutError."""
    started = time.monotonic()
    told = started
    while True:
        found = json.loads(bed.kubectl("get", "deployments", "--output=json"))["items"]
        waiting = [one["metadata"]["name"] for one in found if not _available(one)]
        if found and not waiting:
            return
        now = time.monotonic()
        if now - started > _START:
            raise TimeoutError("; ".join(bed.troubles()) or f"not available: {', '.join(waiting)}")
        if now - told > 5:  # noqa: PLR2004
            told = now
            say(f"waiting for {', '.join(waiting)} ...")
        time.sleep(0.3)


def _available(deployment: dict[str, Any]) -> bool:
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    current = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    return current and bool(status.get("availableReplicas", 0) >= wanted)
