"""AdmissionReview in, AdmissionReview out: refused is what a condition would call InvalidSpec, in the same words."""

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.adapters.cel import CelCompiler
from serviceidentity.adapters.jinja import JinjaTemplates
from serviceidentity.app.inventory import Inventory
from serviceidentity.domain import admission
from serviceidentity.domain.access.spec import VARIABLES
from serviceidentity.domain.material import MalformedError
from serviceidentity.errors import InvalidSpecError
from tests.unit.access.builders import access_policy_body
from tests.unit.domain.builders import identity_body, trust_domain_body, vault_connection_body

READERS = Inventory("system", CelCompiler(), JinjaTemplates(), CelCompiler(VARIABLES)).readers
BODIES: Mapping[str, dict[str, Any]] = {
    "ServiceIdentity": identity_body(
        {
            "certificate": {"duration": "1h", "privateKey": {"algorithm": "ECDSA", "size": 256}, "subject": {}},
            "hmac": {"verifiers": [{"name": "a", "namespace": "b"}], "rotateEvery": "720h"},
            "callers": [{"name": "*"}],
            "encrypted": {"values": {"A": "ENC:00"}},
            "rollout": {"targets": [{"kind": "Deployment", "name": "a"}], "credentials": ["HMAC"]},
            "jwt": {"algorithm": "ES256", "tokens": [{"name": "t", "audiences": ["a"], "ttl": "15m"}]},
            "vault": {
                "connectionRef": {"name": "default"},
                "secrets": [
                    {"name": "db", "database": {"role": "r"}},
                    {"name": "kv", "kv": {"path": "p", "version": 2}, "templates": {"A": "{{ a }}"}},
                ],
            },
        }
    ),
    "TrustDomain": trust_domain_body(
        root={"privateKey": {"algorithm": "RSA", "size": 2048}},
        taintedAuthorities=[{"fingerprint": "aa"}],
        revokedCertificates=[{"serialNumber": "aa", "reason": "unspecified"}],
        bundle={"target": {"namespaceSelector": {"matchLabels": {"a": "b"}}}, "extraRoots": [{"pem": "x"}]},
        policy={
            "rules": [{"name": "r", "expression": "object.metadata.name == 'a'", "message": "no"}],
            "ipNetworks": ["10.0.0.0/8"],
        },
        federatesWith=[{"trustDomain": "other.example", "bundleEndpoint": {"url": "https://o.example/b"}}],
        jwt={"rotateEvery": "720h"},
        crl={"duration": "72h"},
    ),
    "VaultConnection": vault_connection_body(tls={"serverName": "a"}, limits={"requestsInFlight": 8}),
    "AccessPolicy": access_policy_body(selector={"matchExpressions": [{"key": "a", "operator": "Exists"}]}),
}


def review(which: str, new: Any, old: Any = None, **request: Any) -> dict[str, Any]:
    asked = {
        "uid": "asked-1",
        "kind": {"group": "serviceidentity.dev", "version": "v1alpha1", "kind": which},
        "operation": "CREATE" if old is None else "UPDATE",
        "name": new["metadata"]["name"] if isinstance(new, dict) and "metadata" in new else "",
        "object": new,
        "oldObject": old,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked | request}


def ask(document: Any) -> dict[str, Any]:
    found = json.loads(admission.answer(json.dumps(document).encode(), READERS))
    assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    return dict(found["response"])


def broken(name: str = "payments") -> dict[str, Any]:
    return access_policy_body(name, rules=[{"name": "late", "effect": "Deny", "expression": "principle.roles"}])


BAD: list[tuple[str, dict[str, Any]]] = [
    ("AccessPolicy", broken()),
    ("AccessPolicy", access_policy_body(timeZone="Europe/Atlantis")),
    ("AccessPolicy", access_policy_body(roles=[{"name": "a", "permissions": ["orders:*:read"]}])),
    ("ServiceIdentity", identity_body({"certificate": {}, "hmac": {"rotateEvery": "1h"}})),
    ("TrustDomain", trust_domain_body(policy={"rules": [{"name": "r", "expression": "objekt.a"}]})),
    ("VaultConnection", vault_connection_body(address="vault.example")),
]


@pytest.mark.parametrize(("kind", "body"), BAD, ids=[f"{n}-{kind}" for n, (kind, _) in enumerate(BAD)])
def test_it_is_refused_in_the_words_of_the_condition(kind: str, body: dict[str, Any]):
    with pytest.raises(InvalidSpecError) as told:
        READERS[kind](body)
    found = ask(review(kind, body))
    assert (found["uid"], found["allowed"]) == ("asked-1", False)
    status = found["status"]
    assert (status["message"], status["code"], status["reason"]) == (str(told.value), 422, "Invalid")
    (cause,) = status["details"]["causes"]
    assert (cause["reason"], cause["field"]) == ("InvalidSpec", told.value.path)
    assert f"{cause['field']}: {cause['message']}" == str(told.value)
    assert (status["details"]["kind"], status["details"]["name"]) == (kind, body["metadata"]["name"])


