"""Secrets of Vault as an identity has them: read once, written when they change, kept while Vault is away."""

import asyncio
import base64
import json
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from itertools import pairwise

import pytest
from cryptography import x509

from serviceidentity.domain.material import Held
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.errors import ForbiddenError, RejectedError, RetryableError
from tests.unit.app.scenarios import edit, passes_when_left_alone, tell
from tests.unit.app.vault_in_memory import ISSUING, ROOT, StaticRole, VaultWorld
from tests.unit.domain.builders import DAY, HOUR, T0, identity
from tests.unit.pki.companies import company, pem

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
STRIPE = ("shop", "order-service-stripe")
EDGE = ("shop", "order-service-edge")
FILES = ("shop", "order-service-files")
AWAY = RetryableError("Vault is sealed, or does not serve now")


def kv(path="api-keys/stripe", name="stripe", **more):
    version = {"version": more.pop("version")} if "version" in more else {}
    return {"name": name, "kv": {"path": path} | version} | more


def of_vault(*entries):
    return {"vault": {"secrets": list(entries)}}


def pki(**more):
    return {"name": "edge", "pki": {"role": "edge", "dnsNames": ["orders.example.org"]} | more}


def transit(**more):
    keys_ = {name: more.pop(name) for name in ("keys", "templates", "type") if name in more}
    return {"name": "files", "transit": {"key": "files"} | more} | keys_


def story(test):
    @wraps(test)
    def run():
        async def inside():
            world = VaultWorld()
            world.vault.kv["secret/api-keys/stripe"] = [{"key": "sk-1", "id": 7}]
            await test(world, world.vault)

        asyncio.run(inside())

    del run.__wrapped__
    return run


def data(world, at=STRIPE):
    view = world.api.stored[at]
    return {name: view.value(name) for name in view.data}


def condition(world, key, type_="VaultReady.stripe"):
    found = {one["type"]: one for one in world.status(key)["conditions"]}
    return found[type_]["status"], found[type_]["reason"]


def told(world, key, type_="VaultReady.stripe"):
    return next(one["message"] for one in world.status(key)["conditions"] if one["type"] == type_)


def of_status(world, key):
    return world.status(key)["vault"][0]


async def at_rest(world, key, span):
    """Nothing is written for so long, though it is looked at."""
    world.api.writes.clear()
    end = world.now + span
    while world.now < end:
        await world.settle(span / 120)
    assert world.api.writes == {}


@story
async def test_two_writes_and_one_read_for_each_and_none_later_or_after_a_restart(world, vault):
    for number in range(20):
        vault.kv[f"secret/apps/{number}"] = [{"key": f"k{number}"}]
        world.apply(of_vault(kv(f"apps/{number}")), name=f"service-{number}", uid=f"uid-{number}")
    await world.settle()
    assert world.api.writes == {"create": 20, "status": 20}
    assert set(vault.asked.values()) == {1}
    assert len(vault.asked) == 20
    await at_rest(world, None, HOUR)
    assert all(12 <= count <= 16 for count in vault.asked.values()), "every five minutes, or a little sooner"
    vault.asked.clear()
    world.api.writes.clear()
    again = await world.restarted()
    assert world.api.writes == {}
    assert set(vault.asked.values()) == {1}
    assert await passes_when_left_alone(again) == 0


@story
async def test_what_is_read_goes_in_as_it_is_and_the_status_names_its_version(world, vault):
    key = world.apply(of_vault(kv()))
    await world.settle()
    assert data(world) == {"key": b"sk-1", "id": b"7"}
    assert world.ready(key) == ("True", "Ready")
    assert of_status(world, key) == {
        "name": "stripe",
        "secretName": "order-service-stripe",
        "source": "KV",
        "path": "secret/api-keys/stripe",
        "version": 1,
    }


@story
async def test_a_new_version_arrives_after_refresh_every_with_one_write_of_each(world, vault):
    key = world.apply(of_vault(kv(refreshEvery="1m")))
    await world.settle()
    world.api.writes.clear()
    vault.kv["secret/api-keys/stripe"].append({"key": "sk-2"})
    await world.settle(30 * SECOND)
    assert data(world)["key"] == b"sk-1"
    await world.settle(30 * SECOND)
    assert data(world) == {"key": b"sk-2"}
    assert world.api.writes == {"replace": 1, "status": 1}
    assert of_status(world, key)["version"] == 2


