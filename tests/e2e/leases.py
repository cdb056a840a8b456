"""Leased database users: OpenBao and PostgreSQL with roles of short leases, and what is left of leases anywhere."""

import json
import random
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import yaml

from tests.controlplane import ControlPlane, start_control_plane
from tests.controlplane.binaries import ROOT
from tests.controlplane.databases import add_role, enable_database, leases
from tests.controlplane.logins import add_login_role, enable_kubernetes_auth
from tests.controlplane.openbao import OpenBao
from tests.controlplane.operator import NAMESPACE, OperatorProcess, install
from tests.controlplane.postgres import Postgres, start_postgres
from tests.e2e.support import API, Space, eventually

RECORDS: Final = "labelSelector=serviceidentity.dev/vault-lease"
READ: Final = 'path "database/creds/*" { capabilities = ["read"] }\n'
MAKE_TOKENS: Final = 'path "auth/token/create-orphan" { capabilities = ["update"] }\n'
DSN: Final = "postgresql://{{ username }}:{{ password | urlencode }}@db/orders"
AUDIENCE: Final = "vault"


@dataclass
class Bed:
    """One control plane with OpenBao, which makes users in PostgreSQL. Connection `default`: as the operator."""

    plane: ControlPlane
    bao: OpenBao
    postgres: Postgres

    def connect(self, name: str, auth: dict[str, Any], in_flight: int = 8) -> None:
        spec = {
            "address": self.bao.address,
            "auth": auth,
            "allowedNamespaces": {"names": ["*"]},
            "limits": {"requestsInFlight": in_flight},
        }
        body = {"apiVersion": API, "kind": "VaultConnection", "metadata": {"name": name}, "spec": spec}
        self.plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(body))

    def role(self, name: str, default_ttl: str, max_ttl: str) -> None:
        add_role(self.bao, name, default_ttl, max_ttl)

    def leases(self) -> set[str]:
        """Return the IDs of all leases of database users."""
        return leases(self.bao, "database/creds")

    def records(self) -> set[str]:
        """Return the names of all lease records."""
        items = json.loads(self.plane.raw(f"/api/v1/namespaces/{NAMESPACE}/secrets?{RECORDS}"))["items"]
        return {item["metadata"]["name"] for item in items}

    def left(self) -> tuple[int, int, int]:
        """Count leases, their records and their users."""
        return max(len(self.leases()) - self.hollow(), 0), len(self.records()), len(self.postgres.users())

    def hollow(self) -> int:
        """Count the entries of leases that OpenBao may have kept when a client was gone in the middle of a read.

        It has dropped the user by then, and told nobody the lease's ID; the entry goes at its end.
        """
        text = self.bao.process.log.read_text(errors="replace")
        return text.count("failed to delete lease entry: context canceled")

    def tokens(self) -> set[str]:
        """Return the accessors of all tokens."""
        return set(self.bao.request("LIST", "auth/token/accessors")["data"]["keys"])

    def looked_up(self, lease: str) -> dict[str, Any] | None:
        """Return what OpenBao knows of a lease; None when there is none."""
        try:
            return dict(self.bao.request("PUT", "sys/leases/lookup", {"lease_id": lease})["data"])
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            return None


@contextmanager
def lease_bed() -> Iterator[Bed]:
    """Start everything but the operator."""
    with start_control_plane(openbao=True) as plane, start_postgres() as postgres:
        install(plane)
        plane.kubectl("apply", "-k", str(ROOT / "deploy/vault"))
        assert plane.openbao is not None
        bed = Bed(plane, plane.openbao, postgres)
        enable_database(bed.bao, postgres)
        bed.bao.request("PUT", "sys/policies/acl/read", {"policy": READ})
        bed.bao.request("PUT", "sys/policies/acl/make-tokens", {"policy": READ + MAKE_TOKENS})
        made: Any = bed.bao.request("POST", "auth/token/create", {"policies": ["make-tokens"], "ttl": "1h"})
        token = made["auth"]["client_token"]
        plane.kubectl("create", "secret", "generic", "vault-token", f"-n={NAMESPACE}", f"--from-literal=token={token}")
        bed.connect("default", {"token": {"secretRef": {"name": "vault-token"}}})
        enable_kubernetes_auth(bed.bao, plane)
        for name in ("read", "make-tokens"):
            add_login_role(bed.bao, name, policies=name, audience=AUDIENCE, token_ttl="10m")
            bed.connect(name, {"kubernetes": {"role": name, "audiences": [AUDIENCE]}})
        yield bed


