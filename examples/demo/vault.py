"""Secrets of Vault (OpenBao here) and encrypted values, for order-service; set up as docs/vault.md says."""

import os
import subprocess
import time
from base64 import b64decode
from typing import Any, Final

from examples.demo.screen import Screen
from examples.demo.shop import Shop, reached_after
from tests.controlplane.binaries import ROOT, beside_python
from tests.controlplane.databases import add_role, enable_database, leases
from tests.controlplane.logins import add_login_role, enable_kubernetes_auth
from tests.controlplane.openbao import OpenBao
from tests.controlplane.postgres import Postgres, start_postgres

STRIPE, FILES, DATABASE, ENCRYPTED = (f"order-service-{name}" for name in ("stripe", "files", "orders", "encrypted"))
RIGHTS: Final = """
path "secret/data/api-keys/*"          { capabilities = ["read"] }
path "sys/internal/ui/mounts/*"        { capabilities = ["read"] }
path "transit/datakey/plaintext/files" { capabilities = ["update"] }
path "database/creds/orders"           { capabilities = ["read"] }
path "auth/token/create-orphan"        { capabilities = ["update"] }
"""
SOURCES: Final[list[dict[str, Any]]] = [
    {"name": "stripe", "kv": {"path": "api-keys/stripe"}, "refreshEvery": "5s"},
    {"name": "files", "transit": {"key": "files"}},
]
LEASED: Final = {"name": "orders", "database": {"role": "orders"}}


def secrets(shop: Shop, screen: Screen) -> None:
    """A secret that is read, a key that is wrapped, a database user with a lease, and values in Git."""
    assert shop.plane.openbao is not None
    bao = shop.plane.openbao
    with start_postgres() as postgres:
        set_up(shop, bao, postgres)
        started = time.monotonic()
        shop.patch("order-service", {"vault": {"secrets": [*SOURCES, LEASED]}})
        arrived = reached_after(lambda: shop.files_or_none(DATABASE) is not None, 15)
        shop.kubectl("wait", "--for=condition=Ready", "sid/order-service", "--timeout=15s")
        took = time.monotonic() - started
        screen.step("logged in to Vault as its own service account", arrived is not None, f"Ready after {took:.1f} s")
        read(shop, screen, bao)
        wrapped(shop, screen, bao)
        leased(shop, screen, bao, postgres)
    encrypted(shop, screen)


def set_up(shop: Shop, bao: OpenBao, postgres: Postgres) -> None:
    """What the platform team does once."""
    enable_kubernetes_auth(bao, shop.plane)
    bao.request("PUT", "sys/policies/acl/services", {"policy": RIGHTS})
    add_login_role(bao, "services", namespaces="shop", policies="services", audience="vault")
    bao.request("POST", "secret/data/api-keys/stripe", {"data": {"key": "sk-1"}})
    bao.request("POST", "sys/mounts/transit", {"type": "transit"})
    bao.request("POST", "transit/keys/files")
    enable_database(bao, postgres)
    add_role(bao, "orders", "4s", "1h")
    shop.plane.kubectl("apply", "--kustomize", str(ROOT / "deploy/vault"))
    shop.kubectl("create", "serviceaccount", "order-service")
    auth = {"kubernetes": {"role": "services", "audiences": ["vault"]}}
    shop.apply("VaultConnection", "default", address=bao.address, auth=auth, allowedNamespaces={"names": ["shop"]})


def read(shop: Shop, screen: Screen, bao: OpenBao) -> None:
    """A secret of the KV engine arrives, and what changes there."""
    before = shop.files(STRIPE)
    bao.request("POST", "secret/data/api-keys/stripe", {"data": {"key": "sk-2"}})
    took = reached_after(lambda: shop.files(STRIPE) == {"key": b"sk-2"}, 10)
    screen.step("KV secret follows Vault", before == {"key": b"sk-1"} and took is not None, f"{STRIPE}, {_after(took)}")


def wrapped(shop: Shop, screen: Screen, bao: OpenBao) -> None:
    """A data key, in plain and wrapped by a key that never leaves Vault."""
    files = shop.files(FILES)
    answer = bao.request("POST", "transit/decrypt/files", {"ciphertext": files["ciphertext"].decode()})
    same = b64decode(answer["data"]["plaintext"]) == files["plaintext"]
    screen.step("data key is unwrapped by Vault to the same", same, f"{FILES}, {len(files['plaintext']) * 8} bits")


def leased(shop: Shop, screen: Screen, bao: OpenBao, postgres: Postgres) -> None:
    """A user of PostgreSQL that is made for this identity, kept alive, and dropped when nobody asks for it any more."""
    user = shop.files(DATABASE)
    name, password = user["username"].decode(), user["password"].decode()

    def renewals() -> bool:
        lease = shop.lease("order-service", "orders")
        return bool(lease) and lease["lastRenewalTime"] > lease["issueTime"]

    reached = reached_after(renewals, 15)
    works = postgres.lets_in(name, password) and shop.files(DATABASE) == user
    screen.step("database user: lease renewed, still the same", reached is not None and works, "of 4 s, at 75 %")
    shop.patch("order-service", {"vault": {"secrets": SOURCES}})
    took = reached_after(lambda: not leases(bao, "database/creds") and name not in postgres.users(), 10)
    screen.step("not asked for any more: user dropped, no lease left", took is not None, _after(took))


def encrypted(shop: Shop, screen: Screen) -> None:
    """A value that may be in Git, encrypted without any right but to read a public key."""
    value = os.urandom(8).hex()
    text = _sid(shop, "encrypt", "shop/order-service", "API_TOKEN", typed=value)
    shop.patch("order-service", {"encrypted": {"values": {"API_TOKEN": text}}})
    took = reached_after(lambda: (shop.files_or_none(ENCRYPTED) or {}) == {"API_TOKEN": value.encode()})
    screen.step("encrypted value is decrypted", took is not None, f"{text[:26]}..., {_after(took)}")
    shop.patch("order-service", {"encrypted": {"values": {"ANOTHER": text}}})
    took = reached_after(lambda: shop.condition("order-service", "EncryptedReady").get("reason") == "DecryptionFailed")
    stays = took is not None and shop.files_or_none(ENCRYPTED) == {"API_TOKEN": value.encode()}
    screen.step("copied to another key: refused", stays, "DecryptionFailed, and the Secret stays")
    shop.patch("order-service", {"encrypted": None})


def _sid(shop: Shop, *arguments: str, typed: str) -> str:
    """Return what `kubectl sid` prints."""
    kubectl = beside_python("kubectl")
    environment = {**os.environ, "PATH": f"{kubectl.parent}:{os.environ['PATH']}"}
    environment["KUBECONFIG"] = str(shop.plane.admin_kubeconfig)
    command = [str(kubectl), "sid", *arguments]
    done = subprocess.run(command, input=typed, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s after the change"