@story
async def test_a_changed_value_of_an_engine_without_versions_is_one_write(world, vault):
    vault.kv1["legacy/app"] = {"key": "a"}
    key = world.apply(of_vault({"name": "stripe", "kv": {"mount": "legacy", "path": "app"}}))
    await world.settle()
    assert "version" not in of_status(world, key)
    world.api.writes.clear()
    vault.kv1["legacy/app"] = {"key": "b"}
    await world.settle(5 * MINUTE)
    assert data(world) == {"key": b"b"}
    assert world.api.writes == {"replace": 1}


@story
async def test_a_version_with_the_same_content_is_on_record_and_nothing_new_to_consumers(world, vault):
    key = world.apply(of_vault(kv()))
    await world.settle()
    before = world.api.stored[STRIPE].annotations
    vault.kv["secret/api-keys/stripe"].append({"key": "sk-1", "id": 7})
    await world.settle(5 * MINUTE)
    after = world.api.stored[STRIPE].annotations
    assert of_status(world, key)["version"] == 2
    assert after["serviceidentity.dev/consumed-as"] == before["serviceidentity.dev/content-id"]
    await at_rest(world, key, HOUR)


@story
async def test_a_pinned_version_stays(world, vault):
    vault.kv["secret/api-keys/stripe"].append({"key": "sk-2"})
    key = world.apply(of_vault(kv(version=1)))
    await world.settle()
    assert data(world)["key"] == b"sk-1"
    assert of_status(world, key)["version"] == 1
    vault.kv["secret/api-keys/stripe"].append({"key": "sk-3"})
    await at_rest(world, key, HOUR)
    world.apply(of_vault(kv(version=2)), generation=2)
    await world.settle()
    assert data(world) == {"key": b"sk-2"}


@story
async def test_a_pinned_version_of_an_engine_without_versions_is_refused(world, vault):
    vault.kv1["secret/api-keys/stripe"] = {"key": "a"}
    key = world.apply(of_vault(kv(version=1)))
    await world.settle()
    assert condition(world, key) == ("False", "VaultRefused")
    assert STRIPE not in world.api.stored


@story
async def test_keys_and_templates_choose_rename_and_compose(world, vault):
    vault.kv["secret/db"] = [{"username": "shop", "password": "p/w@1", "port": 5432, "unused": "x"}]
    url = "postgresql://{{ username }}:{{ password | urlencode }}@db:{{ port }}/shop"
    world.apply(of_vault(kv("db", keys={"USER": "username"}, templates={"URL": url})))
    await world.settle()
    assert data(world) == {"USER": b"shop", "URL": b"postgresql://shop:p%2Fw%401@db:5432/shop"}


@story
async def test_a_field_that_is_not_there_is_named_and_the_secret_stays(world, vault):
    key = world.apply(of_vault(kv(keys={"KEY": "key"}, templates={"URL": "x{{ id }}"})))
    await world.settle()
    before = data(world)
    vault.kv["secret/api-keys/stripe"].append({"key": "sk-2"})
    await world.settle(5 * MINUTE)
    assert condition(world, key) == ("False", "SecretNotAsExpected")
    assert "'id'" in told(world, key)
    assert world.ready(key) == ("False", "SecretNotAsExpected")
    assert data(world) == before
    assert "sk-2" not in json.dumps(world.status(key))
    await at_rest(world, key, HOUR)
    vault.kv["secret/api-keys/stripe"].append({"key": "sk-3", "id": 8})
    await world.settle(5 * MINUTE)
    assert data(world) == {"KEY": b"sk-3", "URL": b"x8"}
    assert world.ready(key) == ("True", "Ready")


