"""What Vault promises about who logs in, and what the operator rests on each promise. No code of it runs here."""

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.contract.vault_answers import Answer, ask
from tests.controlplane import ControlPlane, OpenBao
from tests.controlplane.certificates import self_signed
from tests.controlplane.logins import (
    add_approle,
    add_certificate_role,
    add_jwt_role,
    add_login_role,
    enable_approle,
    enable_certificate_auth,
    enable_jwt_auth,
    enable_kubernetes_auth,
)

pytestmark = pytest.mark.contract

POLICY = 'path "auth/token/create-orphan" { capabilities = ["update"] }'


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """OpenBao that listens on TLS."""
    server = OpenBao(tmp_path_factory.mktemp("bao"), tls=True)
    server.start()
    try:
        server.request("PUT", "sys/policies/acl/operator", {"policy": POLICY})
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    name = "vault-logins"
    control_plane.kubectl("create", "namespace", name)
    control_plane.kubectl("create", "serviceaccount", "service", f"--namespace={name}")
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


def token_of(plane: ControlPlane, namespace: str, audience: str) -> str:
    of = ("service", f"--namespace={namespace}", f"--audience={audience}")
    return plane.kubectl("create", "token", *of).stdout.strip()


def log_in(bao: OpenBao, mount: str, **body: Any) -> Answer:
    return ask(bao, "", "POST", f"auth/{mount}/login", **body)


def must_be_a_login_of_its_own(found: Answer) -> None:
    """An orphan with an accessor, that can be renewed and belongs to an entity."""
    assert found.auth["accessor"] and found.auth["entity_id"]
    assert found.auth["orphan"] and found.auth["renewable"]
    assert found.auth["token_policies"] == ["default", "operator"]


def test_a_service_account_gets_an_orphan_that_ends_at_its_roles_longest_life(
    bao: OpenBao, control_plane: ControlPlane, namespace: str
) -> None:
    """Rests on it: a login of its own may carry leases, up to token_max_ttl; an orphan that it makes is not bound by it.

    The orphan has the login's policies, and no entity: what an identity was granted beside them is not taken over.
    """
    enable_kubernetes_auth(bao, control_plane)
    life = {"token_ttl": "60s", "token_max_ttl": "90s"}
    of = {"namespaces": "vault-*", "service_accounts": "serv*"}
    add_login_role(bao, "operator", policies="operator", audience="vault", **of, **life)
    found = log_in(bao, "kubernetes", role="operator", jwt=token_of(control_plane, namespace, "vault"))
    must_be_a_login_of_its_own(found)
    assert found.duration == 60
    assert found.auth["metadata"]["service_account_namespace"] == namespace
    token = found.auth["client_token"]
    assert ask(bao, token, "POST", "auth/token/renew-self", increment=600).duration == pytest.approx(90, abs=5)

    orphan = ask(bao, token, "POST", "auth/token/create-orphan", ttl="600s")
    assert (orphan.duration, orphan.auth["entity_id"]) == (600, "")
    orphan_token = orphan.auth["client_token"]
    assert ask(bao, orphan_token, "POST", "auth/token/renew-self", increment=6000).duration == 6000

    wrong = log_in(bao, "kubernetes", role="operator", jwt=token_of(control_plane, namespace, "another"))
    assert wrong.status == 403
    assert log_in(bao, "kubernetes", role="none", jwt="x").status == 400


def test_the_clusters_tokens_are_checked_by_its_public_keys(
    bao: OpenBao, control_plane: ControlPlane, namespace: str
) -> None:
    """Rests on it: Vault need not reach the API server. A wrong audience is a 400 here, a 403 above."""
    enable_jwt_auth(bao, control_plane)
    subject = f"system:serviceaccount:{namespace}:service"
    add_jwt_role(bao, "operator", subject=subject, audience="vault", policies="operator")
    must_be_a_login_of_its_own(
        log_in(bao, "jwt", role="operator", jwt=token_of(control_plane, namespace, "vault")),
    )
    assert log_in(bao, "jwt", role="operator", jwt=token_of(control_plane, namespace, "another")).status == 400
    add_jwt_role(bao, "operator", subject=subject + "s", audience="vault", policies="operator")
    assert log_in(bao, "jwt", role="operator", jwt=token_of(control_plane, namespace, "vault")).status == 400


def test_a_role_id_needs_its_secret_id(bao: OpenBao) -> None:
    """Rests on it: a secret ID that is good no more is a 400."""
    enable_approle(bao)
    role_id, secret_id = add_approle(bao, "operator", policies="operator")
    must_be_a_login_of_its_own(log_in(bao, "approle", role_id=role_id, secret_id=secret_id))
    refused = log_in(bao, "approle", role_id=role_id, secret_id="another")
    assert (refused.status, refused.error) == (400, "invalid role or secret ID")


def test_a_client_certificate_logs_in_over_tls(bao: OpenBao, tmp_path: Path) -> None:
    """Rests on it: the connection is the credential; the body names the role alone."""
    enable_certificate_auth(bao)
    known, key = self_signed(tmp_path, "client")
    add_certificate_role(bao, "operator", known, policies="operator")
    must_be_a_login_of_its_own(log_in_with(bao, known, key))
    assert log_in_with(bao, *self_signed(tmp_path, "another")).status == 400


def log_in_with(bao: OpenBao, certificate: Path, key: Path) -> Answer:
    context = ssl.create_default_context(cafile=str(bao.ca_file))
    context.load_cert_chain(certificate, key)
    connection = http.client.HTTPSConnection(urlsplit(bao.address).netloc, context=context, timeout=10)
    try:
        connection.request("POST", "/v1/auth/cert/login", json.dumps({"name": "operator"}))
        answer = connection.getresponse()
        return Answer(answer.status, json.loads(answer.read()))
    finally:
        connection.close()
