"""What the use cases ask of Vault, asked of a real OpenBao with no more rights than each request needs."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from serviceidentity.adapters.vault.client import HvacClient
from serviceidentity.adapters.vault.servers import HvacServer
from serviceidentity.app.vault.ports import KvSecret, LeaseToken
from serviceidentity.domain.credentials.remote_leaf import LeafRequest
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.names import Subject
from serviceidentity.domain.vault.spec import TokenAuth
from serviceidentity.errors import ForbiddenError, MissingError, PortError, RejectedError, RetryableError
from tests.contract.vault_answers import eventually
from tests.contract.vault_servers import OPERATOR, accessors, during, with_policy
from tests.controlplane import OpenBao, Postgres
from tests.controlplane.databases import add_role, enable_database, leases

pytestmark = pytest.mark.contract
T = TypeVar("T")
HOUR = timedelta(hours=1)
CREDS = 'path "database/creds/*" { capabilities = ["read"] }\n'
OLD = 'path "old/kv/*" { capabilities = ["read"] }\n'
ORPHANS = 'path "auth/token/create-orphan" { capabilities = ["update"] }\n'
REVOKE = 'path "sys/leases/revoke" { capabilities = ["update"] }\n'


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("bao"))
    server.start()
    try:
        server.request("POST", "sys/mounts/old/kv", {"type": "kv", "options": {"version": "1"}})
        server.request("POST", "old/kv/app", {"user": "one"})
        for value in ("a", "b", "c"):
            server.request("POST", "secret/data/app", {"data": {"value": value, "more": {"n": 1}}})
        server.request("POST", "secret/delete/app", {"versions": [1]})
        server.request("POST", "secret/destroy/app", {"versions": [2]})
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def database(bao: OpenBao, postgres: Postgres) -> Iterator[Postgres]:
    enable_database(bao, postgres)
    add_role(bao, "app", "1h", "2h")
    add_role(bao, "short", "2s", "3s")
    yield postgres
    bao.request("PUT", "sys/leases/revoke-force/database")


def asked(
    bao: OpenBao, policy: str, work: Callable[[HvacClient], Awaitable[T]], *, revoke: bool = True, **token: Any
) -> T:
    """Run some work with a token that may do what a policy says."""

    async def with_client(server: HvacServer) -> T:
        return await work(server.client(OPERATOR))

    found, secrets = with_policy(bao, policy, **token)
    return during(found, with_client, secrets, revoke=revoke)


def kv(bao: OpenBao, policy: str, mount: str, path: str, version: int | None = None) -> KvSecret:
    return asked(bao, policy, lambda client: client.read_kv(mount, path, version))


class TestKv:
    def test_either_version_is_read_with_the_right_to_the_secret_alone(self, bao: OpenBao):
        found = kv(bao, 'path "secret/data/app" { capabilities = ["read"] }', "secret", "app")
        assert (found.values, found.version) == ({"value": "c", "more": {"n": 1}}, 3)
        found = kv(bao, 'path "old/kv/app" { capabilities = ["read"] }', "old/kv", "app")
        assert (found.values, found.version) == ({"user": "one"}, None)

    def test_a_version_is_pinned_or_gone(self, bao: OpenBao):
        policy = 'path "secret/data/app" { capabilities = ["read"] }'
        assert kv(bao, policy, "secret", "app", 3).version == 3
        for version, told in ((1, "deleted"), (2, "destroyed"), (4, "nothing")):
            with pytest.raises(MissingError, match=told):
                kv(bao, policy, "secret", "app", version)
        with pytest.raises(RejectedError, match="keeps no versions"):
            kv(bao, 'path "old/kv/app" { capabilities = ["read"] }', "old/kv", "app", 1)

    def test_what_is_not_there_and_what_is_not_allowed_differ(self, bao: OpenBao):
        policy = 'path "secret/data/app*" { capabilities = ["read"] }'
        with pytest.raises(MissingError):
            kv(bao, policy, "secret", "apple")
        with pytest.raises(ForbiddenError):
            kv(bao, policy, "secret", "other")
        with pytest.raises(ForbiddenError):
            kv(bao, policy, "old/kv", "app")
        with pytest.raises(RejectedError, match="not a KV engine"):
            kv(bao, 'path "sys/*" { capabilities = ["read"] }', "sys", "app")

    @pytest.mark.parametrize(
        ("mount", "path"),
        [("auth", "token/lookup-self"), ("auth/token", "lookup-self"), ("sys", "internal/ui/mounts")],
    )
    def test_nothing_but_secrets_of_a_kv_engine_is_read(self, bao: OpenBao, mount: str, path: str):
        """A login that many share says who it is when it is asked: that would be its token, in somebody's Secret."""
        with pytest.raises((RejectedError, MissingError)):
            kv(bao, OLD, mount, path)

    def test_an_engine_that_becomes_one_of_version_2_is_noticed(self, bao: OpenBao):
        bao.request("POST", "sys/mounts/grows", {"type": "kv", "options": {"version": "1"}})
        bao.request("POST", "grows/app", {"value": "old"})

        async def work(client: HvacClient) -> None:
            assert (await client.read_kv("grows", "app", None)).version is None
            await asyncio.to_thread(bao.request, "POST", "sys/mounts/grows/tune", {"options": {"version": "2"}})
            deadline = asyncio.get_running_loop().time() + 10
            while True:  # it refuses requests while it is at it
                try:
                    found = await client.read_kv("grows", "app", None)
                except PortError:
                    assert asyncio.get_running_loop().time() < deadline
                    await asyncio.sleep(0.05)
                    continue
                assert (found.values, found.version) == ({"value": "old"}, 1)
                return

        asked(bao, 'path "grows/*" { capabilities = ["read"] }', work)


