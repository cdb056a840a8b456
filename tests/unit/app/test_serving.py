"""What is answered at which path, from what the watches have seen."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from serviceidentity.app.jwt.serving import Serving
from serviceidentity.domain import ownership
from serviceidentity.domain.jwt import documents, jose
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.material import SecretContent, SecretView
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import scenario
from tests.unit.domain.builders import trust_domain_body

KEY = jose.public_jwk(jose.make_key(Algorithm.ES256)[1])
OTHER = jose.public_jwk(jose.make_key(Algorithm.ES256)[1])
PRIVATE = json.loads(jose.make_key(Algorithm.ES256)[1].reveal())
IDENTITY = "/default/identities/shop/order-service/jwks.json"


def config_map(namespace: str, name: str, data: Mapping[str, bytes], version: int = 500, **labels: str) -> SecretView:
    content = SecretContent.of("", data, {})
    ours = {ownership.MANAGED_BY_LABEL: ownership.MANAGED_BY, **labels}
    return SecretView(namespace, name, f"uid-{namespace}-{name}", version, "", ours, {}, (), content.data)


def jwks(*keys: Mapping[str, Any]) -> bytes:
    return documents.jwks(keys)


def publish(world: World, *keys: Mapping[str, Any], version: int = 500) -> SecretView:
    view = config_map("system", "serviceidentity-jwks", {"default.json": jwks(*keys)}, version)
    world.engine.inventory.put_config_map(view)
    return view


def publish_identity(
    world: World, *keys: Mapping[str, Any], owner: str = "order-service", **changes: Any
) -> SecretView:
    view = config_map("shop", "order-service-jwks", {"jwks.json": jwks(*keys)}, **{ownership.IDENTITY_LABEL: owner})
    view = replace(view, **changes)
    world.engine.inventory.put_config_map(view)
    return view


def serving(world: World, *, complete: bool = True) -> Serving:
    return world.engine.serving(lambda: complete)


def get(world: World, path: str) -> tuple[int, Any]:
    found = serving(world).answer(path)
    return found.status, json.loads(found.body) if found.status == 200 else None


@scenario
async def test_the_keys_of_a_trust_domain_are_served_with_a_tag_and_an_age(world: World):
    publish(world, KEY)
    found = serving(world).answer("/default/jwks.json")
    assert json.loads(found.body) == {"keys": [KEY]}
    assert found.headers["Content-Type"] == "application/jwk-set+json"
    assert found.headers["Cache-Control"] == "public, max-age=300"
    again = serving(world).answer("/default/jwks.json", found.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    assert again.headers["ETag"] == found.headers["ETag"]
    publish(world, KEY, OTHER, version=501)
    changed = serving(world).answer("/default/jwks.json", found.headers["ETag"])
    assert (changed.status, json.loads(changed.body)) == (200, {"keys": [KEY, OTHER]})


@scenario
async def test_discovery_leads_to_the_keys(world: World):
    publish(world, KEY)
    status, found = get(world, "/default/.well-known/openid-configuration")
    assert (status, found["issuer"]) == (200, "https://serviceidentity-jwks.system.svc/default")
    assert found["jwks_uri"] == "https://serviceidentity-jwks.system.svc/default/jwks.json"


@scenario
async def test_a_bundle_has_the_roots_and_the_keys_of_tokens(world: World):
    status, found = get(world, "/default/bundle.json")
    assert (status, [key["use"] for key in found["keys"]]) == (200, ["x509-svid"])
    publish(world, KEY)
    _, found = get(world, "/default/bundle.json")
    assert [key["use"] for key in found["keys"]] == ["x509-svid", "jwt-svid"]


@scenario
async def test_it_is_ready_when_everything_was_read_and_says_so_each_time(world: World):
    for if_none_match in (None, "", "*", '"a"'):
        assert serving(world).answer("/healthz", if_none_match).status == 200


@scenario
async def test_before_everything_was_read_nothing_is_told(world: World):
    publish(world, KEY)
    for path in ("/healthz", "/default/jwks.json", "/default/bundle.json", "/nowhere"):
        found = serving(world, complete=False).answer(path)
        assert (found.status, found.headers["Retry-After"]) == (503, "5")


@scenario
async def test_keys_that_are_to_come_are_not_known_yet_and_those_that_nobody_asked_for_not_found(world: World):
    assert get(world, "/default/jwks.json")[0] == 404
    world.engine.inventory.put_trust_domain(
        {
            **trust_domain_body(jwt={}),
            "metadata": trust_domain_body()["metadata"] | {"generation": 2, "resourceVersion": "900"},
        }
    )
    assert get(world, "/default/jwks.json")[0] == 503
    assert get(world, "/default/.well-known/openid-configuration")[0] == 503


@pytest.mark.parametrize(
    "path",
    ["", "/", "//", "/default", "/default/", "/default/jwks.json/", "/default//jwks.json", "/other/jwks.json", "/healthz/",
     "/default/../default/jwks.json", "/default/%6awks.json", "/DEFAULT/jwks.json", "/default/identities/shop/other/jwks.json",
     "/default/federation/partner.example/bundle.json", "/default/.well-known/", "/" + "a" * 5000, "/default/jwks.json\x00"],
)  # fmt: skip
@scenario
async def test_any_other_path_is_not_found(world: World, path: str):
    publish(world, KEY)
    assert serving(world).answer(path).status == 404


@scenario
async def test_a_set_with_a_private_key_is_never_served(world: World):
    publish(world, KEY, PRIVATE)
    for path in ("/default/jwks.json", "/default/bundle.json", "/default/.well-known/openid-configuration"):
        found = serving(world).answer(path)
        assert found.status == 503
        assert PRIVATE["d"].encode() not in found.body


def test_what_can_not_be_served_is_logged_once(caplog: pytest.LogCaptureFixture):
    @scenario
    async def ask(world: World):
        answers = serving(world)
        for version, key, status in ((500, PRIVATE, 503), (501, KEY, 200), (502, PRIVATE, 503)):
            publish(world, key, version=version)
            assert {answers.answer("/default/jwks.json").status for _ in range(3)} == {status}

    ask()
    said = [record.getMessage() for record in caplog.records if "can't be served" in record.getMessage()]
    assert len(said) == 2
    assert PRIVATE["d"] not in "".join(said)


@scenario
async def test_the_keys_of_an_identity_are_its_own(world: World):
    world.apply({"jwt": {}})
    assert get(world, IDENTITY)[0] == 503  # asked for, and not there yet
    publish_identity(world, OTHER)
    publish(world, KEY)
    assert get(world, IDENTITY) == (200, {"keys": [OTHER]})
    assert get(world, "/default/jwks.json") == (200, {"keys": [KEY]})  # it could sign as anybody else


@scenario
async def test_a_config_map_of_somebody_else_speaks_for_nobody(world: World):
    world.apply({"jwt": {}})
    publish_identity(world, OTHER, owner="another-service")
    assert get(world, IDENTITY)[0] == 503


@scenario
async def test_who_is_kept_out_by_the_policy_is_not_served_under_the_trust_domains_address(world: World):
    world.apply({"jwt": {}})
    publish_identity(world, OTHER)
    body = trust_domain_body(policy={"namespaces": {"selector": {"matchLabels": {"trusted": "yes"}}}})
    body["metadata"] |= {"generation": 2, "resourceVersion": "900"}
    world.engine.inventory.put_trust_domain(body)
    assert get(world, IDENTITY)[0] == 503
    shop = {"name": "shop", "resourceVersion": "9000"}
    world.engine.inventory.put_namespace({"metadata": shop})
    assert get(world, IDENTITY)[0] == 404
    world.engine.inventory.put_namespace({"metadata": shop | {"resourceVersion": "9001", "labels": {"trusted": "yes"}}})
    assert get(world, IDENTITY) == (200, {"keys": [OTHER]})


@scenario
async def test_an_identity_without_a_key_or_of_another_trust_domain_is_not_found(world: World):
    world.apply({"certificate": {}})
    publish_identity(world, OTHER)
    assert get(world, IDENTITY)[0] == 404
    world.apply({"jwt": {}, "trustDomainRef": {"name": "other"}}, generation=2)
    assert get(world, IDENTITY)[0] == 404


@scenario
async def test_what_is_gone_is_not_served(world: World):
    view = publish(world, KEY)
    world.engine.inventory.drop_config_map("system", view.name, "another-uid")
    assert get(world, "/default/jwks.json")[0] == 200
    world.engine.inventory.drop_config_map("system", view.name, view.uid)
    assert get(world, "/default/jwks.json")[0] == 404


@scenario
async def test_a_deletion_that_no_watch_told_is_found_by_the_next_comparison(world: World):
    publish(world, KEY)
    inventory = world.engine.inventory
    inventory.expect_lists()
    inventory.resync([], [], [trust_domain_body()], world.api.stored.values(), lambda _: 10_000, [])
    assert get(world, "/default/jwks.json")[0] == 404


@scenario
async def test_an_older_version_brings_no_key_back(world: World):
    publish(world, KEY, version=600)
    publish(world, OTHER, version=500)
    assert get(world, "/default/jwks.json") == (200, {"keys": [KEY]})


@scenario
async def test_an_edit_that_can_not_be_understood_takes_no_keys_away(world: World):
    publish(world, KEY)
    body = trust_domain_body(jwt={"rotateEvery": "1s"})
    body["metadata"] |= {"generation": 2, "resourceVersion": "900"}
    world.engine.inventory.put_trust_domain(body)
    found = serving(world).answer("/default/jwks.json")
    assert (found.status, found.headers["Cache-Control"]) == (200, "public, max-age=60")
    assert get(world, "/default/.well-known/openid-configuration")[0] == 503


@scenario
async def test_serving_writes_nothing(world: World):
    publish(world, KEY)
    get(world, "/default/bundle.json")
    assert not world.api.writes