def database(role: str, connection: str = "default", **more: Any) -> dict[str, Any]:
    """Return the spec of an identity that asks for one database user, in the Secret <identity>-db."""
    secret = {"name": "db", "database": {"role": role}, "refreshEvery": "5s", "templates": {"dsn": DSN}}
    secret["keys"] = {"username": "username", "password": "password"}
    return {"vault": {"connectionRef": {"name": connection}, "secrets": [secret | more]}}


@dataclass(frozen=True)
class User:
    """The credentials in a Secret."""

    name: str
    password: str

    def logs_in(self, bed: Bed) -> bool:
        return bed.postgres.lets_in(self.name, self.password)


def user(space: Space, name: str) -> User | None:
    """Return the credentials of an identity, None while there are none."""
    if space.secret(f"{name}-db") is None:
        return None
    data = space.data(f"{name}-db")
    found = User(data["username"].decode(), data["password"].decode())
    assert data["dsn"].decode().startswith(f"postgresql://{found.name}:")
    return found


def lease(space: Space, name: str) -> dict[str, Any]:
    """Return what the status says of the lease of an identity."""
    entries = space.status(name).get("vault") or [{}]
    return dict(entries[0].get("lease") or {})


def record_of(space: Space, name: str) -> str:
    """Return the name of the record of the lease behind an identity's Secret."""
    secret = space.secret(f"{name}-db")
    assert secret is not None
    return str(json.loads(secret["metadata"]["annotations"]["serviceidentity.dev/vault-lease"])["record"])


def rotate(space: Space, name: str, value: str) -> None:
    """Ask for new credentials; kubectl would take half a second for each of many."""
    patch = {"metadata": {"annotations": {"serviceidentity.dev/rotate": value}}}
    request = urllib.request.Request(
        f"{space.plane.url}/apis/{API}/namespaces/{space.name}/serviceidentities/{name}",
        data=json.dumps(patch).encode(),
        method="PATCH",
        headers={
            "Authorization": f"Bearer {space.plane.admin_token}",
            "Content-Type": "application/merge-patch+json",
        },
    )
    trust = ssl.create_default_context(cafile=str(space.plane.ca_file))
    with urllib.request.urlopen(request, timeout=10, context=trust):
        pass


def churn(bed: Bed, space: Space, operator: OperatorProcess, identities: int, kills: int) -> dict[str, float]:
    """Have users made, killing the operator again and again in the middle of it, and delete everything.

    Returns how much there was at most, how much is left, and how many seconds it took. Every kill comes at a random
    moment of issuing, storing, replacing or revoking: a third of the identities are rotated before each.
    """
    operator.kill()
    assert bed.left() == (0, 0, 0)
    names = [f"s{number}" for number in range(identities)]
    documents = [
        yaml.safe_dump({"apiVersion": API, "kind": "ServiceIdentity", "metadata": {"name": name}, "spec": spec})
        for name, spec in ((name, database("steady", overlap="1s")) for name in names)
    ]
    began = time.monotonic()
    space.kubectl("apply", "-f", "-", input="---\n".join(documents))
    for number in range(kills):
        operator.start()
        time.sleep(random.uniform(0, 0.8))
        operator.kill()
        for name in random.sample(names, max(identities // 3, 1)):
            rotate(space, name, f"r{number}")
    operator.start()
    space.ready(timeout=60)
    most = bed.left()
    for name in random.sample(names, 4):
        found = user(space, name)
        assert found is not None
        assert found.logs_in(bed)
    deleted = time.monotonic()
    space.kubectl("delete", "sid", "--all")
    try:
        eventually(lambda: bed.left() == (0, 0, 0), 60)
    except AssertionError:
        kept = [bed.looked_up(one) for one in bed.leases()]
        raise AssertionError(f"there are {bed.left()}, {bed.hollow()} hollow: {kept}") from None
    ended = time.monotonic()
    figures = dict(zip(("leases", "records", "users"), most, strict=True)) | {"hollow": bed.hollow()}
    return figures | {"seconds": round(ended - began, 1), "gone after": round(ended - deleted, 1)}