def test_a_path_is_read_as_it_is_named(bao: OpenBao):
    bao.request("POST", "old/kv/with%20space+@", {"a": "b"})
    policy = 'path "old/kv/*" { capabilities = ["read"] }'
    assert asked(bao, policy, lambda client: client.read("old/kv/with space+@")) == {"a": "b"}
    for path in ("old/kv/../../sys/mounts", "old//kv", "old/kv/", "", "old/kv/\n"):
        with pytest.raises(RejectedError, match="no path"):
            asked(bao, policy, lambda client, path=path: client.read(path))
    with pytest.raises(MissingError):
        asked(bao, policy, lambda client: client.read("old/kv/a?b"))


class TestLeases:
    def test_a_lease_lives_and_ends_with_its_token(self, bao: OpenBao, database: Postgres):
        async def work(client: HvacClient) -> tuple[str, str]:
            token = await client.lease_token(HOUR, "shop/order")
            assert not token.shared
            assert token.accessor
            assert token.grant is not None
            assert (token.grant.duration, token.grant.renewable) == (HOUR, True)
            found = await client.issue("database/creds/app", "GET", {}, token)
            assert (found.grant.duration, found.grant.renewable) == (HOUR, True)
            user, password = found.values["username"], found.values["password"]
            assert await asyncio.to_thread(database.lets_in, user, password)
            half = await client.renew(found.lease_id, HOUR / 2, token)
            assert half.duration == HOUR / 2
            assert timedelta(minutes=29) < (await client.lookup(found.lease_id, token)).duration <= HOUR / 2
            assert (await client.renew_token(token, 2 * HOUR)).duration == 2 * HOUR
            await client.revoke(token, found.lease_id)
            await client.revoke(token, found.lease_id)  # twice is no error
            with pytest.raises(MissingError):
                await client.renew(found.lease_id, HOUR, token)
            with pytest.raises(MissingError):
                await client.lookup(found.lease_id, token)
            with pytest.raises(MissingError):
                await client.renew_token(token, HOUR)
            return user, password

        user, password = asked(bao, CREDS + ORPHANS, work)
        assert eventually(lambda: not database.lets_in(user, password))

    def test_a_lease_that_was_lost_is_told_from_one_that_can_not_be_renewed_now(self, bao: OpenBao, database: Postgres):
        async def work(client: HvacClient) -> None:
            token = await client.lease_token(HOUR, "shop/order")
            found = await client.issue("database/creds/app", "GET", {}, token)
            await asyncio.to_thread(database.stop)
            try:
                with pytest.raises(RetryableError, match="engine could not renew"):
                    await client.renew(found.lease_id, HOUR, token)
            finally:
                await asyncio.to_thread(database.start)
            await asyncio.to_thread(bao.request, "PUT", "sys/leases/revoke", {"lease_id": found.lease_id, "sync": True})
            with pytest.raises(MissingError, match="no such lease"):
                await client.renew(found.lease_id, HOUR, token)
            with pytest.raises(MissingError, match="no such lease"):
                await client.lookup(found.lease_id, token)
            assert (await client.renew_token(token, HOUR)).duration == HOUR
            await client.revoke(token, found.lease_id)

        asked(bao, CREDS + ORPHANS, work)

    def test_the_tokens_metadata_tells_whose_it_is(self, bao: OpenBao):
        async def work(client: HvacClient) -> str:
            return (await client.lease_token(HOUR, "shop/order-db")).accessor

        accessor = asked(bao, ORPHANS, work)
        found = bao.request("POST", "auth/token/lookup-accessor", {"accessor": accessor})["data"]
        assert found["meta"] == {"serviceidentity": "shop/order-db"}
        assert found["orphan"]
        bao.request("POST", "auth/token/revoke-accessor", {"accessor": accessor})

    def test_a_given_token_without_the_right_to_make_others_carries_the_lease(self, bao: OpenBao, database: Postgres):
        async def work(client: HvacClient) -> LeaseToken:
            token = await client.lease_token(HOUR, "shop/order")
            assert token.shared
            assert token.grant is not None
            assert token.grant.renewable
            found = await client.issue("database/creds/app", "GET", {}, token)
            await client.renew(found.lease_id, HOUR, token)
            await client.revoke(token, "")
            await client.lookup(found.lease_id, token)
            await client.revoke(token, found.lease_id)
            await client.revoke(token, found.lease_id)
            assert not await asyncio.to_thread(leases, bao, "database/creds/app")
            return token

        token = asked(bao, CREDS + REVOKE, work, ttl="10m")
        assert token.accessor in accessors(bao)

    def test_a_root_token_never_ends(self, bao: OpenBao):
        async def work(server: HvacServer) -> Any:
            return await server.token_ttl(OPERATOR), await server.client(OPERATOR).lease_token(HOUR, "x")

        found, secrets = with_policy(bao, ORPHANS)
        secrets.put("token", {"token": bao.root_token.encode()})
        ttl, token = during(found, work, secrets)
        assert ttl is None
        assert token.grant is not None

    def test_parameters_go_where_the_method_has_them(self, bao: OpenBao, database: Postgres):
        bao.request("POST", "sys/mounts/issuing", {"type": "pki"})
        bao.request("POST", "issuing/root/generate/internal", {"common_name": "root", "key_type": "ec"})
        role = {"allow_any_name": True, "generate_lease": True, "key_type": "ec", "key_bits": 256, "max_ttl": "1h"}
        bao.request("POST", "issuing/roles/leased", role)

        async def work(client: HvacClient) -> None:
            token = await client.lease_token(HOUR, "x")
            parameters = {"common_name": "a.example", "ttl": "600s"}
            found = await client.issue("issuing/issue/leased", "PUT", parameters, token)
            assert certificates.load_chain(found.values["certificate"].encode())[0].subject.rfc4514_string() == (
                "CN=a.example"
            )
            assert not found.grant.renewable
            with pytest.raises(RejectedError, match="can't be renewed"):
                await client.renew(found.lease_id, HOUR, token)
            with pytest.raises(RejectedError, match="does not support"):
                await client.issue("issuing/issue/leased", "GET", parameters, token)
            assert not (await client.issue("secret/data/app", "GET", {"version": "3"}, token)).lease_id
            with pytest.raises(MissingError):
                await client.issue("secret/data/app", "GET", {"version": "1"}, token)
            await client.revoke(token, found.lease_id)

        policy = 'path "issuing/issue/*" { capabilities = ["create", "update", "read"] }\n'
        asked(bao, policy + ORPHANS + 'path "secret/data/app" { capabilities = ["read"] }', work)

    def test_what_can_not_be_read_says_so(self, bao: OpenBao, database: Postgres):
        async def work(client: HvacClient) -> None:
            token = await client.lease_token(HOUR, "x")
            with pytest.raises(ForbiddenError):
                await client.issue("database/creds/other", "GET", {}, token)
            with pytest.raises(MissingError, match="no such role"):
                await client.issue("database/creds/none", "GET", {}, token)
            with pytest.raises(MissingError, match="no such role"):
                await client.read("database/static-creds/none")
            await client.revoke(token, "")

        only = 'path "database/creds/app" { capabilities = ["read"] }\npath "database/+/none" { capabilities = ["read"] }\n'
        asked(bao, only + ORPHANS, work)


