"""What is committed for a cluster agrees with itself and with what the services read."""

import ast
from pathlib import Path

import pytest
import yaml

from examples.shop.services.errors import SettingsError
from examples.shop.services.migrations import SCHEMAS
from examples.shop.services.settings import NEEDED, read_settings
from serviceidentity.cli import policy
from serviceidentity.cli.main import main
from tests.unit.shop.world import CALLS, MANIFESTS, SERVICES

SHOP = Path(__file__).parents[3] / "examples" / "shop"
ID = "spiffe://shop.example/ns/shop/sa/"


def documents(service):
    """Return a service's objects by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((MANIFESTS / f"{service}.yaml").read_text())}


def containers(service):
    pod = documents(service)["Deployment"]["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def env_of(container):
    return {one["name"]: one.get("value", "from the Pod") for one in container["env"]}


def test_the_cases_of_the_policies_hold(capsys):
    arguments = ["policy", "test", str(MANIFESTS / "access-policies.yaml"), "--cases", str(SHOP / "cases.yaml")]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0, capsys.readouterr().out


def test_every_rule_decides_a_case():
    known = policy.read_policies(policy._documents(MANIFESTS / "access-policies.yaml"), "")
    cases = policy.read_cases(policy._documents(SHOP / "cases.yaml"), "")
    decided = {policy.evaluate(known, case.question, case.now) for case in cases}
    assert {(one.name, rule.name) for one in known for rule in one.rules} == {
        (one.policy, one.rule) for one in decided if one.rule
    }


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_finds_all_its_settings_in_the_manifest(service):
    container = containers(service)[-1]
    short = container["args"][0]
    settings = read_settings(short, env_of(container))
    assert all(getattr(settings, name) for name in NEEDED[short])
    unknown = {name for name in env_of(container) if name.startswith("SHOP_")}
    assert unknown == {f"SHOP_{name.upper()}" for name in NEEDED[short]}


@pytest.mark.parametrize("service", SERVICES)
def test_every_path_of_a_setting_is_mounted(service):
    for container in containers(service):
        mounted = {one["mountPath"] for one in container["volumeMounts"]}
        paths = {value for value in env_of(container).values() if value.startswith("/")}
        assert paths <= mounted and mounted - paths <= {"/database-ca"}
        pod = documents(service)["Deployment"]["spec"]["template"]["spec"]
        assert {one["name"] for one in container["volumeMounts"]} <= {one["name"] for one in pod["volumes"]}


@pytest.mark.parametrize("service", SERVICES)
def test_who_may_call_is_the_same_everywhere(service):
    """The keyring, the SPIFFE IDs, the network, and the keys that callers hand out."""
    callers = sorted(caller for caller, called in CALLS.items() if service in called)
    identity = documents(service)["ServiceIdentity"]["spec"]
    assert sorted(one["name"] for one in identity.get("callers", [])) == callers
    told = env_of(containers(service)[-1]).get("SHOP_CALLERS", "").split()
    assert sorted(told) == [ID + caller for caller in callers]
    for caller in callers:
        assert {"name": service} in documents(caller)["ServiceIdentity"]["spec"]["hmac"]["verifiers"]
    (rule,) = documents(service)["NetworkPolicy"]["spec"]["ingress"]
    let_in = [one["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for one in rule.get("from", [])]
    assert sorted(let_in) == callers


@pytest.mark.parametrize("short", sorted(SCHEMAS))
def test_the_migrations_grant_rights_to_the_role_of_the_service(short):
    folder = SHOP / "services" / short / "migrations"
    text = "".join(one.read_text() for one in sorted(folder.iterdir()))
    assert f"GRANT USAGE ON SCHEMA {SCHEMAS[short]} TO {short}_service;" in text


def test_what_is_missing_or_wrong_is_named_all_at_once():
    env = env_of(containers("payment-service")[-1])
    env |= {"SHOP_TLS": "", "SHOP_CALLERS": "order-service", "SHOP_DATABASE": "host=db user=x", "SHOP_LOOK_EVERY": "no"}
    with pytest.raises(SettingsError) as refused:
        read_settings("payment", env)
    assert str(refused.value) == "missing or wrong: SHOP_CALLERS, SHOP_DATABASE, SHOP_LOOK_EVERY, SHOP_TLS"


def test_the_services_stand_on_the_sdk_alone():
    for file in (SHOP / "services").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = [one.name for node in nodes if isinstance(node, ast.Import) for one in node.names]
        names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
        tops = {name.split(".")[0] for name in names}
        assert not tops & {"serviceidentity", "kopf", "kubernetes", "tests"}, file
