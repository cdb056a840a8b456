"""Whatever an object says: a spec that every decision can work with, or the field that is wrong."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serviceidentity.adapters.cel import CelCompiler
from serviceidentity.domain import authority, parse, plan, status
from serviceidentity.domain.access.parse import access_policy
from serviceidentity.domain.access.spec import VARIABLES
from serviceidentity.domain.access.status import of_invalid_policy, of_policy
from serviceidentity.domain.credentials import credentials_of
from serviceidentity.domain.credentials.base import Observed
from serviceidentity.domain.material import Held
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import KeyAlgorithm
from serviceidentity.domain.plan import Write
from serviceidentity.domain.vault.connection_parse import vault_connection
from serviceidentity.domain.vault.connection_status import Found, of_connection
from serviceidentity.errors import InvalidSpecError
from tests.unit.access.builders import access_policy_body
from tests.unit.domain.builders import (
    HOUR,
    T0,
    TRUST,
    authorities,
    connection,
    domain,
    identity,
    identity_body,
    issued,
    rendered,
    trust_domain_body,
    vault_connection_body,
)
from tests.unit.domain.json_values import json_values, of_schema

CRDS = Path(__file__).resolve().parents[3] / "crds"
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def schema_of(plural: str, part: str = "spec") -> dict[str, Any]:
    crd = yaml.safe_load((CRDS / f"{plural}.serviceidentity.dev.yaml").read_text())
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part]


IDENTITY, DOMAIN = schema_of("serviceidentities"), schema_of("trustdomains")
CONNECTION = schema_of("vaultconnections")
ACCESS = schema_of("accesspolicies")
FIELDS = sorted({*IDENTITY["properties"], *IDENTITY["properties"]["certificate"]["properties"], "name", "labels"})


@many
@given(of_schema(IDENTITY) | json_values(FIELDS))
def test_any_identity_is_a_spec_or_an_invalid_field(spec):
    try:
        parse.identity({**identity_body(), "spec": spec})
    except InvalidSpecError as error:
        assert error.path.startswith("spec")
        assert str(error).startswith(f"{error.path}: ")


@many
@given(of_schema(DOMAIN) | json_values(sorted(DOMAIN["properties"])))
def test_any_trust_domain_is_a_spec_or_an_invalid_field(spec):
    try:
        parse.trust_domain({**trust_domain_body(), "spec": spec})
    except InvalidSpecError as error:
        assert error.path.startswith("spec")


@many
@given(of_schema(ACCESS) | json_values(sorted(ACCESS["properties"])))
def test_any_access_policy_is_a_spec_or_an_invalid_field(spec):
    try:
        access_policy(access_policy_body() | {"spec": spec}, CelCompiler(VARIABLES))
    except InvalidSpecError as error:
        assert error.path.startswith("spec")
        assert str(error).startswith(f"{error.path}: ")


@many
@given(of_schema(CONNECTION) | json_values(sorted(CONNECTION["properties"])))
def test_any_connection_is_a_spec_or_an_invalid_field(spec):
    try:
        vault_connection(vault_connection_body() | {"spec": spec})
    except InvalidSpecError as error:
        assert error.path.startswith("spec")
        assert str(error).startswith(f"{error.path}: ")


@many
@given(of_schema(IDENTITY, junk=False))
def test_every_decision_can_be_taken_about_a_spec_that_was_understood(spec):
    try:
        asked = parse.identity({**identity_body(), "spec": spec})
    except InvalidSpecError:
        return
    seen = Observed(asked, TRUST)
    for action in plan.plan(seen, T0):
        if not isinstance(action, Write):
            continue
        certificate = asked.certificate
        if certificate is not None and certificate.private_key.profile.algorithm is KeyAlgorithm.RSA:
            continue  # correct as well, and slow
        try:
            rendered(action.credential, seen, action.due, T0, b"password")
        except PkiError as error:
            assert str(error)
    assert plan.deadline(seen, T0) is None
    found = status.of_identity(seen, {}, {}, T0)
    assert len(found["conditions"]) == 1 + len(credentials_of(asked))


@many
@given(of_schema(DOMAIN, junk=False).filter(lambda spec: "RSA" not in str(spec)))
def test_every_decision_can_be_taken_about_a_trust_domain_that_was_understood(spec):
    try:
        asked = parse.trust_domain(trust_domain_body(**spec))
    except InvalidSpecError:
        return
    action = authority.plan(authority.Hierarchy(asked, ()), T0)
    if asked.root_is_elsewhere:
        assert isinstance(action, Held), "nothing is made here in place of what is kept elsewhere"
        return
    try:
        authority.issue(asked, action, None, T0)
    except PkiError as error:
        assert str(error)


def dotted(part: Any) -> str:
    return ".".join(part) if isinstance(part, tuple) else ""


def blocks(schema: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every field that has a default, however deep; not those of list items."""
    found = []
    for name, field in schema.get("properties", {}).items():
        if "default" in field:
            found.append(((*path, name), field["default"]))
        found += blocks(field, (*path, name))
    return found


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return value