@story
async def test_a_template_that_can_not_be_one_is_an_invalid_spec(world, vault):
    key = world.apply(of_vault(kv(templates={"URL": "{{ key.__class__() }}"})))
    await world.settle()
    assert world.ready(key) == ("False", "InvalidSpec")
    assert told(world, key, "Ready").startswith("spec.vault.secrets[0].templates.URL: ")
    assert vault.asked == {}


@story
async def test_vault_away_keeps_the_secret_says_so_once_and_recovers(world, vault):
    key = world.apply(of_vault(kv()))
    await world.settle()
    before = data(world)
    vault.fails = AWAY
    world.api.writes.clear()
    await world.settle(5 * MINUTE)
    assert condition(world, key) == ("False", "VaultUnavailable")
    assert world.ready(key) == ("False", "VaultUnavailable")
    assert of_status(world, key)["version"] == 1
    assert world.connections.away_for == {"order-service"}
    await at_rest(world, key, HOUR)
    edit(world, STRIPE, {"key": "ZXZpbA=="})
    tell(world, world.api.stored[STRIPE])
    await world.settle()
    assert data(world) == before, "drift is undone meanwhile"
    vault.fails = None
    vault.kv["secret/api-keys/stripe"].append({"key": "sk-2"})
    await world.settle(MINUTE)
    assert data(world) == {"key": b"sk-2"}
    assert world.ready(key) == ("True", "Ready")


@story
async def test_a_restart_with_vault_away_writes_nothing_and_touches_no_secret(world, vault):
    key = world.apply(of_vault(kv(), pki(), transit(rotateEvery="720h")))
    await world.settle()
    before = {at: view.data for at, view in world.api.stored.items()}
    vault.fails = AWAY
    await world.settle(5 * MINUTE)
    world.api.writes.clear()
    again = await world.restarted()
    assert world.api.writes == {}
    assert again.ready(key) == ("False", "VaultUnavailable")
    assert {at: view.data for at, view in world.api.stored.items()} == before
    assert condition(again, key, "VaultReady.edge") == ("True", "Issued"), "what was made is good without Vault"


@story
async def test_a_connection_that_may_not_be_used_is_told(world, vault):
    vault.held = Held("NamespaceNotAllowed", "namespace shop may not use connection default")
    key = world.apply(of_vault(kv(), pki()))
    await world.settle()
    assert condition(world, key) == ("False", "NamespaceNotAllowed")
    assert condition(world, key, "VaultReady.edge") == ("False", "NamespaceNotAllowed")
    assert vault.asked == {}
    assert not [at for at in world.api.stored if at[0] == "shop"]


@story
async def test_what_is_gone_from_vault_is_kept_and_told(world, vault):
    key = world.apply(of_vault(kv()))
    await world.settle()
    before = data(world)
    vault.kv["secret/api-keys/stripe"].append(None)
    await world.settle(5 * MINUTE)
    assert condition(world, key) == ("False", "NotFoundInVault")
    assert data(world) == before
    await at_rest(world, key, HOUR)
    vault.kv["secret/api-keys/stripe"].append({"key": "sk-3"})
    await world.settle(MINUTE)
    assert data(world) == {"key": b"sk-3"}


@story
async def test_what_is_not_there_yet_arrives_soon(world, vault):
    key = world.apply(of_vault(kv("later", refreshEvery="720h")))
    await world.settle()
    assert condition(world, key) == ("False", "NotFoundInVault")
    vault.kv["secret/later"].append({"a": "b"})
    await world.until(6)
    assert data(world) == {"a": b"b"}


@story
async def test_a_refusal_of_vault_is_told_and_tried_again(world, vault):
    vault.fails = ForbiddenError("Vault does not allow it")
    key = world.apply(of_vault(kv()))
    await world.settle()
    assert condition(world, key) == ("False", "VaultRefused")
    await world.settle(HOUR)
    assert vault.asked["secret/api-keys/stripe"] == 2
    vault.fails = None
    await world.settle(MINUTE)
    assert world.ready(key) == ("True", "Ready")


