"""Data keys wrapped by a real OpenBao."""

import asyncio
import urllib.error
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from serviceidentity.adapters.vault.connection import VaultConnection
from serviceidentity.adapters.vault.session import VaultSession
from serviceidentity.adapters.vault.settings import TokenAuth, VaultSettings
from serviceidentity.adapters.vault.transit import TransitKey
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.pki.envelope import new_data_key
from serviceidentity.errors import MissingError, RejectedError, RetryableError
from tests.controlplane import OpenBao

pytestmark = pytest.mark.contract
T = TypeVar("T")
CONTEXT = b"this authority"
# What docs/ca-keys.md tells people to grant.
POLICY = """
path "team/transit/keys/ca" { capabilities = ["read"] }
path "team/transit/encrypt/ca" { capabilities = ["update"] }
path "team/transit/decrypt/ca" { capabilities = ["update"] }
path "team/transit/rewrap/ca" { capabilities = ["update"] }
"""


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("bao"))
    server.start()
    try:
        server.request("POST", "sys/mounts/team/transit", {"type": "transit"})
        server.request("PUT", "sys/policies/acl/operator", {"policy": POLICY})
        yield server
    finally:
        server.stop()


@pytest.fixture(params=[{"derived": True}, {}, {"type": "chacha20-poly1305"}], ids=["derived", "plain", "chacha20"])
def key(bao: OpenBao, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """A new key "ca" of one kind."""
    bao.request("POST", "team/transit/keys/ca", request.param)
    yield request.param
    bao.request("POST", "team/transit/keys/ca/config", {"deletion_allowed": True})
    bao.request("DELETE", "team/transit/keys/ca")


def ask(bao: OpenBao, work: Callable[[TransitKey], Awaitable[T]], name: str = "ca", token: str | None = None) -> T:
    if token is None:
        token = bao.request("POST", "auth/token/create", {"policies": ["operator"]})["auth"]["client_token"]
    settings = VaultSettings(bao.address, TokenAuth(token=KeyMaterial(token.encode())))

    async def run() -> T:
        session = VaultSession(settings, VaultConnection(settings))
        try:
            return await work(TransitKey(session, "team/transit", name))
        finally:
            await session.close()

    return asyncio.run(run())


def test_what_it_wraps_it_unwraps(bao: OpenBao, key: dict[str, Any]):
    data_key = new_data_key()
    wrapped = ask(bao, lambda transit: transit.wrap(data_key, CONTEXT))
    assert wrapped.kek == ask(bao, lambda transit: transit.current()) == "transit:team/transit/ca:v1"
    assert ask(bao, lambda transit: transit.unwrap(wrapped, CONTEXT)) == data_key


def test_a_newer_version_wraps_the_same_key_anew(bao: OpenBao, key: dict[str, Any]):
    data_key = new_data_key()
    old = ask(bao, lambda transit: transit.wrap(data_key, CONTEXT))
    bao.request("POST", "team/transit/keys/ca/rotate")
    assert ask(bao, lambda transit: transit.current()) == "transit:team/transit/ca:v2"
    assert ask(bao, lambda transit: transit.unwrap(old, CONTEXT)) == data_key
    new = ask(bao, lambda transit: transit.rewrap(old, CONTEXT))
    assert new.kek == "transit:team/transit/ca:v2"
    bao.request("POST", "team/transit/keys/ca/config", {"min_decryption_version": 2})
    assert ask(bao, lambda transit: transit.unwrap(new, CONTEXT)) == data_key
    for work in (lambda transit: transit.unwrap(old, CONTEXT), lambda transit: transit.rewrap(old, CONTEXT)):
        with pytest.raises(RejectedError, match=r"ca:v1 may not decrypt any more: min_decryption_version is 2"):
            ask(bao, work)


@pytest.mark.parametrize("key", [{"derived": True}], indirect=True)
def test_a_derived_key_gives_each_authority_its_own(bao: OpenBao, key: dict[str, Any]):
    wrapped = ask(bao, lambda transit: transit.wrap(new_data_key(), CONTEXT))
    with pytest.raises(RejectedError, match="does not open it"):
        ask(bao, lambda transit: transit.unwrap(wrapped, b"another authority"))


def test_what_was_changed_is_refused(bao: OpenBao, key: dict[str, Any]):
    wrapped = ask(bao, lambda transit: transit.wrap(new_data_key(), CONTEXT))
    end = "A" if wrapped.text[-5] != "A" else "B"
    for changed in (
        replace(wrapped, text=wrapped.text[:-5] + end + wrapped.text[-4:]),
        replace(wrapped, text=wrapped.text.replace(":v1:", ":v2:")),
        replace(wrapped, kek="transit:team/transit/ca:v2"),
        replace(wrapped, kek="transit:team/transit/ca:v2", text=wrapped.text.replace(":v1:", ":v2:")),
        replace(wrapped, text=""),
        replace(wrapped, text="../../sys/seal"),
    ):
        with pytest.raises(RejectedError) as refused:
            ask(bao, lambda transit, changed=changed: transit.unwrap(changed, CONTEXT))
        assert wrapped.text[10:30] not in str(refused.value)


def test_a_key_that_is_not_there_is_told_and_not_made(bao: OpenBao):
    root = bao.root_token  # who may do everything would make one by encrypting with it
    for work in (
        lambda transit: transit.current(),
        lambda transit: transit.wrap(new_data_key(), CONTEXT),
    ):
        with pytest.raises(MissingError, match="transit:team/transit/none does not exist"):
            ask(bao, work, "none", root)
    with pytest.raises(urllib.error.HTTPError):
        bao.request("GET", "team/transit/keys/none")


def test_a_key_that_was_deleted_is_told(bao: OpenBao, key: dict[str, Any]):
    wrapped = ask(bao, lambda transit: transit.wrap(new_data_key(), CONTEXT))
    bao.request("POST", "team/transit/keys/ca/config", {"deletion_allowed": True})
    bao.request("DELETE", "team/transit/keys/ca")
    try:
        with pytest.raises(MissingError, match="does not exist"):
            ask(bao, lambda transit: transit.unwrap(wrapped, CONTEXT))
        # One of the same name is another key.
        bao.request("POST", "team/transit/keys/ca", key)
        with pytest.raises(RejectedError, match="does not open it"):
            ask(bao, lambda transit: transit.unwrap(wrapped, CONTEXT))
    finally:
        bao.request("POST", "team/transit/keys/ca", key)


def test_the_policy_that_is_documented_is_all_that_is_needed_and_less_is_told(bao: OpenBao, key: dict[str, Any]):
    nothing = bao.request("POST", "auth/token/create", {"policies": ["default"]})["auth"]["client_token"]
    with pytest.raises(RejectedError, match="does not allow this"):
        ask(bao, lambda transit: transit.wrap(new_data_key(), CONTEXT), token=nothing)


def test_sealed_is_worth_another_try(bao: OpenBao, key: dict[str, Any]):
    bao.seal()
    try:
        with pytest.raises(RetryableError, match="sealed"):
            ask(bao, lambda transit: transit.current(), token=bao.root_token)
    finally:
        bao.unseal()