def test_a_bad_expression_names_its_rule():
    message = ask(review("AccessPolicy", broken()))["status"]["message"]
    assert message.startswith("spec.rules[0].expression: rule late: there is no variable principle, only principal,")


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_what_can_be_understood_is_let_through(kind: str):
    assert ask(review(kind, BODIES[kind])) == {"uid": "asked-1", "allowed": True}


def test_an_update_that_leaves_the_spec_as_it_was_is_let_through():
    old, new = broken(), broken()
    new["metadata"] |= {"finalizers": [], "annotations": {"a": "b"}}
    new["status"] = {"observedGeneration": 1}
    assert ask(review("AccessPolicy", new, old))["allowed"]


def test_an_update_that_repairs_is_let_through_and_one_that_leaves_it_broken_is_not():
    still = broken()
    still["spec"]["services"] = [{"name": "another"}]
    assert ask(review("AccessPolicy", access_policy_body(), broken()))["allowed"]
    assert not ask(review("AccessPolicy", still, broken()))["allowed"]
    assert not ask(review("AccessPolicy", broken(), access_policy_body()))["allowed"]


def test_what_is_being_deleted_is_let_through():
    going = broken()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert ask(review("AccessPolicy", going, access_policy_body()))["allowed"]


@pytest.mark.parametrize(
    "other",
    [
        {"operation": "DELETE", "object": None},
        {"operation": "CONNECT"},
        {"subResource": "status"},
        {"kind": {"group": "apps", "version": "v1", "kind": "AccessPolicy"}},
        {"kind": {"group": "serviceidentity.dev", "version": "v9", "kind": "AccessPolicy"}},
        {"kind": {"group": "serviceidentity.dev", "version": "v1alpha1", "kind": "Unknown"}},
    ],
    ids=str,
)
def test_what_is_not_ours_to_judge_is_let_through(other: dict[str, Any]):
    assert ask(review("AccessPolicy", broken(), **other))["allowed"]


NONSENSE = [
    b"", b"null", b"[]", b"{}", b"\xff", b"nonsense", b"[" * 100_000, b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    json.dumps(review("AccessPolicy", broken()) | {"apiVersion": "admission.k8s.io/v1beta1"}).encode(),
    json.dumps(review("AccessPolicy", broken()) | {"kind": "ConversionReview"}).encode(),
    json.dumps(review("AccessPolicy", broken()) | {"request": None}).encode(),
    json.dumps(review("AccessPolicy", broken(), uid="")).encode(),
    json.dumps(review("AccessPolicy", broken(), uid=7)).encode(),
    json.dumps(review("AccessPolicy", broken(), uid="u" * 1000)).encode(),
    json.dumps(review("AccessPolicy", None)).encode(),
    json.dumps(review("AccessPolicy", {"spec": {}})).encode(),
    json.dumps(review("AccessPolicy", broken())).replace('"asked-1"', "NaN").encode(),
]  # fmt: skip


@pytest.mark.parametrize("text", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_no_review_and_is_not_quoted(text: bytes):
    with pytest.raises(MalformedError) as told:
        admission.answer(text, READERS)
    assert "principle" not in str(told.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from(["24h", "-1h", "*", "a:b", "{{ a", "Never", "UTC", "now.hours"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A review of a valid object in which one place, wherever it is, holds something else."""
    kind = draw(st.sampled_from(sorted(BODIES)))
    document = review(kind, copy.deepcopy(BODIES[kind]), draw(st.sampled_from([None, {"spec": {}}])))
    at: Any = document if draw(st.integers(0, 3)) == 0 else document["request"]["object"]["spec"]
    while True:
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if isinstance(at[key], dict | list) and at[key] and draw(st.booleans()):
            at = at[key]
            continue
        at[key] = draw(JSON)
        return document


@given(damaged() | JSON)
def test_whatever_comes_there_is_an_answer_or_it_is_no_review(document: Any):
    text = json.dumps(document).encode()
    try:
        found = json.loads(admission.answer(text, READERS))["response"]
    except MalformedError:
        return
    assert found["uid"] == document["request"]["uid"]
    assert found["allowed"] is ("status" not in found)
    if not found["allowed"]:
        assert len(found["status"]["message"]) < 2000