@story
async def test_drift_is_undone_without_asking_vault_and_after_a_restart_too(world, vault):
    key = world.apply(of_vault(kv()))
    await world.settle()
    good = data(world)
    asked = vault.asked.total()
    for change in ({"key": "ZXZpbA=="}, {"key": None}, {"more": "eA=="}):
        tell(world, edit(world, STRIPE, change))
        await world.settle()
        assert data(world) == good
    assert vault.asked.total() == asked
    edit(world, STRIPE, {"key": "ZXZpbA=="})
    again = await world.restarted()
    assert data(world) == good
    assert again.ready(key) == ("True", "Ready")
    del world.api.stored[STRIPE]
    await world.restarted()
    assert data(world) == good


@story
async def test_nothing_of_a_value_is_kept_but_in_the_secret_s_data(world, vault):
    vault.kv["secret/api-keys/stripe"] = [{"key": "sk-very-secret"}]
    key = world.apply(of_vault(kv(templates={"K": "{{ key }}"})))
    await world.settle()
    kept = json.dumps([world.status(key), dict(world.api.stored[STRIPE].annotations), world.api.events])
    for form in ("sk-very-secret", base64.b64encode(b"sk-very-secret").decode()):
        assert form not in kept
    assert "sk-very" not in repr(world.sources._reader._entries)


@story
async def test_a_suspended_identity_reads_nothing_and_goes_on_where_it_was(world, vault):
    key = world.apply(of_vault(kv()))
    await world.settle()
    asked = vault.asked.total()
    vault.kv["secret/api-keys/stripe"].append({"key": "sk-2"})
    world.apply(of_vault(kv()) | {"suspend": True}, generation=2)
    await world.settle(HOUR)
    assert vault.asked.total() == asked
    assert world.ready(key) == ("True", "Suspended")
    assert data(world)["key"] == b"sk-1"
    world.apply(of_vault(kv()), generation=3)
    await world.settle()
    assert data(world)["key"] == b"sk-2"


@story
async def test_rotate_reads_at_once(world, vault):
    world.apply(of_vault(kv()))
    await world.settle()
    vault.kv["secret/api-keys/stripe"].append({"key": "sk-2"})
    world.apply(of_vault(kv()), annotations={"serviceidentity.dev/rotate": "now"})
    await world.settle(SECOND)
    assert data(world) == {"key": b"sk-2"}
    assert vault.asked["secret/api-keys/stripe"] == 2
    await at_rest(world, None, HOUR)


@story
async def test_another_path_is_read_at_once_and_one_that_is_not_asked_for_any_more_goes(world, vault):
    vault.kv["secret/other"] = [{"a": "b"}]
    world.apply(of_vault(kv(), kv("other", "other")))
    await world.settle()
    assert ("shop", "order-service-other") in world.api.stored
    world.apply(of_vault(kv("other")), generation=2)
    await world.settle()
    assert data(world) == {"a": b"b"}
    assert ("shop", "order-service-other") not in world.api.stored
    assert len(world.sources._reader._entries) == 1


@story
async def test_what_nobody_asks_for_is_forgotten(world, vault):
    for number in range(10):
        world.apply(of_vault(kv()), name=f"s-{number}", uid=f"u-{number}")
    await world.settle()
    assert len(world.sources._reader._entries) == 1
    for number in range(10):
        world.engine.wake(world.engine.inventory.drop_identity("shop", f"s-{number}"))
    await world.settle()
    assert world.sources._reader._entries == {}
    assert world.sources._reader._asks == {}


def typed(type_, keys_):
    return kv(type=type_, keys=keys_)


@pytest.mark.parametrize(
    ("entry", "values", "word"),
    [
        (typed("kubernetes.io/basic-auth", {"user": "u"}), {"u": "x"}, "username or password"),
        (typed("kubernetes.io/dockerconfigjson", {"config": "u"}), {"u": "{}"}, ".dockerconfigjson"),
        (typed("kubernetes.io/dockerconfigjson", {".dockerconfigjson": "u"}), {"u": "no"}, "JSON object"),
        (typed("kubernetes.io/tls", {"tls.crt": "u"}), {"u": "x"}, "tls.key"),
        (typed("kubernetes.io/ssh-auth", {"key": "u"}), {"u": "x"}, "ssh-privatekey"),
        (kv(), {"no/key": "x", "good": "y"}, "'no/key'"),
        (kv(), {"..": "x"}, "'..'"),
        (kv(), {"big": "x" * 1024 * 1024, "more": "y"}, "1 MiB"),
        (kv(), {"half": "\ud800"}, "'half'"),
    ],
)
def test_what_the_api_server_would_not_take_is_told_before(entry, values, word):
    async def inside():
        world = VaultWorld()
        world.vault.kv["secret/api-keys/stripe"] = [values]
        key = world.apply(of_vault(entry))
        await world.settle()
        assert condition(world, key) == ("False", "SecretNotAsExpected")
        assert word in told(world, key)
        assert STRIPE not in world.api.stored

    asyncio.run(inside())


