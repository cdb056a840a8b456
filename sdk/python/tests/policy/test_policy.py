"""Policies in a service: read and verified, decided as the operator's command line decides, and never lost."""

import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from sdk.python.tests.policy.signing import bundle, key_set, make_key, policy, signed
from serviceidentity_sdk.authz import protect
from serviceidentity_sdk.credentials import CredentialError, Directory, Watch
from serviceidentity_sdk.policy import PolicyEngine, reader
from serviceidentity_sdk.policy.bundle import read_bundle
from serviceidentity_sdk.policy.guards import authorize_action, require
from serviceidentity_sdk.principal import Kind, Principal, attach
from serviceidentity_sdk.source import Fixed

CASES = json.loads((Path(__file__).parents[4] / "tests/unit/access/decisions.json").read_text())
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
KEY, JWKS = make_key()
OTHER_KEY, OTHER_JWKS = make_key()
ALICE = Principal(Kind.TOKEN, "alice", roles=frozenset({"customer"}))
PERMITTED = policy(("Allow", "principal.permitted"), roles=[{"name": "customer", "permissions": ["orders:*"]}])


def read(*policies):
    return read_bundle(signed(KEY, bundle(*policies)), key_set(JWKS), "shop/orders")


def principal_of(given):
    if given is None or not given["subject"]:
        return None
    sets = (frozenset(given["roles"]), frozenset(given["permissions"]))
    return Principal(Kind(given["kind"]), given["subject"], given["spiffeID"] or None, *sets, given["claims"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_it_decides_as_the_command_line_does(case):
    now = datetime.fromisoformat(case["now"])
    found = read(*case["policies"]).decide(
        principal_of(case["principal"]), case["action"], case["resource"], case["context"], now=now
    )
    assert {
        "allowed": found.allowed,
        "reason": found.reason,
        "policy": found.policy,
        "rule": found.rule,
        "continued": list(found.continued),
    } == case["expect"]


def test_what_no_json_has_denies():
    found = read(policy(("Allow", "true"))).decide(ALICE, "a", {"x": object()}, now=NOW)
    assert (found.allowed, found.reason) == (False, "rule r0 could not be evaluated")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (signed(OTHER_KEY, bundle()), "not signed with a key of the trust domain"),
        (signed(KEY, bundle(), "JWT"), "not signed with a key of the trust domain"),
        (signed(KEY, bundle())[:-8] + "AAAAAAAA", "not signed with a key of the trust domain"),
        ("nonsense", "not signed with a key of the trust domain"),
        (signed(KEY, bundle(service="shop/payments")), "the bundle of another service"),
        (signed(KEY, bundle(version=2)), "a version that is not known here"),
        (signed(KEY, {"version": 1}), "no bundle of policies"),
        (signed(KEY, bundle(policy(("Allow", "a ==")))), "an expression can't be compiled"),
        (signed(KEY, bundle(policy(("Permit", "true")))), "an effect that is not known here"),
        (signed(KEY, bundle(policy(zone="Mars/Olympus"))), "a time zone is not known here"),
    ],
)
def test_what_is_not_read(text, said):
    with pytest.raises(ValueError, match=said):
        read_bundle(text, key_set(JWKS), "shop/orders")


def test_a_large_bundle_is_read():
    rules = [("Deny", f"action == '{'x' * 900}{i}'") for i in range(64)]
    found = read(*[policy(*rules, name=f"p{i}") for i in range(5)])
    assert len(signed(KEY, bundle(*[policy(*rules, name=f"p{i}") for i in range(5)]))) > 300_000
    assert not found.decide(ALICE, "a", now=NOW).allowed


@pytest.fixture
def mounted(tmp_path):
    """Return directories as the operator's ConfigMaps are mounted, and what writes into them."""
    for name in ("policy", "trust"):
        (tmp_path / name).mkdir()

    def write(text, jwks=JWKS):
        for file, content in (("trust/jwks.json", jwks), ("policy/policy.jws", text)):
            (tmp_path / f"{file}.new").write_text(content)
            (tmp_path / f"{file}.new").replace(tmp_path / file)

    return [Directory(tmp_path / "policy"), Directory(tmp_path / "trust")], write


def test_new_rules_are_followed_and_bad_ones_change_nothing(mounted, caplog):
    directories, write = mounted
    write(signed(KEY, bundle(policy(("Deny", "true")))))
    watch = Watch(directories, reader("shop/orders"))
    engine = PolicyEngine(watch, clock=lambda: NOW)
    assert not engine.decide(ALICE, "orders:read").allowed
    write(signed(KEY, bundle(PERMITTED, digest="sha256:2")))
    assert watch.check()
    assert engine.decide(ALICE, "orders:read").allowed
    for bad in (
        signed(OTHER_KEY, bundle(policy(("Allow", "true")), digest="sha256:3")),
        signed(KEY, bundle(policy(("Allow", "true")), service="shop/other", digest="sha256:3")),
        "",
    ):
        write(bad)
        assert not watch.check()
        assert watch.state.error is not None
        assert not engine.decide(ALICE, "payments:create").allowed
        assert engine.decide(ALICE, "orders:read").allowed
    write(signed(OTHER_KEY, bundle(PERMITTED, digest="sha256:2")), OTHER_JWKS)
    watch.check()
    assert watch.state.error is None, "another key of the trust domain signs the same rules"


