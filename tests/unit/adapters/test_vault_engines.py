"""What answers of Vault's engines mean, without a server."""

import asyncio
from collections.abc import Coroutine, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import hvac.exceptions
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.adapters.vault.connection import Json, quoted, translated
from serviceidentity.adapters.vault.kv import KvEngines
from serviceidentity.adapters.vault.leases import VaultLeases
from serviceidentity.adapters.vault.logins import MethodLogin
from serviceidentity.adapters.vault.methods import Methods
from serviceidentity.adapters.vault.session import Session
from serviceidentity.app.vault.ports import LeaseToken, Login
from serviceidentity.domain.material import KeyMaterial
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
from serviceidentity.errors import ForbiddenError, MissingError, PortError, RejectedError, RetryableError

MOUNTS = "sys/internal/ui/mounts/"
TOKEN = LeaseToken(KeyMaterial(b"lease"), "accessor", shared=False, grant=None)
HOUR = timedelta(hours=1)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


class Answers:
    """Answers each path as it was told: with JSON, with an error, or with nothing there."""

    def __init__(self, answers: Mapping[str, Json | PortError]) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []

    async def request(self, method: str, path: str, body: Json | None = None) -> Json:
        self.asked.append(path)
        found = self.answers.get(path, MissingError("nothing"))
        if isinstance(found, PortError):
            raise found
        return found

    async def send(self, method: str, path: str, body: Any = None, token: Any = None) -> Json:
        return await self.request(method, path, body)

    async def close(self) -> None: ...


def refusal(status: type[hvac.exceptions.VaultError], *words: str) -> PortError:
    cause = status(errors=list(words))
    error = translated(cause)
    error.__cause__ = cause
    return error


def kv_2(value: str) -> Json:
    return {"data": {"data": {"value": value}, "metadata": {"version": 4}}}


def engine(version: str, path: str = "secret/") -> Json:
    return {"data": {"type": "kv", "path": path, "options": {"version": version}}}


