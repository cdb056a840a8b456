"""Logging in at a real OpenBao over TLS in each way that a VaultConnection may name, and what becomes of logins."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from serviceidentity.adapters.kube.client import KubeClient
from serviceidentity.adapters.kube.tokens import KubeTokens
from serviceidentity.adapters.vault.servers import HvacServer, HvacServers
from serviceidentity.app.vault.ports import Login
from serviceidentity.domain.vault.spec import (
    AppRoleAuth,
    Auth,
    CertificateAuth,
    JwtAuth,
    KubernetesAuth,
    LoginAs,
    SecretKey,
    TokenAuth,
)
from serviceidentity.errors import ForbiddenError, RejectedError, RetryableError, SettingsError
from tests.contract.vault_servers import NAMESPACE, OPERATOR, HeldSecrets, accessors, during, new_token, spec
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

POLICY = """
path "secret/data/app" { capabilities = ["read"] }
path "auth/token/create-orphan" { capabilities = ["update"] }
"""
READER = 'path "secret/data/app" { capabilities = ["read"] }'
HOUR = timedelta(hours=1)
SERVICES = "vault-auth"
AUDIENCE = ("vault",)


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("bao"), tls=True)
    server.start()
    try:
        server.request("POST", "secret/data/app", {"data": {"answer": "42"}})
        server.request("PUT", "sys/policies/acl/operator", {"policy": POLICY})
        server.request("PUT", "sys/policies/acl/reader", {"policy": READER})
        enable_approle(server)
        enable_certificate_auth(server)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def cluster(bao: OpenBao, control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """Service accounts that log in: order and payment as themselves, the operator in their name or its own."""
    control_plane.kubectl("create", "namespace", SERVICES)
    for name in ("order", "payment", "operator", "nobody"):
        control_plane.kubectl("create", "serviceaccount", name, f"--namespace={SERVICES}")
    may = ("--verb=create", "--resource=serviceaccounts/token")
    control_plane.kubectl("create", "role", "tokens", *may, f"--namespace={SERVICES}")
    bind = ("--role=tokens", f"--serviceaccount={SERVICES}:operator")
    control_plane.kubectl("create", "rolebinding", "tokens", *bind, f"--namespace={SERVICES}")
    enable_kubernetes_auth(bao, control_plane)
    enable_jwt_auth(bao, control_plane)
    for name in ("order", "operator"):
        bound = {"namespaces": SERVICES, "service_accounts": name, "audience": "vault"}
        add_login_role(bao, name, policies="operator", **bound)
        add_jwt_role(
            bao, name, subject=f"system:serviceaccount:{SERVICES}:{name}", audience="vault", policies="operator"
        )
    yield control_plane
    control_plane.kubectl("delete", "namespace", SERVICES, "--wait=false")


def with_tokens(cluster: ControlPlane, bao: OpenBao, auth: Auth, work: Any, account: str = "operator") -> Any:
    """Run some work with a server at which service accounts log in, as the operator's account may ask for tokens."""

    async def run() -> Any:
        client = await KubeClient.connect(str(cluster.kubeconfig_for(SERVICES, account)))
        server = await HvacServers(HeldSecrets(), NAMESPACE, KubeTokens(client)).open("test", spec(bao, auth))
        try:
            return await work(server)
        finally:
            await server.close(revoke=True)
            await client.close()

    return asyncio.run(run())


async def read(server: HvacServer, login: Login = OPERATOR) -> Any:
    return (await server.client(login).read_kv("secret", "app", None)).values


def of(account: str, role: str | None = None) -> Login:
    return Login("test", role, SERVICES, account)