@story
async def test_typed_secrets_are_written_as_such(world, vault):
    vault.kv["secret/registry"] = [{"user": "u", "token": "t"}]
    config = '{"auths":{"registry.example.org":{"auth":{{ (user ~ ":" ~ token) | b64encode | tojson }}}}}'
    world.apply(
        of_vault(kv("registry", type="kubernetes.io/dockerconfigjson", templates={".dockerconfigjson": config}))
    )
    await world.settle()
    view = world.api.stored[STRIPE]
    assert view.type == "kubernetes.io/dockerconfigjson"
    assert json.loads(view.value(".dockerconfigjson"))["auths"]["registry.example.org"]["auth"] == "dTp0"


# Static roles


def reports(**more):
    return of_vault({"name": "stripe", "database": {"staticRole": "reports"}} | more)


@story
async def test_a_static_role_s_password_arrives_right_after_its_rotation(world, vault):
    role = vault.roles["database/static-creds/reports"] = StaticRole(10 * MINUTE, T0)
    key = world.apply(reports())
    await world.settle()
    assert data(world) == {"username": b"reports", "password": b"password-1"}
    assert world.ready(key) == ("True", "Ready")
    behind = 0
    while role.number < 4 or behind:
        await world.settle(SECOND)
        role.read(world.now)
        behind = behind + 1 if data(world)["password"] != f"password-{role.number}".encode() else 0
        assert behind <= 1
    assert vault.asked.total() < 30
    assert world.api.writes == {"create": 1, "status": 1, "replace": 3}


@story
async def test_a_rotation_that_does_not_come_is_waited_for_with_patience(world, vault):
    vault.roles["database/static-creds/reports"] = StaticRole(MINUTE, T0, late=10 * HOUR)
    world.apply(reports())
    await world.settle()
    await world.until(70)
    vault.asked.clear()
    await world.until(600)
    assert vault.asked.total() <= 40
    assert world.api.writes == {"create": 1, "status": 1}


@story
async def test_what_vault_says_of_the_rotation_can_be_asked_for(world, vault):
    vault.roles["database/static-creds/reports"] = StaticRole(HOUR, T0)
    world.apply(reports(keys={"since": "last_vault_rotation", "password": "password"}))
    await world.settle()
    assert data(world).keys() == {"since", "password"}
    world.api.writes.clear()
    await world.settle(10 * MINUTE)
    assert world.api.writes == {}


# PKI


def leaf(world, at=EDGE):
    return certificates.load_chain(world.api.stored[at].value("tls.crt"))[0]


@story
async def test_a_certificate_of_a_role_with_its_key_and_chain(world, vault):
    key = world.apply(of_vault(pki()))
    await world.settle()
    assert world.api.writes == {"create": 1, "status": 1}
    stored = world.api.stored[EDGE]
    assert stored.type == "kubernetes.io/tls"
    made, *above = certificates.load_chain(stored.value("tls.crt"))
    assert above == [ISSUING.certificate]
    assert certificates.load_chain(stored.value("ca.crt")) == (ROOT.certificate,)
    assert certificates.key_matches(made, keys.load(stored.value("tls.key")))
    facts = certificates.facts(made)
    assert (facts.dns_names, facts.common_name, facts.spiffe_id) == (("orders.example.org",), "order-service", None)
    status = of_status(world, key)
    assert (status["source"], status["path"]) == ("PKI", "pki/sign/edge")
    assert status["certificate"]["serialNumber"] == facts.serial_number
    assert status["certificate"]["renewalTime"] == world.status(key)["nextActionTime"]
    vault.asked.clear()
    again = await world.restarted()
    assert world.api.writes == {"create": 1, "status": 1}
    assert vault.asked == {}
    assert again.ready(key) == ("True", "Ready")