class TestKv:
    def test_the_engine_is_asked_for_once(self):
        server, kv = Answers({MOUNTS + "secret": engine("2"), "secret/data/app": kv_2("a")}), KvEngines()
        for _ in range(3):
            assert run(kv.read(server.request, "secret", "app", None)).version == 4
        assert server.asked.count(MOUNTS + "secret") == 1

    def test_those_who_want_to_know_at_the_same_time_ask_once(self):
        class Slow(Answers):
            async def request(self, method: str, path: str, body: Json | None = None) -> Json:
                found = super().request(method, path, body)
                await asyncio.sleep(0)
                return await found

        async def eight(server: Answers) -> list[Any]:
            kv = KvEngines()
            reads = (kv.read(server.request, "secret", "app", None) for _ in range(8))
            return await asyncio.gather(*reads, return_exceptions=True)

        server = Slow({MOUNTS + "secret": engine("2"), "secret/data/app": kv_2("a")})
        assert [one.version for one in run(eight(server))] == [4] * 8
        assert server.asked.count(MOUNTS + "secret") == 1
        away = Slow({MOUNTS + "secret": RetryableError("away")})
        assert {type(one) for one in run(eight(away))} == {RetryableError}, "nobody waits for ever"

    def test_what_has_a_lease_is_no_secret_of_a_kv_engine(self):
        answer = {"data": {"username": "v-1"}, "lease_id": "team/db/creds/app/1", "lease_duration": 3600}
        server = Answers({"team/db/creds/app": answer})
        with pytest.raises(PortError):
            run(KvEngines().read(server.request, "team", "db/creds/app", None))

    @pytest.mark.parametrize(
        ("mount", "path"), [("auth", "token/lookup-self"), ("team/auth", "token/lookup-self"), ("identity", "oidc/x")]
    )
    def test_what_the_server_says_of_itself_is_no_secret(self, mount: str, path: str):
        server = Answers({f"{mount}/{path}": {"data": {"id": "the login's token"}}})
        with pytest.raises(MissingError):
            run(KvEngines().read(server.request, mount, path, None))

    @pytest.mark.parametrize("told", [ForbiddenError("no"), MissingError("no")])
    def test_where_it_is_not_told_both_are_tried(self, told: PortError):
        server = Answers({MOUNTS + "secret": told, "secret/data/app": kv_2("a")})
        assert run(KvEngines().read(server.request, "secret", "app", None)).version == 4
        server = Answers({MOUNTS + "secret": told, "secret/data/app": ForbiddenError("no"), "secret/app": {"data": {}}})
        assert run(KvEngines().read(server.request, "secret", "app", None)).version is None
        server.answers["secret/app"] = ForbiddenError("no")
        with pytest.raises(ForbiddenError):
            run(KvEngines().read(server.request, "secret", "app", None))
        with pytest.raises(MissingError):  # version 1 has no versions: it is not asked
            run(KvEngines().read(server.request, "secret", "app", 3))

    def test_an_engine_that_was_replaced_is_found_out_by_the_next_read(self):
        server, kv = Answers({MOUNTS + "secret": engine("2"), "secret/data/app": kv_2("a")}), KvEngines()
        run(kv.read(server.request, "secret", "app", None))
        server.answers = {MOUNTS + "secret": engine("1"), "secret/app": {"data": {"value": "b"}}}
        assert run(kv.read(server.request, "secret", "app", None)).values == {"value": "b"}

    def test_what_lies_below_the_mount_belongs_to_the_path(self):
        server = Answers({MOUNTS + "secret/team": engine("2"), "secret/data/team/app": kv_2("a")})
        assert run(KvEngines().read(server.request, "secret/team", "app", None)).version == 4

    def test_in_a_namespace_the_path_of_the_mount_is_longer(self):
        server = Answers({MOUNTS + "secret": engine("2", "team/secret/"), "secret/data/app": kv_2("a")})
        assert run(KvEngines().read(server.request, "secret", "app", None)).version == 4

    def test_a_server_that_is_away_is_asked_for_nothing_else(self):
        server = Answers({MOUNTS + "secret": RetryableError("away")})
        with pytest.raises(RetryableError):
            run(KvEngines().read(server.request, "secret", "app", None))
        assert len(server.asked) == 1


async def _proof() -> Json:
    return {}


def leases(server: Answers) -> VaultLeases:
    server.answers.setdefault("auth/k/login", {"auth": {"client_token": "t", "lease_duration": 60}})
    return VaultLeases(Session(MethodLogin("k", _proof, "refused"), server), server)


RENEW, LOOKUP, LOOKUP_SELF = "sys/leases/renew", "sys/leases/lookup", "auth/token/lookup-self"
KNOWN: Json = {"data": {"ttl": 5, "renewable": True}}
BAD = hvac.exceptions.InvalidRequest