def test_without_a_good_bundle_a_service_does_not_start(mounted):
    directories, write = mounted
    write(signed(OTHER_KEY, bundle()))
    with pytest.raises(CredentialError, match="not signed with a key"):
        Watch(directories, reader("shop/orders"))
    write(signed(KEY, bundle()), "{}")
    with pytest.raises(CredentialError, match="no JWK Set"):
        Watch(directories, reader("shop/orders"))


def test_a_service_has_a_namespace():
    with pytest.raises(ValueError, match="<namespace>/<name>"):
        reader("orders")


def test_each_decision_is_told_and_the_resource_is_not(caplog):
    told = []
    engine = PolicyEngine(Fixed(read(PERMITTED)), on_decision=lambda *one: told.append(one), clock=lambda: NOW)
    caplog.set_level(logging.DEBUG, "serviceidentity_sdk.policy")
    engine.decide(ALICE, "orders:read", {"card": "4111"})
    engine.decide(ALICE, "payments:create")
    engine.decide(None, "orders:read")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", "allowed: 'orders:read' for 'alice' by p/r0: rule r0"),
        ("INFO", "denied: 'payments:create' for 'alice' by None: No matching policy"),
        ("INFO", "denied: 'orders:read' for None by None: Not authenticated"),
    ]
    assert [(who, action, decision.allowed) for who, action, decision in told] == [
        (ALICE, "orders:read", True),
        (ALICE, "payments:create", False),
        (None, "orders:read", False),
    ]


def known(app):
    """Let requests with `X-User` be of that user."""

    async def asking(scope, receive, send):
        user = dict(scope.get("headers", ())).get(b"x-user")
        if user:
            attach(scope, Principal(Kind.TOKEN, user.decode()))
        await app(scope, receive, send)

    return asking


OWNER = policy(("Allow", "has(resource.owner) && principal.subject == resource.owner"))


def test_fastapi():
    engine = PolicyEngine(Fixed(read(OWNER)), clock=lambda: NOW)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    protect(app)

    @app.get("/orders/{owner}", dependencies=[Depends(authorize_action(engine, "orders:read"))])
    def orders(owner: str) -> str:
        return owner

    client = TestClient(known(app))
    assert client.get("/orders/alice", headers={"X-User": "alice"}).status_code == 200
    refused = client.get("/orders/alice", headers={"X-User": "bob"})
    assert (refused.status_code, refused.json()) == (
        403,
        {"error": "Denied by policy", "reason": "No matching policy"},
    )
    assert client.get("/orders/alice").status_code == 401


def test_starlette_with_facts_of_the_request_and_with_what_was_loaded():
    engine = PolicyEngine(Fixed(read(OWNER)), clock=lambda: NOW)

    @authorize_action(engine, "orders:read", resource=lambda request: {"owner": request.query_params.get("owner")})
    async def listed(request):
        return PlainTextResponse("listed")

    @authorize_action(engine, "orders:read", resource=lambda request: {"owner": request.headers["x-user"]})
    async def loaded(request):
        require(engine, request, "orders:delete", {"owner": "alice"})
        return PlainTextResponse("loaded")

    app = Starlette(routes=[Route("/listed", listed), Route("/loaded", loaded)])
    protect(app)
    client = TestClient(known(app))
    assert client.get("/listed?owner=alice", headers={"X-User": "alice"}).text == "listed"
    assert client.get("/listed?owner=alice", headers={"X-User": "bob"}).status_code == 403
    assert client.get("/loaded", headers={"X-User": "alice"}).text == "loaded"
    assert client.get("/loaded", headers={"X-User": "bob"}).json()["reason"] == "No matching policy"


def test_the_documented_lines(mounted):
    directories, write = mounted
    write(signed(KEY, bundle(OWNER, service="shop/order-service")))
    page = (Path(__file__).parents[4] / "docs/sdk/policy.md").read_text()
    lines = re.search("```python\n(.*?)```", page, re.DOTALL)[1]
    for directory, name in zip(directories, ("policy", "trust"), strict=True):
        lines = lines.replace(f"/identity/{name}", directory.path)
    namespace = {}
    exec(lines, namespace)  # as it is written
    namespace["watch"].stop()
    client = TestClient(known(namespace["app"]))
    assert client.get("/orders/alice", headers={"X-User": "alice"}).json() == "alice"
    assert client.get("/orders/alice", headers={"X-User": "bob"}).status_code == 403