@story
async def test_without_names_the_common_name_is_the_name(world, vault):
    world.apply(of_vault({"name": "edge", "pki": {"role": "edge", "commonName": "orders.example.org"}}))
    await world.settle()
    assert certificates.facts(leaf(world)).dns_names == ("orders.example.org",)


@story
async def test_it_is_renewed_a_third_before_the_end_that_was_really_granted(world, vault):
    vault.changes = {"ends": T0 + 3 * HOUR}
    world.apply(of_vault(pki(duration="24h")))
    await world.settle()
    first, begun = leaf(world), world.now
    vault.changes = {}
    while leaf(world) == first:
        await world.settle(MINUTE)
    assert timedelta(hours=1.85) <= world.now - begun <= 2 * HOUR + MINUTE
    assert len(vault.signed) == 2


@story
async def test_renew_before_counts_and_a_backdated_start_does_not_shorten_the_life(world, vault):
    vault.changes = {"begins": T0 - 2 * HOUR, "ends": T0 + HOUR}
    world.apply(of_vault(pki(renewBefore="10m")))
    await world.settle()
    first, begun = leaf(world), world.now
    vault.changes = {}
    while leaf(world) == first:
        await world.settle(MINUTE)
    assert 45 * MINUTE <= world.now - begun <= 51 * MINUTE


@story
async def test_a_certificate_that_began_long_ago_is_not_made_anew_at_once(world, vault):
    vault.changes = {"begins": T0 - 20 * HOUR, "ends": T0 + HOUR}
    world.apply(of_vault(pki()))
    await world.settle()
    assert await passes_when_left_alone(world) == 0
    await world.settle(30 * MINUTE)
    assert len(vault.signed) == 1
    await world.settle(11 * MINUTE)
    assert len(vault.signed) == 2


@story
async def test_a_due_certificate_whose_connection_may_not_be_used_any_more_says_so(world, vault):
    key = world.apply(of_vault(pki(duration="3h"), transit(rotateEvery="3h")))
    await world.settle()
    vault.held = Held("NamespaceNotAllowed", "namespace shop may not use connection default")
    await world.settle(HOUR)
    assert world.ready(key) == ("True", "Ready")
    await world.settle(2 * HOUR)
    for name in ("edge", "files"):
        assert condition(world, key, f"VaultReady.{name}") == ("False", "NamespaceNotAllowed")
    assert vault.asked.total() == 2


@story
async def test_a_role_s_own_life_is_taken_when_none_is_asked_for(world, vault):
    vault.role_ttl = 5 * HOUR
    world.apply(of_vault(pki()))
    await world.settle()
    assert certificates.facts(leaf(world)).not_after == T0 + 5 * HOUR


@story
async def test_a_new_certificate_has_a_new_key_and_rotate_makes_one(world, vault):
    world.apply(of_vault(pki()))
    await world.settle()
    before = world.api.stored[EDGE].data
    world.apply(of_vault(pki()), annotations={"serviceidentity.dev/rotate": "1"})
    await world.settle()
    after = world.api.stored[EDGE].data
    assert before["tls.key"] != after["tls.key"]
    assert len(vault.signed) == 2


OTHER = company("Other")
STRANGE = [
    ({"key": OTHER.key.public_key()}, "another key"),
    ({"names": []}, "orders.example.org is missing"),
    ({"subject": x509.Name([])}, "common name"),
    ({"ends": T0}, "ended"),
    ({"begins": T0 + HOUR, "ends": T0 + DAY}, "clocks"),
    ({"more": [(x509.BasicConstraints(True, None), True)]}, "authority"),
]