def test_a_role_signs_certificates_with_the_path_to_the_root(bao: OpenBao):
    bao.request("POST", "sys/mounts/signing", {"type": "pki", "config": {"max_lease_ttl": "9000h"}})
    of_root = {"common_name": "root", "key_type": "ec", "ttl": "8000h"}
    root = bao.request("POST", "signing/root/generate/internal", of_root)["data"]
    request = bao.request("POST", "signing/intermediate/generate/internal", {"common_name": "mid", "key_type": "ec"})
    body = {"csr": request["data"]["csr"], "use_csr_values": True, "ttl": "2000h"}
    mid = bao.request("POST", f"signing/issuer/{root['issuer_id']}/sign-intermediate", body)["data"]["certificate"]
    bao.request("POST", "signing/roles/web", {"allowed_domains": "example", "allow_subdomains": True, "key_type": "ec"})
    policy = 'path "signing/sign/web" { capabilities = ["update"] }'
    key = keys.generate(keys.KeyProfile(keys.KeyAlgorithm.ECDSA, 256))
    pem = certificates.certificate_request(Subject("a.example"), key).decode()
    wanted = LeafRequest(pem, "a.example", ("a.example",), (), (), (), timedelta(0))

    found = asked(bao, policy, lambda client: client.sign("signing", "web", wanted))
    assert found.chain == ()
    assert found.authority.strip() == root["certificate"].strip()

    made = bao.request("POST", "signing/intermediate/set-signed", {"certificate": f"{mid}\n{root['certificate']}"})
    (default,) = (one for one in made["data"]["imported_issuers"])
    bao.request("POST", "signing/config/issuers", {"default": default})
    found = asked(bao, policy, lambda client: client.sign("signing", "web", wanted))
    assert [one.strip() for one in found.chain] == [mid.strip()]
    assert found.authority.strip() == root["certificate"].strip()
    leaf, above = (certificates.load_chain(one.encode())[0] for one in (found.certificate, found.chain[0]))
    assert certificates.signed_by(leaf, above)

    policy = 'path "signing/sign/*" { capabilities = ["update"] }'
    with pytest.raises(RejectedError, match="no such role"):
        asked(bao, policy, lambda client: client.sign("signing", "none", wanted))
    pem = certificates.certificate_request(Subject("b.other"), key).decode()
    other = LeafRequest(pem, "b.other", ("b.other",), (), (), (), HOUR)
    with pytest.raises(RejectedError, match="role does not allow"):
        asked(bao, policy, lambda client: client.sign("signing", "web", other))


