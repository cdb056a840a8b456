"""What a careful reader found by using it."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from serviceidentity.domain import hmac_ring
from serviceidentity.domain.model import trust_domain_key
from serviceidentity.domain.schedule import parse_time
from serviceidentity.errors import ConflictError, RejectedError
from tests.unit.app.scenarios import HMAC, TLS, edit, restarted, scenario, tell
from tests.unit.domain.builders import HOUR, T0

ADOPT = "serviceidentity.dev/adopt"
LABEL = "app.kubernetes.io/managed-by"


def services(world, verifier="verifier"):
    return json.loads(world.api.stored["shop", f"{verifier}-hmac-keyring"].value("keyring.json"))["services"]


def ring(world, name="order-service-hmac"):
    return hmac_ring.from_json(world.api.stored["shop", name].value("keys.json"))


@scenario
async def test_a_secret_of_someone_else_is_adopted_when_it_says_so(world):
    first = world.apply({"certificate": {}}, name="first", uid="u-first")
    await world.settle()
    view = replace(world.api.stored["shop", "first-tls"], name=TLS[1], uid="u-9", labels={}, owners=(), annotations={})
    world.api.stored[TLS] = view
    key = world.apply({"certificate": {}})
    await world.settle()
    assert world.ready(key) == ("False", "Conflict")
    world.api.version += 1
    world.api.stored[TLS] = replace(view, annotations={ADOPT: "order-service"}, resource_version=world.api.version)
    world.apply({"certificate": {}}, generation=2)
    await world.settle()
    assert world.ready(key) == ("True", "Ready")
    assert world.ready(first) == ("True", "Ready")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"hmac": {}}, {"certificate": {"secretName": "order-service-hmac"}}),
        (
            {"hmac": {"secretName": "one"}, "certificate": {"secretName": "two"}},
            {"hmac": {"secretName": "two"}, "certificate": {"secretName": "one"}},
        ),
    ],
    ids=["another credential", "swapped"],
)
@scenario
async def test_a_secret_can_become_that_of_another_credential(world, before, after):
    key = world.apply(before)
    await world.settle()
    world.apply(after, generation=2)
    await world.settle()
    assert world.ready(key) == ("True", "Ready")
    assert world.engine.counters.failing == {}


@scenario
async def test_an_identity_may_verify_its_own_requests(world):
    world.apply({"hmac": {"verifiers": [{"name": "order-service"}]}, "callers": [{"name": "*"}]})
    await world.settle()
    (entry,) = services(world, "order-service").values()
    assert {key["kid"] for key in entry["keys"]} == ring(world).key_ids


@scenario
async def test_a_failure_is_tried_again_several_times_before_the_certificate_ends(world):
    key = world.apply({"certificate": {"duration": "24h", "renewBefore": "8h"}})
    await world.settle()
    ends = T0 + 24 * HOUR
    world.now = T0 + 16 * HOUR
    attempts = 0
    while world.now < ends:
        world.api.failures = [RejectedError("rights")]
        await world.settle()
        world.api.failures.clear()
        assert world.ready(key) == ("False", "Rejected")
        attempts += 1
        world.now = parse_time(world.status(key)["backoff"]["nextAttemptTime"])
    assert attempts > 12
    await world.settle()
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_a_rotation_that_is_asked_for_ends_a_backoff(world):
    world.api.failures = [RejectedError("rights")]
    key = world.apply({"certificate": {}})
    await world.settle()
    assert world.ready(key) == ("False", "Rejected")
    world.apply({"certificate": {}}, annotations={"serviceidentity.dev/rotate": "1"})
    await world.settle()
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_a_missing_keystore_password_is_looked_for_without_writing(world):
    spec = {"certificate": {"outputFormats": ["PKCS12"], "keystorePasswordSecretRef": {"name": "password"}}}
    key = world.apply(spec)
    await world.settle()
    assert world.ready(key) == ("False", "KeystorePasswordMissing")
    world.api.writes.clear()
    for _ in range(5):
        await world.settle(timedelta(seconds=31))
    assert world.api.writes == {}
    content = replace(
        world.api.stored["system", "default-root-1"], namespace="shop", name="password", data={"password": "eHl6MTIz"}
    )
    world.api.stored["shop", "password"] = content
    await world.settle(timedelta(seconds=31))
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_keys_go_on_under_another_secret_name(world):
    world.apply({"callers": [{"name": "order-service"}]}, name="verifier", uid="u-v")
    world.apply({"hmac": {"verifiers": [{"name": "verifier"}]}})
    await world.settle()
    before = ring(world).key_ids
    world.apply({"hmac": {"verifiers": [{"name": "verifier"}], "secretName": "renamed"}}, generation=2)
    await world.settle()
    assert ring(world, "renamed").key_ids == before
    assert HMAC not in world.api.stored
    assert {key["kid"] for key in services(world)["order-service"]["keys"]} == before


@scenario
async def test_a_verifier_that_holds_up_a_rotation_is_named(world):
    verifier = {"callers": [{"name": "order-service"}]}
    world.apply(verifier, name="verifier", uid="u-v")
    key = world.apply({"hmac": {"verifiers": [{"name": "verifier"}], "rotateEvery": "1h", "overlap": "10m"}})
    await world.settle()
    before = ring(world).active.key_id
    world.apply(verifier | {"suspend": True}, name="verifier", uid="u-v", generation=2)
    for _ in range(8):
        await world.settle(timedelta(minutes=30))
    assert ring(world).active.key_id == before, "or requests would be refused there"
    message = world.status(key)["conditions"][0]["message"]
    assert "waits for the keyring of ServiceIdentity shop/verifier" in message
    world.apply(verifier, name="verifier", uid="u-v", generation=3)
    for _ in range(4):
        await world.settle(timedelta(minutes=30))
    assert ring(world).active.key_id != before


@scenario
async def test_nobody_takes_over_a_service_id_that_is_in_use(world):
    world.apply({"callers": [{"name": "*"}]}, name="verifier", uid="u-v")
    world.apply({"hmac": {"verifiers": [{"name": "verifier"}]}})
    await world.settle()
    thief = {"hmac": {"serviceID": "order-service", "verifiers": [{"name": "verifier"}]}}
    world.apply(thief, name="aaa", uid="u-a")
    await world.settle()
    assert services(world)["order-service"]["name"] == "order-service"
    again = await restarted(world)
    assert services(again)["order-service"]["name"] == "order-service"


@scenario
async def test_a_suspended_identity_does_not_say_that_all_is_well_when_it_is_not(world):
    key = world.apply({"certificate": {}})
    await world.settle()
    world.apply({"certificate": {}, "suspend": True}, generation=2)
    await world.settle()
    assert world.ready(key) == ("True", "Suspended")
    view = world.api.stored.pop(TLS)
    world.engine.wake(world.engine.inventory.drop_secret(*TLS, view.uid))
    await world.settle()
    assert world.ready(key) == ("False", "Drifted")


@scenario
async def test_one_retry_is_waiting_for_an_object_however_often_it_is_woken(world):
    key = world.apply({"certificate": {}})

    async def broken(*_args):
        raise ConflictError("over and over")

    world.api.create = broken
    world.engine.start()
    for _ in range(20):
        world.engine.wake({key})
        await asyncio.sleep(0.005)
    passes = world.engine.counters.passes
    await asyncio.sleep(0.5)
    assert world.engine.counters.passes - passes <= 2, "each failure adds one more attempt otherwise"
    await world.engine.stop()


@scenario
async def test_a_status_without_conditions_is_written_anew(world):
    key = trust_domain_key("default")
    world.api.objects[key]["status"]["conditions"] = []
    again = await restarted(world)
    assert again.ready(key) == ("True", "Ready")


@scenario
async def test_labels_that_somebody_takes_off_are_put_back(world):
    key = world.apply({"certificate": {}, "deletionPolicy": "Retain"})
    await world.settle()
    before = world.api.stored[TLS].data
    bare = edit(world, TLS, labels={}, annotations={})
    world.engine.wake(world.engine.inventory.drop_secret(*TLS, bare.uid))  # what the watch makes of it
    await world.settle()
    await asyncio.sleep(0.1)  # the name is taken, as it turns out: a retry looks closer
    await world.settle()
    assert world.ready(key) == ("True", "Ready")
    assert world.api.stored[TLS].labels[LABEL]
    assert world.api.stored[TLS].data == before, "not shown: it would print the keys"


@scenario
async def test_what_leaves_the_template_leaves_the_secret(world):
    template = {"labels": {"team": "orders", "tier": "1"}, "annotations": {"note": "x"}}
    world.apply({"certificate": {"secretTemplate": template}})
    await world.settle()
    edit_view = world.api.stored[TLS]
    assert edit_view.labels["team"] == "orders"
    tell(world, edit(world, TLS, labels={**edit_view.labels, "others": "stay"}))
    await world.settle()
    world.apply({"certificate": {"secretTemplate": {"labels": {"tier": "1"}}}}, generation=2)
    await world.settle()
    view = world.api.stored[TLS]
    assert (view.labels.get("team"), view.labels["tier"], view.labels["others"]) == (None, "1", "stay")
    assert "note" not in view.annotations
    assert view.data == edit_view.data, "not shown: it would print the keys"