@pytest.mark.parametrize(("changes", "word"), STRANGE, ids=[word for _, word in STRANGE])
def test_what_is_not_as_asked_for_is_not_stored(changes, word):
    async def inside():
        world = VaultWorld()
        world.vault.changes = changes
        key = world.apply(of_vault(pki()))
        await world.settle()
        assert condition(world, key, "VaultReady.edge") == ("False", "IssueFailed")
        assert word in told(world, key, "VaultReady.edge")
        assert EDGE not in world.api.stored

    asyncio.run(inside())


@story
async def test_a_chain_that_leads_elsewhere_is_not_stored(world, vault):
    vault.signer = replace(ISSUING, above=company("Vault root"))  # of the same name, with another key
    key = world.apply(of_vault(pki()))
    await world.settle()
    assert "does not lead" in told(world, key, "VaultReady.edge")


@story
async def test_a_role_that_refuses_is_told_and_backed_off_from_while_the_old_one_serves(world, vault):
    key = world.apply(of_vault(pki(duration="3h")))
    await world.settle()
    first = leaf(world)
    vault.refuses = RejectedError("the role does not allow a DNS name (allowed_domains, allow_any_name)")
    await world.settle(2 * HOUR)
    assert condition(world, key, "VaultReady.edge") == ("False", "IssueFailed")
    assert "allowed_domains" in told(world, key, "VaultReady.edge")
    assert leaf(world) == first
    vault.asked.clear()
    await world.until(300)
    assert vault.asked.total() <= 4
    vault.refuses = None
    await world.settle(20 * MINUTE)
    assert leaf(world) != first
    assert world.ready(key) == ("True", "Ready")


@story
async def test_a_role_that_is_made_days_later_is_found_within_a_quarter_of_an_hour(world, vault):
    vault.refuses = RejectedError("there is no such role")
    key = world.apply(of_vault(pki()))
    await world.settle(100 * HOUR)
    assert condition(world, key, "VaultReady.edge") == ("False", "IssueFailed")
    vault.refuses = None
    await world.settle(16 * MINUTE)
    assert world.ready(key) == ("True", "Ready")


@story
async def test_vault_away_is_of_no_concern_until_a_certificate_is_due(world, vault):
    key = world.apply(of_vault(pki(duration="3h")))
    await world.settle()
    vault.fails = AWAY
    await at_rest(world, key, HOUR)
    assert world.ready(key) == ("True", "Ready")
    await world.settle(HOUR)
    assert condition(world, key, "VaultReady.edge") == ("False", "VaultUnavailable")
    vault.fails = None
    await world.settle(2 * MINUTE)
    assert world.ready(key) == ("True", "Ready")
    assert len(vault.signed) == 2


@story
async def test_what_fails_though_vault_serves_is_asked_for_later_each_time(world, vault):
    vault.refuses = RetryableError("Vault had an error")
    key = world.apply(of_vault(transit()))
    times, start, asked = [], world.now, 0
    for _ in range(400):
        await world.settle(SECOND)
        if vault.asked["transit/datakey/files"] > asked:
            asked = vault.asked["transit/datakey/files"]
            times.append((world.now - start).total_seconds())
    assert condition(world, key, "VaultReady.files") == ("False", "VaultUnavailable")
    pauses = [later - earlier for earlier, later in pairwise(times)]
    for pause, most in zip(pauses, (5, 10, 20, 40, 60, 60), strict=False):
        assert most // 2 <= pause <= most + 1, pauses
    assert world.api.writes == {"status": 1}, "the same words for as long as it lasts"
    vault.refuses = None
    await world.settle(MINUTE)
    assert world.ready(key) == ("True", "Ready")


@story
async def test_people_who_ask_again_do_not_wait_for_the_pause(world, vault):
    vault.refuses = RetryableError("Vault had an error")
    world.apply(of_vault(transit()))
    await world.settle()
    world.apply(of_vault(transit()))
    await world.settle()
    assert vault.asked["transit/datakey/files"] == 1, "a look for another reason does not ask"
    world.apply(of_vault(transit()), annotations={"serviceidentity.dev/rotate": "now"})
    await world.settle()
    assert vault.asked["transit/datakey/files"] == 2
    vault.refuses = None
    world.apply(of_vault(transit(bits=512)), generation=2, annotations={"serviceidentity.dev/rotate": "now"})
    await world.settle()
    assert len(data(world, FILES)["plaintext"]) == 64


