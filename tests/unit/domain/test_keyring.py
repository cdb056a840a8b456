"""A keyring holds the keys of exactly those callers that both sides agree on, and says so without showing any."""

import json
from base64 import b64encode, urlsafe_b64decode
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain import hmac_ring, key_ring
from serviceidentity.domain.credentials import keyring
from serviceidentity.domain.credentials.base import Caller, Due, Reason
from serviceidentity.domain.model import CallerRule, identity_key
from tests.unit.domain.builders import HMAC, HOUR, KEYRING, T0, identity, issue, issued, observed, view_of, with_data
from tests.unit.domain.json_values import json_values

NAME = "order-service-hmac-keyring"
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
SPEC = {"callers": [{"name": "*"}]}
RINGS = [key_ring.new_ring(hmac_ring.make, T0) for _ in range(4)]
names = st.sampled_from(["a", "b", "shop", "attic", "zoo"])
# Rings are drawn by number: Hypothesis prints the fields of what it draws, and a key is one.
callers = st.lists(
    st.tuples(names, names, st.sampled_from(["orders", "payments", "stock"]), st.integers(0, len(RINGS))),
    max_size=8,
    unique_by=lambda one: one[:2],
)


def callers_of(drawn):
    return tuple(
        Caller(identity_key(namespace, name), service_id, "", RINGS[ring] if ring < len(RINGS) else None)
        for namespace, name, service_id, ring in drawn
    )


def caller(name="a", namespace="shop", service_id=None, ring=RINGS[0]):
    return Caller(
        identity_key(namespace, name), service_id or name, f"spiffe://example.org/ns/{namespace}/sa/{name}", ring
    )


def content(seen):
    return json.loads(seen.contents[NAME].value("keyring.json"))["services"]


@given(callers, st.randoms())
def test_the_order_of_callers_never_matters(drawn, random):
    found = callers_of(drawn)
    shuffled = list(found)
    random.shuffle(shuffled)
    one, other = (issue(observed(SPEC, callers=tuple(each)), KEYRING) for each in (found, shuffled))
    same = one.contents[NAME].data == other.contents[NAME].data
    assert same
    assert KEYRING.report(one, T0) == KEYRING.report(other, T0)
    assert KEYRING.decide(replace(one, callers=tuple(shuffled)), T0) is None


@given(callers)
def test_each_service_id_is_one_callers_and_nobody_is_forgotten(drawn):
    found = callers_of(drawn)
    chosen, left_out = keyring.distinct(identity(SPEC), found)
    assert sorted(chosen + left_out, key=lambda c: c.key) == sorted(found, key=lambda c: c.key)
    assert len({c.service_id for c in chosen}) == len(chosen)
    for loser in left_out:
        (winner,) = (c for c in chosen if c.service_id == loser.service_id)
        assert (winner.key.namespace != "shop", winner.key) < (loser.key.namespace != "shop", loser.key)


@given(callers)
def test_what_is_delivered_counts_as_published_for_its_caller_only(drawn):
    found = callers_of(drawn)
    seen = issue(observed(SPEC, callers=found), KEYRING)
    chosen, left_out = keyring.distinct(seen.identity, found)
    for one in chosen:
        ids = one.ring.key_ids if one.ring else frozenset()
        assert (keyring.published_since(seen.contents[NAME], one.key, one.service_id) or {}).keys() == ids
    for one in left_out:
        assert keyring.published_since(seen.contents[NAME], one.key, one.service_id) is None


@pytest.mark.parametrize(
    ("rule", "admitted"),
    [
        (CallerRule("shop", "a"), {"shop/a"}),
        (CallerRule("shop", "*"), {"shop/a", "shop/b"}),
        (CallerRule("attic", "a"), {"attic/a"}),
        (CallerRule("*", "a"), set()),
    ],
)
def test_consent_is_for_a_name_or_a_whole_namespace_and_never_for_all(rule, admitted):
    keys = [identity_key(namespace, name) for namespace in ("shop", "attic") for name in "ab"]
    assert {f"{key.namespace}/{key.name}" for key in keys if rule.admits(key)} == admitted


def test_a_keyring_is_a_jwk_set_that_signs_what_the_caller_signs():
    seen = issue(observed(SPEC, callers=(caller(),)), KEYRING)
    entry = content(seen)["a"]
    assert (entry["namespace"], entry["name"]) == ("shop", "a")
    assert entry["spiffeID"] == "spiffe://example.org/ns/shop/sa/a"
    (jwk,) = entry["keys"]
    assert (jwk["kty"], jwk["alg"], jwk["kid"], jwk["state"]) == ("oct", "HS256", RINGS[0].active.key_id, "Active")
    same = urlsafe_b64decode(jwk["k"] + "=") == RINGS[0].active.material.reveal()
    assert same


@pytest.mark.parametrize(
    "change",
    [
        {"callers": ()},
        {"callers": (caller(ring=RINGS[1]),)},
        {"callers": (caller(), caller("b", ring=RINGS[1]))},
        {"callers": (caller(service_id="b"),)},
        {"callers": (caller(namespace="attic"),)},
    ],
    ids=["consent taken back", "rotated", "one more", "renamed", "another of that name"],
)
def test_a_keyring_follows_its_callers(change):
    seen = issue(observed(SPEC, callers=(caller(),)), KEYRING)
    verdict = KEYRING.decide(replace(seen, **change), T0)
    assert isinstance(verdict, Due)
    assert verdict.reason is Reason.CALLERS_CHANGED
    assert KEYRING.decide(issue(replace(seen, **change), KEYRING), T0) is None


