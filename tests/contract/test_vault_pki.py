"""The PKI engine of a real OpenBao, with the policy that docs/authorities.md shows and no other right."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from serviceidentity.adapters.vault.connection import VaultConnection
from serviceidentity.adapters.vault.pki import VaultPki
from serviceidentity.adapters.vault.session import VaultSession
from serviceidentity.adapters.vault.settings import TokenAuth, VaultSettings
from serviceidentity.domain import authority
from serviceidentity.domain.authority import MakeAuthority, Role
from serviceidentity.domain.authority.upstream import SigningRequest, read_upstream, request_for, signed_upstream
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.model import VaultIssuer
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.errors import MissingError, PortError, RejectedError, RetryableError
from tests.contract.pki_at_vault import during, now
from tests.controlplane import OpenBao
from tests.unit.domain.builders import domain, stored_authority

pytestmark = pytest.mark.contract
AT = VaultIssuer("pki", "default")
DOCS = Path(__file__).parents[2] / "docs" / "authorities.md"
POLICY = re.findall(r"```hcl\n(.*?)```", DOCS.read_text(), re.DOTALL)[0]


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("bao"))
    server.start()
    try:
        for mount in ("pki", "short"):
            server.request("POST", f"sys/mounts/{mount}", {"type": "pki", "config": {"max_lease_ttl": "87600h"}})
            root = {"common_name": f"{mount} root", "ttl": "80000h", "key_type": "ec"}
            server.request("POST", f"{mount}/root/generate/internal", root)
        server.request("POST", "sys/mounts/short/tune", {"max_lease_ttl": "1h"})
        server.request("PUT", "sys/policies/acl/operator", {"policy": POLICY + POLICY.replace("pki/", "short/")})
        yield server
    finally:
        server.stop()


SPEC = {"intermediate": {"duration": "240h", "organization": "Example Ltd", "vault": {}}, "maxLeafDuration": "24h"}


def request_of(bao: OpenBao, spec: dict[str, Any], at: VaultIssuer = AT) -> tuple[Any, ...]:
    found = during(bao, lambda pki: pki.issuer(at.mount, at.issuer))
    upstream = read_upstream(at, found.issuer_id, found.chain, now())
    owner = domain(**spec)
    content = authority.copy_of(upstream, owner, Role.ROOT, now(), activate=True)
    root = stored_authority(content, owner, Role.ROOT, 1)
    key = keys.generate(owner.intermediate.profile)
    return owner, root, upstream, key, request_for(owner, root, upstream, key, now())


@pytest.mark.parametrize("algorithm", ["ECDSA", "RSA", "Ed25519"])
def test_an_intermediate_is_signed_as_it_was_asked_for(bao: OpenBao, algorithm: str) -> None:
    spec = {**SPEC, "intermediate": {**SPEC["intermediate"], "privateKey": {"algorithm": algorithm}}}
    owner, root, upstream, key, request = request_of(bao, spec)
    answer = during(bao, lambda pki: pki.sign_intermediate("pki", upstream.issuer_id, request))
    step = MakeAuthority(Role.INTERMEDIATE, 1, "default-intermediate-1", "", "")
    content = signed_upstream(owner, step, root, upstream, key, answer, now())
    made = stored_authority(content, owner, Role.INTERMEDIATE, 1)
    assert made.path == (made.certificate, upstream.root)
    assert made.issuer.path_length == 0
    found = {one.rfc4514_string() for one in made.certificate.subject.rdns}
    assert found == {"CN=default intermediate", "O=Example Ltd"}
    assert abs(made.not_after - now() - timedelta(hours=240)) < timedelta(seconds=10)
    assert abs(now() - made.not_before - timedelta(minutes=5)) < timedelta(seconds=10)
    assert certificates.signed_by(made.certificate, upstream.root)


def test_the_limit_of_the_mount_shortens_the_life(bao: OpenBao) -> None:
    at = VaultIssuer("short", "default")
    with pytest.raises(PortError):
        during(bao, lambda pki: pki.issuer("secret", "default"))
    owner, root, upstream, key, request = request_of(bao, SPEC, at)
    answer = during(bao, lambda pki: pki.sign_intermediate("short", upstream.issuer_id, request))
    step = MakeAuthority(Role.INTERMEDIATE, 1, "default-intermediate-1", "", "")
    made = stored_authority(
        signed_upstream(owner, step, root, upstream, key, answer, now()), owner, Role.INTERMEDIATE, 1
    )
    assert made.not_after - now() <= timedelta(hours=1)


def test_the_issuer_that_was_read_signs_even_if_the_default_is_another_by_then(bao: OpenBao) -> None:
    owner, root, upstream, key, request = request_of(bao, SPEC)
    before = bao.request("GET", "pki/config/issuers")["data"]["default"]
    new = bao.request("POST", "pki/root/generate/internal", {"common_name": "pki root 2", "ttl": "8000h"})
    try:
        bao.request("POST", "pki/config/issuers", {"default": new["data"]["issuer_id"]})
        answer = during(bao, lambda pki: pki.sign_intermediate("pki", upstream.issuer_id, request))
        step = MakeAuthority(Role.INTERMEDIATE, 1, "default-intermediate-1", "", "")
        signed_upstream(owner, step, root, upstream, key, answer, now())
        assert request_of(bao, SPEC)[2].root != upstream.root
        other = during(bao, lambda pki: pki.sign_intermediate("pki", new["data"]["issuer_id"], request))
        with pytest.raises(PkiError, match="another root"):
            signed_upstream(owner, step, root, upstream, key, other, now())
    finally:
        bao.request("POST", "pki/config/issuers", {"default": before})


def test_what_is_not_there_or_not_allowed_is_told_apart_and_echoes_nothing(bao: OpenBao) -> None:
    request = request_of(bao, SPEC)[-1]
    broken = SigningRequest("super secret", "x", timedelta(hours=1), timedelta(seconds=30))
    cases: list[tuple[Callable[[VaultPki], Awaitable[Any]], Any]] = [
        (lambda pki: pki.issuer("nowhere", "default"), (MissingError, RejectedError)),
        (lambda pki: pki.issuer("pki", "nobody"), PortError),
        (lambda pki: pki.sign_intermediate("pki", "default", broken), RejectedError),
        (lambda pki: pki.sign_intermediate("private", "default", request), RejectedError),
    ]
    for ask, kind in cases:
        with pytest.raises(kind) as caught:
            during(bao, ask)
        assert "secret" not in str(caught.value)
        assert "BEGIN" not in str(caught.value)


def test_a_sealed_server_is_no_refusal(bao: OpenBao) -> None:
    bao.seal()
    try:
        settings = VaultSettings(bao.address, TokenAuth(token=KeyMaterial(b"any")))

        async def ask() -> None:
            session = VaultSession(settings, VaultConnection(settings))
            try:
                await VaultPki(session).issuer("pki", "default")
            finally:
                await session.close()

        with pytest.raises(RetryableError):
            asyncio.run(ask())
    finally:
        bao.unseal()