@story
async def test_a_damaged_certificate_secret_is_replaced_after_a_restart(world, vault):
    world.apply(of_vault(pki()))
    await world.settle()
    for change in (
        {"tls.key": None},
        {"tls.crt": "eA=="},
        {"ca.crt": base64.b64encode(pem(OTHER.certificate)).decode()},
    ):
        edit(world, EDGE, change)
        world = await world.restarted()
        stored = world.api.stored[EDGE]
        assert certificates.key_matches(leaf(world), keys.load(stored.value("tls.key")))
        assert certificates.load_chain(stored.value("ca.crt")) == (ROOT.certificate,)
    assert len(vault.signed) == 4


@story
async def test_an_rsa_key_is_what_was_asked_for(world, vault):
    world.apply(of_vault(pki(privateKey={"algorithm": "RSA", "size": 2048})))
    await world.settle()
    assert leaf(world).public_key().key_size == 2048


# Transit


@story
async def test_a_data_key_in_plain_and_wrapped(world, vault):
    vault.key_version = 3
    key = world.apply(of_vault(transit(rotateEvery="24h")))
    await world.settle()
    assert world.api.writes == {"create": 1, "status": 1}
    found = data(world, FILES)
    assert len(found["plaintext"]) == 32
    assert found["ciphertext"].startswith(b"vault:v3:")
    status = of_status(world, key)["dataKey"]
    assert (status["issueTime"], status["wrappingKeyVersion"]) == ("2026-01-01T12:00:00Z", 3)
    assert status["rotationTime"] == world.status(key)["nextActionTime"]
    await world.restarted()
    assert world.api.writes == {"create": 1, "status": 1}
    assert vault.asked.total() == 1
    await world.settle(22 * HOUR)
    assert data(world, FILES) == found
    await world.settle(2 * HOUR)
    assert data(world, FILES)["plaintext"] != found["plaintext"]
    assert vault.asked.total() == 2


@story
async def test_a_data_key_without_rotation_is_for_ever_or_until_asked_for(world, vault):
    key = world.apply(of_vault(transit(bits=512)))
    await world.settle()
    assert "rotationTime" not in of_status(world, key)["dataKey"]
    assert "nextActionTime" not in world.status(key)
    await at_rest(world, key, 1000 * DAY)
    world.apply(of_vault(transit(bits=512)), annotations={"serviceidentity.dev/rotate": "1"})
    await world.settle()
    assert vault.asked.total() == 2


@story
async def test_a_data_key_in_the_form_of_the_service(world, vault):
    entry = transit(keys={"wrapped": "ciphertext"}, templates={"key.txt": "{{ plaintext | b64encode }}"})
    world.apply(of_vault(entry))
    await world.settle()
    found = data(world, FILES)
    assert found.keys() == {"wrapped", "key.txt"}
    assert len(base64.b64decode(found["key.txt"])) == 32
    world.api.writes.clear()
    await world.restarted()
    assert world.api.writes == {}


@story
async def test_raw_bytes_are_no_text(world, vault):
    key = world.apply(of_vault(transit(templates={"k": "{{ plaintext }}"})))
    await world.settle()
    assert condition(world, key, "VaultReady.files") == ("False", "IssueFailed")
    assert "b64encode" in told(world, key, "VaultReady.files")


@story
async def test_a_damaged_data_key_is_replaced_after_a_restart(world, vault):
    world.apply(of_vault(transit()))
    await world.settle()
    for change in ({"plaintext": "eA=="}, {"ciphertext": "eA=="}, {"more": "eA=="}, {"plaintext": None}):
        edit(world, FILES, change)
        world = await world.restarted()
        found = data(world, FILES)
        assert found.keys() == {"plaintext", "ciphertext"}
        assert len(found["plaintext"]) == 32
    assert vault.asked.total() == 5


def test_an_identity_has_secrets_of_vault_only_when_it_asks():
    assert identity().vault is None