def test_a_caller_without_keys_is_listed_without_keys():
    seen = issue(observed(SPEC, callers=(caller(ring=None),)), KEYRING)
    assert content(seen)["a"]["keys"] == []
    assert KEYRING.report(seen, T0)["callers"][0]["keyIDs"] == []


@pytest.mark.parametrize("broken", [{"keyring_json": None}, {"keyring_json": "!"}, {"note": "eA=="}])
def test_an_edited_keyring_is_written_again(broken):
    seen = issue(observed(SPEC, callers=(caller(),)), KEYRING)
    assert KEYRING.decide(with_data(seen, NAME, **broken), T0) is not None


@given(json_values(["services", "orders", "keys", "kid", "namespace", "name"]) | st.binary(max_size=40))
def test_no_content_of_a_keyring_stops_a_caller(value):
    seen = issue(observed(SPEC, callers=(caller(),)), KEYRING)
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    view = replace(seen.contents[NAME], data={"keyring.json": b64encode(raw).decode()})
    found = keyring.published_since(view, identity_key("shop", "orders"), "orders")
    assert found is None or isinstance(found, dict)


def test_a_key_keeps_the_time_at_which_it_was_first_delivered():
    seen = issue(observed(SPEC, callers=(caller(),)), KEYRING)
    later = replace(seen, callers=(caller(), caller("b", ring=RINGS[1])))
    seen = issue(later, KEYRING, T0 + HOUR)
    view = seen.contents[NAME]
    assert keyring.published_since(view, identity_key("shop", "a"), "a") == {RINGS[0].active.key_id: T0}
    assert keyring.published_since(view, identity_key("shop", "b"), "b") == {RINGS[1].active.key_id: T0 + HOUR}
    assert KEYRING.decide(seen, T0 + 5 * HOUR) is None, "time alone changes nothing"


def prepared():
    """An identity with two verifiers, the moment its next key was made, and that key's ID."""
    seen = issued({"hmac": {"verifiers": [{"name": "a"}, {"name": "b"}]}})
    now = T0 + 720 * HOUR
    due = HMAC.decide(seen, now)
    assert isinstance(due, Due)
    name = "order-service-hmac"
    seen = replace(seen, contents={name: view_of(HMAC.render(seen, due, now, None), name)})
    (key_id,) = hmac_ring.from_json(seen.contents[name].value("keys.json")).key_ids - {
        hmac_ring.from_json(seen.contents[name].value("keys.json")).active.key_id
    }
    return seen, now, key_id


@pytest.mark.parametrize(
    ("minutes", "signs"),
    [((0, 0), 2), ((0, 1), 3), ((1, 0), 3), ((60, 0), 62), ((None, 0), None), ((0, None), None)],
    ids=["at once", "a minute late", "the other late", "an hour late", "never", "the other never"],
)
def test_a_key_signs_when_every_verifier_has_had_it_for_its_time(minutes, signs):
    seen, now, key_id = prepared()
    published = {
        identity_key("shop", name): {} if late is None else {key_id: now + late * MINUTE}
        for name, late in zip("ab", minutes, strict=True)
    }
    seen = replace(seen, published=published)
    if signs is None:
        assert HMAC.decide(seen, now + 999 * HOUR) is None
        assert HMAC.deadline(seen, now + 999 * HOUR) is None, "a change of the keyring wakes us"
        return
    assert HMAC.decide(seen, now + signs * MINUTE - SECOND) is None
    assert HMAC.decide(seen, now + signs * MINUTE) is not None
    assert HMAC.deadline(seen, now + max(signs - 1, 2) * MINUTE - SECOND) is not None


@pytest.mark.parametrize("year", [1, 9999])
def test_no_time_in_a_keyring_stops_its_caller(year):
    seen, now, key_id = prepared()
    key = {"kid": key_id, "published": f"{year:04}-12-31T23:59:59Z"}
    entry = {"namespace": "shop", "name": "order-service", "keys": [key]}
    text = json.dumps({"services": {"order-service": entry}})
    seen_by_a = issue(observed(SPEC, callers=(caller(),)), KEYRING).contents[NAME]
    view = replace(seen_by_a, data={"keyring.json": b64encode(text.encode()).decode()})
    since = keyring.published_since(view, identity_key("shop", "order-service"), "order-service")
    assert since is not None
    assert (key_id in since) is (year == 1), "a time that nothing can be added to is no time"
    seen = replace(seen, published={identity_key("shop", "a"): since})
    HMAC.decide(seen, now)
    HMAC.deadline(seen, now)


@pytest.mark.parametrize("beside", [{"note": "eA=="}, {"key-id": None}, {"key": "eA=="}, {"previous-key": "eA=="}])
def test_keys_that_are_whole_survive_what_is_done_beside_them(beside):
    before = issued({"hmac": {}})
    name = "order-service-hmac"
    seen = with_data(before, name, **beside)
    due = HMAC.decide(seen, T0)
    after = HMAC.render(seen, due, T0, None) if isinstance(due, Due) else seen.contents[name]
    same = after.data["keys.json"] == before.contents[name].data["keys.json"]
    assert same, "not compared in the assertion: it would print the keys"