def merged(one: Any, other: Any) -> Any:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    return one | {name: merged(one.get(name), value) for name, value in other.items()}


REFERENCE = {"keystorePasswordSecretRef": {"name": "p"}, "privateKey": {}}
ROLLOUT = {"targets": [{"kind": "Deployment", "name": "a"}]}
VAULT = {"secrets": [{"name": "a", "kv": {"path": "a"}}]}
FULL = {"certificate": REFERENCE, "hmac": {}, "jwt": {}, "callers": [{"name": "a"}], "rollout": ROLLOUT, "vault": VAULT}
FULL_DOMAIN: dict[str, Any] = {"bundle": {}, "crl": {}, "jwt": {}, "intermediate": {"vault": {}}}


@pytest.mark.parametrize(("path", "default"), blocks(IDENTITY), ids=dotted)
def test_each_default_of_the_identity_schema_is_the_parsers(path, default):
    assert identity(merged(FULL, nested(path, default))) == identity(FULL)


@pytest.mark.parametrize(("path", "default"), blocks(DOMAIN), ids=dotted)
def test_each_default_of_the_trust_domain_schema_is_the_parsers(path, default):
    full = {"leaves": {"vault": {"role": "services"}}} if path[0] == "leaves" else FULL_DOMAIN
    assert domain(**merged(full, nested(path, default))) == domain(**full)


AUTH: dict[str, Any] = {
    "kubernetes": {},
    "jwt": {"file": "/jwt"},
    "token": {"secretRef": {"name": "a"}},
    "appRole": {"roleID": "a", "secretIDSecretRef": {"name": "a"}},
    "certificate": {"secretName": "a"},
}


@pytest.mark.parametrize(("path", "default"), blocks(CONNECTION), ids=dotted)
def test_each_default_of_the_connection_schema_is_the_parsers(path, default):
    way = path[1] if path[0] == "auth" else "kubernetes"
    full: dict[str, Any] = {"auth": {way: AUTH[way]}}
    if path[0] == "tls":
        full["tls"] = {"caSecretRef": {"name": "a"}}
    assert connection(**merged(full, nested(path, default))) == connection(**full)


@pytest.mark.parametrize(
    "spec",
    [
        {"certificate": {"secretName": "one"}, "hmac": {"secretName": "one"}},
        {"certificate": {"secretName": "order-service-hmac"}, "hmac": {}},
        {"hmac": {"secretName": "order-service-hmac-keyring"}, "callers": [{"name": "a"}]},
        {"certificate": {"secretName": ""}},
        {"hmac": {"secretName": ""}},
    ],
)
def test_each_secret_has_a_name_of_its_own(spec):
    with pytest.raises(InvalidSpecError):
        identity(spec)


def test_there_are_defaults_to_compare():
    assert len(blocks(IDENTITY)) > 10
    assert len(blocks(DOMAIN)) > 6
    assert len(blocks(CONNECTION)) > 9
    assert blocks(ACCESS) == [(("timeZone",), "UTC")]