def test_data_keys_come_plain_and_wrapped(bao: OpenBao):
    bao.request("POST", "sys/mounts/transit", {"type": "transit"})
    bao.request("POST", "transit/keys/app")
    policy = 'path "transit/datakey/plaintext/*" { capabilities = ["update"] }'
    for bits in (128, 256, 512):
        found = asked(bao, policy, lambda client, bits=bits: client.data_key("transit", "app", bits))
        assert len(found.plaintext.reveal()) * 8 == bits
        opened = bao.request("POST", "transit/decrypt/app", {"ciphertext": found.wrapped})["data"]["plaintext"]
        assert base64.b64decode(opened) == found.plaintext.reveal()
    with pytest.raises(MissingError, match="no such key"):
        asked(bao, policy, lambda client: client.data_key("transit", "none", 256))


def test_a_token_is_read_anew_when_it_is_refused(bao: OpenBao):
    found, secrets = with_policy(bao, OLD)
    assert isinstance(found.auth, TokenAuth)

    async def work(server: HvacServer) -> None:
        client = server.client(OPERATOR)
        await client.read("old/kv/app")
        used = secrets.held["token"].value("token").decode()
        await asyncio.to_thread(bao.request, "POST", "auth/token/revoke", {"token": used})
        with pytest.raises(RejectedError, match="refuses the token"):
            await client.read("old/kv/app")
        other = with_policy(bao, OLD)[1]
        secrets.put("token", {"token": other.held["token"].value("token")})
        assert await client.read("old/kv/app") == {"user": "one"}

    during(found, work, secrets)


def test_health_is_told_in_each_state_and_answers_are_awaited_no_longer(bao: OpenBao):
    found, secrets = with_policy(bao, OLD)

    async def work(server: HvacServer) -> None:
        client = server.client(OPERATOR)
        healthy = await server.health()
        assert healthy.serves
        assert healthy.version
        assert not healthy.standby
        await client.read("old/kv/app")
        await asyncio.to_thread(bao.seal)
        sealed = await server.health()
        assert (sealed.reachable, sealed.initialized, sealed.sealed, sealed.serves) == (True, True, True, False)
        with pytest.raises(RetryableError, match="sealed"):
            await client.read("old/kv/app")
        await asyncio.to_thread(bao.stop)
        assert not (await server.health()).reachable
        with pytest.raises(RetryableError, match="does not answer"):
            await client.read("old/kv/app")
        await asyncio.to_thread(bao.start)
        assert (await server.health()).serves
        assert await client.read("old/kv/app") == {"user": "one"}

    during(found, work, secrets)
