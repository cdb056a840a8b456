"""Leaves signed by the PKI engine of a real OpenBao, with the role and policy that docs/authorities.md shows."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from serviceidentity.domain.authority import IssuingAuthority, RemoteIssuer, read_issuing
from serviceidentity.domain.credentials import remote_leaf
from serviceidentity.domain.credentials.leaf import Leaf, Order
from serviceidentity.domain.model import VaultSigner
from serviceidentity.domain.pki import certificates
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.errors import RejectedError
from tests.contract.pki_at_vault import during, now
from tests.controlplane import OpenBao
from tests.unit.domain.builders import CERTIFICATE, TRUST, observed
from tests.unit.domain.test_remote_leaf import NEW

pytestmark = pytest.mark.contract
AT = VaultSigner("pki", "default", "services")
DOCS = (Path(__file__).parents[2] / "docs" / "authorities.md").read_text()
POLICY = re.findall(r"```hcl\n(.*?)```", DOCS, re.DOTALL)[1]
SPEC: dict[str, Any] = {
    "dnsNames": ["order.shop.svc", "*.order.example"],
    "ipAddresses": ["10.0.0.1", "fd00::1"],
    "emailAddresses": ["order@shop.example"],
    "duration": "12h",
}


def role_in_docs() -> dict[str, str]:
    (command,) = re.findall(r"vault write pki/roles/services (.*?)\nvault", DOCS, re.DOTALL)
    role = dict(pair.split("=", 1) for pair in shlex.split(command.replace("\\\n", " ")))
    return role | {"allowed_uri_sans": role["allowed_uri_sans"].replace("company.example", "example.org")}


def issuing(bao: OpenBao, name: str, mount: str = "pki") -> str:
    """Make an intermediate under a root of its own in the engine, the default from now on; return its ID."""
    root = {"common_name": f"{name} root", "ttl": "80000h", "key_type": "ec"}
    root_id = bao.request("POST", f"{mount}/root/generate/internal", root)["data"]["issuer_id"]
    asked = bao.request("POST", f"{mount}/intermediate/generate/internal", {"common_name": name, "key_type": "ec"})
    request = {"csr": asked["data"]["csr"], "use_csr_values": True, "ttl": "8000h", "max_path_length": 0}
    signed = bao.request("POST", f"{mount}/issuer/{root_id}/sign-intermediate", request)["data"]
    chain = "\n".join([signed["certificate"], *signed["ca_chain"]])
    bao.request("POST", f"{mount}/intermediate/set-signed", {"certificate": chain})
    listed = bao.request("LIST", f"{mount}/issuers")["data"]["keys"]
    read = {one: bao.request("GET", f"{mount}/issuer/{one}/json")["data"]["certificate"] for one in listed}
    (found,) = (one for one, pem in read.items() if pem.strip() == signed["certificate"].strip())
    bao.request("POST", f"{mount}/config/issuers", {"default": found})
    return found


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("bao"))
    server.start()
    try:
        server.request("POST", "sys/mounts/pki", {"type": "pki", "config": {"max_lease_ttl": "87600h"}})
        issuing(server, "Vault issuing")
        server.request("POST", "pki/roles/services", role_in_docs())
        server.request("PUT", "sys/policies/acl/operator", {"policy": POLICY.replace("sign/services", "sign/+")})
        yield server
    finally:
        server.stop()


def found(bao: OpenBao, issuer: str = "default") -> IssuingAuthority:
    read = during(bao, lambda pki: pki.issuer("pki", issuer))
    source = read_issuing(AT, read.issuer_id, read.chain, now())
    assert isinstance(source, IssuingAuthority), source
    return source


def ordered(source: IssuingAuthority, spec: dict[str, Any], role: str = "services") -> Order:
    signer = RemoteIssuer("pki", source.issuer_id, role, source.path.certificates)
    trust = replace(TRUST, signer=signer)
    order = CERTIFICATE.order(observed({"certificate": spec}, trust), NEW, now())
    assert order is not None
    return order


def signed(bao: OpenBao, spec: dict[str, Any] | None = None, role: str = "services", source: Any = None) -> Leaf:
    source = source or found(bao)
    order = ordered(source, SPEC if spec is None else spec, role)
    request = remote_leaf.request_for(order, now())
    answer = during(bao, lambda pki: pki.sign_leaf("pki", source.issuer_id, role, request))
    return remote_leaf.examined(order, answer, now())


@pytest.mark.parametrize("algorithm", ["ECDSA", "RSA", "Ed25519"])
def test_a_leaf_is_signed_as_it_was_asked_for(bao: OpenBao, algorithm: str) -> None:
    leaf = signed(bao, SPEC | {"privateKey": {"algorithm": algorithm}})
    made, issuer = certificates.load_chain(leaf.chain)
    facts = certificates.facts(made)
    assert facts.spiffe_id == "spiffe://example.org/ns/shop/sa/order-service"
    assert facts.common_name == "order-service"
    assert set(facts.dns_names) == {"order.shop.svc", "*.order.example"}, "and not the common name"
    assert facts.ip_addresses == ("10.0.0.1", "fd00::1")
    assert facts.email_addresses == ("order@shop.example",)
    assert abs(facts.not_after - now() - timedelta(hours=12)) < timedelta(seconds=10)
    assert not facts.is_ca
    assert certificates.signed_by(made, issuer)
    assert certificates.key_matches(made, leaf.key)


def test_a_role_that_reads_no_names_from_the_request_is_told_them(bao: OpenBao) -> None:
    role = role_in_docs() | {"use_csr_common_name": "false", "use_csr_sans": "false"}
    bao.request("POST", "pki/roles/by-parameters", role)
    signed(bao, role="by-parameters")


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"allowed_uri_sans": ""}, "does not allow a URI"),
        ({"allowed_uri_sans": "spiffe://other.example/*"}, "does not allow a URI"),
        ({"allow_ip_sans": "false"}, "does not allow IP addresses"),
        ({"allow_any_name": "false", "allowed_domains": "bank.example"}, "does not allow"),
        ({"key_type": "rsa"}, "another kind of key"),
    ],
)
def test_what_a_role_does_not_allow_is_named_in_our_words(bao: OpenBao, limits: dict[str, str], complaint: str) -> None:
    bao.request("POST", "pki/roles/narrow", role_in_docs() | limits)
    with pytest.raises(RejectedError, match=complaint) as caught:
        signed(bao, role="narrow")
    assert "order" not in str(caught.value)
    assert "example" not in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"server_flag": "false"}, "extended key usages are less"),
        ({"code_signing_flag": "true"}, "extended key usages are more"),
        ({"key_usage": "KeyAgreement"}, "digital signature is missing"),
    ],
)
def test_what_a_role_changes_is_found(bao: OpenBao, limits: dict[str, str], complaint: str) -> None:
    bao.request("POST", "pki/roles/other", role_in_docs() | limits)
    with pytest.raises(PkiError, match=complaint):
        signed(bao, role="other")


def test_a_role_may_shorten_the_life_and_add_to_the_subject(bao: OpenBao) -> None:
    bao.request("POST", "pki/roles/short", role_in_docs() | {"max_ttl": "1h", "organization": "Example Ltd"})
    made = certificates.load_chain(signed(bao, role="short").chain)[0]
    assert made.not_valid_after_utc - now() <= timedelta(hours=1)
    assert "O=Example Ltd" in made.subject.rfc4514_string()
    signed(bao, SPEC | {"subject": {"organizations": ["Example Ltd"]}}, role="short")
    with pytest.raises(PkiError, match="organizationName is missing"):
        signed(bao, SPEC | {"subject": {"organizations": ["Another"]}}, role="short")


def test_the_issuer_that_was_read_signs_even_if_the_default_is_another_by_then(bao: OpenBao) -> None:
    before = found(bao)
    new = issuing(bao, "Vault issuing 2")
    try:
        made, above = certificates.load_chain(signed(bao, source=before).chain)
        assert certificates.signed_by(made, before.certificate)
        assert above == before.certificate
        after = found(bao)
        assert (after.issuer_id, after.root) == (new, after.root)
        assert after.root != before.root
        with pytest.raises(PkiError, match="another authority"):
            signed(bao, source=replace(before, issuer_id=new))
    finally:
        bao.request("POST", "pki/config/issuers", {"default": before.issuer_id})


def test_what_is_not_there_or_not_allowed_is_told_apart(bao: OpenBao) -> None:
    source = found(bao)
    with pytest.raises(RejectedError, match="no such role"):
        signed(bao, role="nobody")
    with pytest.raises(RejectedError, match="not there any more"):
        signed(bao, source=replace(source, issuer_id="11111111-2222-3333-4444-555555555555"))
    request = remote_leaf.request_for(ordered(source, SPEC), now())
    with pytest.raises(RejectedError, match="policy"):
        during(bao, lambda pki: pki.sign_leaf("pki", source.issuer_id, "services", request), policy="default")


def test_a_leaf_is_revoked_and_once_more_does_nothing(bao: OpenBao) -> None:
    bao.request("POST", "pki/roles/unstored", role_in_docs() | {"no_store": "true"})
    for role in ("services", "unstored"):
        made = certificates.load_chain(signed(bao, role=role).chain)[0]
        text = certificates.encode_chain(made).decode()
        for _ in range(2):
            during(bao, lambda pki, text=text: pki.revoke("pki", text))  # type: ignore[misc]
        crl = bao.request("GET", f"pki/issuer/{found(bao).issuer_id}/crl")["data"]["crl"]
        listed = x509.load_pem_x509_crl(crl.encode())
        assert listed.get_revoked_certificate_by_serial_number(made.serial_number) is not None


def test_a_root_that_signs_leaves_itself_is_refused(bao: OpenBao) -> None:
    roots = [found(bao).root]
    listed = bao.request("LIST", "pki/issuers")["data"]["keys"]
    for one in listed:
        read = during(bao, lambda pki, one=one: pki.issuer("pki", one))  # type: ignore[misc]
        if x509.load_pem_x509_certificate(read.chain[0].encode()) in roots:
            refused = read_issuing(AT, read.issuer_id, read.chain, now())
            assert getattr(refused, "reason", "") == "NotAnIntermediate"
            return
    pytest.fail("the root is not in the engine")