def test_defaults_that_depend_on_the_name_are_said_in_one_place():
    found = identity(FULL)
    assert found.service_account == found.certificate.common_name == found.hmac.service_id == "order-service"
    assert (found.certificate.secret_name, found.hmac.secret_name) == ("order-service-tls", "order-service-hmac")
    assert found.keyring_secret_name == "order-service-hmac-keyring"


@many
@given(of_schema(IDENTITY, junk=False), st.booleans())
def test_a_status_has_only_what_its_schema_knows(spec, ready):
    try:
        asked = parse.identity({**identity_body(), "spec": spec})
    except InvalidSpecError as error:
        found = status.of_invalid(parse.meta_of(identity_body()), error.path, "x", {}, T0)
    else:
        seen = Observed(asked, TRUST if ready else Held("TrustDomainNotFound", "gone"))
        found = status.of_identity(seen, {}, {}, T0)
    assert unknown(found, schema_of("serviceidentities", "status")) == []


def test_the_status_of_everything_at_once_has_only_what_its_schema_knows():
    seen = issued(FULL | {"certificate": {}})
    owner_meta = replace(seen.identity.meta, annotations={"serviceidentity.dev/rotate": "1"})
    found = status.of_identity(seen, {}, {}, T0)
    found |= {"backoff": status._backoff([status.Failure("Conflict", "x")], {}, owner_meta, T0)}
    assert {"certificate", "hmac", "keyring", "spiffeID", "nextActionTime"} <= found.keys()
    assert unknown(found, schema_of("serviceidentities", "status")) == []
    owner = domain()
    found = status.of_trust_domain(authority.Hierarchy(owner, authorities(owner)), None, T0, {}, T0)
    assert unknown(found, schema_of("trustdomains", "status")) == []


def test_the_status_of_a_connection_has_only_what_its_schema_knows():
    meta = parse.meta_of(vault_connection_body())
    found = of_connection(meta, Found(None, "2.7.2", False, True, HOUR), {}, T0)
    assert {"version", "sealed", "tokenTTL"} <= found.keys()
    assert set(status.CONNECTION_FIELDS) <= found.keys()
    assert unknown(found, schema_of("vaultconnections", "status")) == []


def test_the_status_of_an_access_policy_has_only_what_its_schema_knows():
    meta = parse.meta_of(access_policy_body())
    found = of_policy(meta, {"a": None, "b": Held("Suspended", "it is suspended")}, ["c"], {}, T0)
    assert set(status.POLICY_FIELDS) <= found.keys()
    assert unknown(found, schema_of("accesspolicies", "status")) == []
    assert unknown(of_invalid_policy(meta, "spec.rules: x", found, T0), schema_of("accesspolicies", "status")) == []


def unknown(value: Any, schema: dict[str, Any], path: str = "status") -> list[str]:
    """Where a value is not of its schema: the API server would drop or refuse it."""
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        missing = [f"{path}.{name} is required" for name in schema.get("required", []) if name not in value]
        return missing + [
            problem
            for name, item in value.items()
            for problem in (unknown(item, fields[name], f"{path}.{name}") if name in fields else [f"{path}.{name}"])
        ]
    if isinstance(value, list):
        return [p for n, item in enumerate(value) for p in unknown(item, schema["items"], f"{path}[{n}]")]
    kinds = {"string": str, "integer": int, "boolean": bool}
    return [] if isinstance(value, kinds[schema["type"]]) else [f"{path} is no {schema['type']}"]


@pytest.mark.parametrize(("ttl", "interval", "ok"), [("15m", "4m", True), ("15m", "5m", False), ("30m", None, False)])
def test_a_workload_that_reads_a_token_once_is_restarted_before_the_token_ends(ttl, interval, ok):
    rollout = {"targets": [{"kind": "Deployment", "name": "orders"}], "credentials": ["Tokens"]}
    rollout |= {"minInterval": interval} if interval else {}
    tokens = [{"name": "payments", "audiences": ["payment-service"], "ttl": ttl}]
    spec = {"jwt": {"signingKey": "None", "tokens": tokens}, "rollout": rollout}
    if ok:
        assert identity(spec).rollout is not None
        return
    with pytest.raises(InvalidSpecError) as caught:
        identity(spec)
    assert caught.value.path == "spec.rollout.minInterval"