class TestServiceAccounts:
    @pytest.mark.parametrize("jwt", [False, True])
    def test_identities_log_in_as_their_own_accounts(self, bao: OpenBao, cluster: ControlPlane, jwt: bool):
        auth = KubernetesAuth("jwt" if jwt else "kubernetes", None, LoginAs.IDENTITY, AUDIENCE, jwt=jwt)

        async def work(server: HvacServer) -> None:
            assert await read(server, of("order")) == {"answer": "42"}
            assert await server.token_ttl(of("order")) is not None
            with pytest.raises(RejectedError, match="service account vault-auth/payment to role payment"):
                await read(server, of("payment"))
            with pytest.raises(RejectedError, match="to role order"):
                await read(server, of("payment", "order"))
            with pytest.raises(RejectedError, match="vault-auth/missing does not exist"):
                await read(server, of("missing"))
            with pytest.raises(RejectedError, match="no role is named"):
                await read(server)

        before = accessors(bao)
        with_tokens(cluster, bao, auth, work)
        assert accessors(bao) == before

    def test_another_audience_is_refused(self, bao: OpenBao, cluster: ControlPlane):
        auth = KubernetesAuth("kubernetes", None, LoginAs.IDENTITY)

        async def work(server: HvacServer) -> None:
            with pytest.raises(RejectedError, match="Vault refuses to log in"):
                await read(server, of("order"))

        with_tokens(cluster, bao, auth, work)

    def test_the_operator_logs_in_as_itself(self, bao: OpenBao, cluster: ControlPlane):
        auth = KubernetesAuth("kubernetes", "operator", LoginAs.OPERATOR, AUDIENCE)
        # Whoever asks: it is the operator's account that logs in, and not that of the identity.
        for login in (OPERATOR, of("order")):
            assert with_tokens(cluster, bao, auth, lambda server, login=login: read(server, login)) == {"answer": "42"}

    def test_without_the_right_to_request_tokens_it_says_so(self, bao: OpenBao, cluster: ControlPlane):
        auth = KubernetesAuth("kubernetes", None, LoginAs.IDENTITY, AUDIENCE)

        async def work(server: HvacServer) -> None:
            with pytest.raises(ForbiddenError, match="may not request tokens of service account vault-auth/order"):
                await read(server, of("order"))

        with_tokens(cluster, bao, auth, work, account="nobody")

    def test_logins_that_are_not_used_are_given_back(
        self, bao: OpenBao, cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("serviceidentity.adapters.vault.sessions.IDLE", 0.3)
        auth = KubernetesAuth("kubernetes", None, LoginAs.IDENTITY, AUDIENCE)
        before = accessors(bao)

        async def work(server: HvacServer) -> None:
            await asyncio.gather(*(read(server, of("order")) for _ in range(5)))
            assert len(await asyncio.to_thread(accessors, bao) - before) == 1
            async with asyncio.timeout(10):
                while await asyncio.to_thread(accessors, bao) - before:
                    await asyncio.sleep(0.05)
            assert await read(server, of("order")) == {"answer": "42"}

        with_tokens(cluster, bao, auth, work)


def approle(bao: OpenBao, name: str, **options: Any) -> tuple[AppRoleAuth, HeldSecrets]:
    role_id, secret_id = add_approle(bao, name, **{"policies": "operator"} | options)
    secrets = HeldSecrets()
    secrets.put("vault", {"secret-id": secret_id.encode() + b"\n"})
    return AppRoleAuth("approle", role_id, SecretKey("vault", "secret-id")), secrets


class TestAppRole:
    def test_a_new_secret_id_is_taken_when_the_login_is_gone(self, bao: OpenBao):
        auth, secrets = approle(bao, "rotating")

        async def work(server: HvacServer) -> None:
            before = accessors(bao)
            assert await read(server) == {"answer": "42"}
            (mine,) = accessors(bao) - before
            bao.request("POST", "auth/token/revoke-accessor", {"accessor": mine})
            assert await read(server) == {"answer": "42"}  # nobody notices
            (mine,) = accessors(bao) - before
            bao.request("POST", "auth/token/revoke-accessor", {"accessor": mine})
            secrets.put("vault", {"secret-id": b"another"})
            with pytest.raises(RejectedError, match="role ID and secret ID"):
                await read(server)

        during(spec(bao, auth), work, secrets)

    def test_logins_are_revoked_at_the_end_only_if_that_is_wanted(self, bao: OpenBao):
        auth, secrets = approle(bao, "ending")
        before = accessors(bao)
        during(spec(bao, auth), read, secrets)
        assert accessors(bao) == before
        during(spec(bao, auth), read, secrets, revoke=False)
        assert len(accessors(bao)) == len(before) + 1

    def test_a_lease_outlives_the_login_that_made_its_token(self, bao: OpenBao):
        auth, secrets = approle(bao, "parent")
        before = accessors(bao)

        async def work(server: HvacServer) -> str:
            token = await server.client(OPERATOR).lease_token(HOUR, "x")
            assert not token.shared
            return token.accessor

        made = during(spec(bao, auth), work, secrets)
        assert accessors(bao) - before == {made}

    def test_without_the_right_to_make_tokens_a_lease_gets_a_login_of_its_own(self, bao: OpenBao):
        auth, secrets = approle(bao, "plain", policies="reader", token_ttl="5m", token_max_ttl="2h")

        async def work(server: HvacServer) -> None:
            before, client = accessors(bao), server.client(OPERATOR)
            token = await client.lease_token(HOUR, "x")
            assert not token.shared
            assert token.accessor in accessors(bao) - before
            assert len(accessors(bao) - before) == 2
            assert token.grant is not None
            assert token.grant.duration == HOUR
            await client.revoke(token, "")
            assert token.accessor not in accessors(bao)

        during(spec(bao, auth), work, secrets)

    def test_a_login_that_can_be_made_once_is_shared_and_stays(self, bao: OpenBao):
        auth, secrets = approle(bao, "once", policies="reader", secret_id_num_uses=1)

        async def work(server: HvacServer) -> str:
            client = server.client(OPERATOR)
            token = await client.lease_token(HOUR, "x")
            assert token.shared
            await client.revoke(token, "")
            return token.accessor

        assert during(spec(bao, auth), work, secrets) in accessors(bao)


def test_a_login_with_policies_of_its_entity_makes_no_tokens_without_them(bao: OpenBao):
    auth, secrets = approle(bao, "entity")
    before = accessors(bao)
    during(spec(bao, auth), read, secrets, revoke=False)
    (login,) = accessors(bao) - before
    found = bao.request("POST", "auth/token/lookup-accessor", {"accessor": login})["data"]
    bao.request("POST", f"identity/entity/id/{found['entity_id']}", {"policies": ["reader"]})

    async def work(server: HvacServer) -> None:
        token = await server.client(OPERATOR).lease_token(HOUR, "x")
        made = bao.request("POST", "auth/token/lookup-accessor", {"accessor": token.accessor})["data"]
        assert made["entity_id"] == found["entity_id"]
        await server.client(OPERATOR).revoke(token, "")

    during(spec(bao, auth), work, secrets)


def test_a_jwt_in_a_file_logs_in(bao: OpenBao, cluster: ControlPlane, tmp_path: Path):
    token = ("create", "token", "order", f"--namespace={SERVICES}", "--audience=vault")
    (tmp_path / "jwt").write_text(cluster.kubectl(*token).stdout)
    auth = JwtAuth("jwt", "order", str(tmp_path / "jwt"))
    assert during(spec(bao, auth), read) == {"answer": "42"}
    with pytest.raises(SettingsError, match="can't be read"):
        during(spec(bao, replace(auth, file=str(tmp_path / "none"))), read)


def test_a_token_in_a_file_is_used_and_never_revoked(bao: OpenBao, tmp_path: Path):
    (tmp_path / "token").write_text(new_token(bao, "reader") + "\n")
    auth = TokenAuth(file=str(tmp_path / "token"))
    for _ in range(2):
        assert during(spec(bao, auth), read) == {"answer": "42"}


def test_what_a_connection_names_has_to_be_there(bao: OpenBao):
    secrets = HeldSecrets()
    auth = TokenAuth(secret=SecretKey("none", "token"))
    with pytest.raises(SettingsError, match="Secret operator/none does not exist"):
        during(spec(bao, auth), read, secrets)
    secrets.put("none", {"other": b"x"})
    with pytest.raises(SettingsError, match="token is missing"):
        during(spec(bao, auth), read, secrets)
    secrets.put("none", {"token": b"a\nb"})
    with pytest.raises(SettingsError, match="holds no token"):
        during(spec(bao, auth), read, secrets)


class TestTls:
    def secrets(self, bao: OpenBao) -> tuple[TokenAuth, HeldSecrets]:
        secrets = HeldSecrets()
        secrets.put("token", {"token": new_token(bao, "reader").encode()})
        return TokenAuth(secret=SecretKey("token", "token")), secrets

    def test_only_the_named_authority_is_trusted(self, bao: OpenBao, tmp_path: Path):
        auth, secrets = self.secrets(bao)
        other = self_signed(tmp_path, "other")[0].read_text()

        async def work(server: HvacServer) -> None:
            assert not (await server.health()).reachable
            with pytest.raises(RetryableError, match="can't be verified"):
                await read(server)

        for changes in ({"ca": other}, {"ca": None}, {"server_name": "vault.example.org"}):
            during(spec(bao, auth, **changes), work, secrets)
        assert during(spec(bao, auth, server_name="localhost"), read, secrets) == {"answer": "42"}

    def test_an_authority_in_a_secret_is_read_anew_when_it_was_replaced(
        self, bao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("serviceidentity.adapters.vault.servers.RELOAD_PAUSE", 0.0)
        auth, secrets = self.secrets(bao)
        secrets.put("ca", {"ca.crt": self_signed(tmp_path, "other")[0].read_bytes()})

        async def work(server: HvacServer) -> None:
            with pytest.raises(RetryableError, match="can't be verified"):
                await read(server)
            assert bao.ca_file is not None
            secrets.put("ca", {"ca.crt": bao.ca_file.read_bytes()})
            assert (await server.health()).serves
            assert await read(server) == {"answer": "42"}

        during(spec(bao, auth, ca=None, ca_secret=SecretKey("ca", "ca.crt")), work, secrets)

    @pytest.mark.parametrize("ca", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
    def test_a_bundle_that_is_none_is_told(self, bao: OpenBao, ca: str):
        auth, secrets = self.secrets(bao)
        with pytest.raises(SettingsError, match="CA bundle"):
            during(spec(bao, auth, ca=ca), read, secrets)

    def test_a_client_certificate_logs_in_and_is_read_anew(self, bao: OpenBao, tmp_path: Path):
        certificate, key = self_signed(tmp_path, "first")
        add_certificate_role(bao, "first", certificate, policies="reader")
        auth, secrets = CertificateAuth("cert", None, "client"), HeldSecrets()

        def put(certificate: Path, key: Path, type_: str = "kubernetes.io/tls") -> None:
            secrets.put("client", {"tls.crt": certificate.read_bytes(), "tls.key": key.read_bytes()}, type_)

        async def work(server: HvacServer) -> None:
            before = accessors(bao)
            assert await read(server) == {"answer": "42"}
            second, second_key = self_signed(tmp_path, "second")
            add_certificate_role(bao, "first", second, policies="reader")
            put(second, second_key)
            (mine,) = accessors(bao) - before
            bao.request("POST", "auth/token/revoke-accessor", {"accessor": mine})
            assert await read(server) == {"answer": "42"}
            token = await server.client(OPERATOR).lease_token(HOUR, "x")
            assert not token.shared
            await server.client(OPERATOR).revoke(token, "")
            put(*self_signed(tmp_path, "stranger"))
            (mine,) = accessors(bao) - before
            bao.request("POST", "auth/token/revoke-accessor", {"accessor": mine})
            with pytest.raises(RejectedError, match="client certificate of Secret client"):
                await read(server)

        put(certificate, key)
        during(spec(bao, auth), work, secrets)
        put(certificate, key, "Opaque")
        with pytest.raises(SettingsError, match="not of type"):
            during(spec(bao, auth), read, secrets)
        put(certificate, self_signed(tmp_path, "unlike")[1])
        with pytest.raises(SettingsError, match="can't be used together"):
            during(spec(bao, auth), read, secrets)


def test_a_server_without_tls_where_tls_is_expected_is_unreachable(bao: OpenBao):
    found = spec(bao, TokenAuth(file="/none"), address=bao.address.replace("https", "http"), ca=None)

    async def work(server: HvacServer) -> None:
        await server.health()  # an answer that makes no sense is none that raises
        with pytest.raises((RejectedError, RetryableError, SettingsError)):
            await read(server)

    during(found, work)