class TestLeases:
    @pytest.mark.parametrize(
        ("words", "known", "meaning"),
        [
            ("lease not found", False, MissingError),
            ("lease is not renewable", True, RejectedError),
            ("failed to renew entry: dial tcp db:5432: connection refused", True, RetryableError),
            ("failed to renew entry: past the max TTL, cannot renew", True, RejectedError),
            ("something new", True, RejectedError),
            ("something new", False, MissingError),
        ],
    )
    def test_only_a_lease_that_is_gone_is_missing(self, words: str, known: bool, meaning: type[PortError]):
        lookup = KNOWN if known else refusal(BAD, "invalid lease")
        server = Answers({RENEW: refusal(BAD, words), LOOKUP: lookup})
        with pytest.raises(PortError) as told:
            run(leases(server).renew("database/creds/app/x", HOUR, TOKEN))
        assert type(told.value) is meaning
        assert words not in str(told.value)

    @pytest.mark.parametrize(("alive", "meaning"), [(True, ForbiddenError), (False, MissingError)])
    def test_a_lease_goes_with_its_token(self, alive: bool, meaning: type[PortError]):
        no = refusal(hvac.exceptions.Forbidden, "permission denied")
        server = Answers({RENEW: no, LOOKUP: no, "auth/token/renew-self": no, LOOKUP_SELF: {} if alive else no})
        found = leases(server)
        for work in (found.renew("x", HOUR, TOKEN), found.lookup("x", TOKEN), found.renew_token(TOKEN, HOUR)):
            with pytest.raises(meaning):
                run(work)

    def test_a_token_that_may_not_revoke_itself_is_not_taken_for_gone(self):
        no = refusal(hvac.exceptions.Forbidden, "permission denied")
        server = Answers({"auth/token/revoke-self": no, LOOKUP_SELF: {}})
        with pytest.raises(ForbiddenError):
            run(leases(server).revoke(TOKEN, "x"))
        server.answers[LOOKUP_SELF] = no
        run(leases(server).revoke(TOKEN, "x"))

    def test_a_shared_token_stays(self):
        server = Answers({"sys/leases/revoke": {}})
        shared = LeaseToken(TOKEN.token, "", shared=True, grant=None)
        run(leases(server).revoke(shared, ""))
        assert not server.asked
        run(leases(server).revoke(shared, "x"))
        assert server.asked == ["auth/k/login", "sys/leases/revoke"]
        for words, meaning in (("invalid lease", None), ("failed to revoke entry", RetryableError)):
            server.answers["sys/leases/revoke"] = refusal(BAD, words)
            if meaning is None:
                run(leases(server).revoke(shared, "x"))
            else:
                with pytest.raises(meaning):
                    run(leases(server).revoke(shared, "x"))

    def test_a_login_of_its_own_is_had_when_that_is_asked_for(self):
        made: Json = {"auth": {"client_token": "orphan", "lease_duration": 3600}}
        server = Answers({"auth/token/create-orphan": made})
        found = leases(server)

        async def work() -> list[bytes]:
            first = await found.token(HOUR, "n")
            second = await found.token(HOUR, "n", own_login=True)
            return [first.token.reveal(), second.token.reveal()]

        assert run(work()) == [b"orphan", b"t"]


def methods(auth: Auth) -> Methods:
    return Methods(auth, None, None)  # type: ignore[arg-type]  # nobody logs in


KUBERNETES = KubernetesAuth("kubernetes", None, LoginAs.IDENTITY)
ASKED = Login("c", None, "shop", "order")


@pytest.mark.parametrize(
    ("auth", "asked", "logs_in_as"),
    [
        (KUBERNETES, ASKED, Login("c", "order", "shop", "order")),
        (KubernetesAuth("k", "all", LoginAs.IDENTITY), ASKED, Login("c", "all", "shop", "order")),
        (KubernetesAuth("k", "all", LoginAs.IDENTITY), Login("c", "own", "shop", "order"), None),
        (KubernetesAuth("k", "all", LoginAs.OPERATOR), ASKED, Login("c", "all")),
        (JwtAuth("jwt", None, "/jwt"), ASKED, Login("c")),
        (CertificateAuth("cert", "web", "tls"), ASKED, Login("c", "web")),
        (TokenAuth(file="/token"), Login("c", "own", "shop", "order"), Login("c")),
        (AppRoleAuth("approle", "id", SecretKey("a", "b")), Login("c", "own", "shop", "order"), Login("c")),
    ],
)
def test_a_login_is_as_much_of_it_as_matters(auth: Auth, asked: Login, logs_in_as: Login | None):
    assert methods(auth).login(asked) == (logs_in_as or asked)


def test_only_identities_log_in_as_themselves():
    for login, told in ((Login("c"), "no role"), (Login("c", "r"), "only identities")):
        with pytest.raises(RejectedError, match=told):
            methods(KUBERNETES).method(methods(KUBERNETES).login(login))


@given(st.text())
def test_a_path_stays_below_where_it_begins(path: str):
    try:
        found = quoted(path)
    except RejectedError:
        return
    assert not {"", ".", ".."}.intersection(found.split("/"))
    assert not set("?#%").intersection(found.replace("%", "", found.count("%")))
    assert found.isascii()
    assert unquote(found) == path
