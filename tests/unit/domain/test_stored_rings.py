"""What a stored ring says about itself is believed only as far as this operator could have written it."""

import json
from base64 import b64encode
from dataclasses import replace

import pytest

from serviceidentity.domain import hmac_ring, key_ring, plan, status
from serviceidentity.domain.credentials.base import Due, Reason
from serviceidentity.domain.key_ring import KeyState, RingKey
from serviceidentity.domain.material import KeyMaterial, MalformedError
from tests.unit.domain.builders import DAY, HMAC, T0, issued, with_data

NAME = "order-service-hmac"


def stored(change):
    """An identity whose keys.json was changed, in a way that keeps its keys and their IDs."""
    seen = issued({"hmac": {}})
    document = json.loads(seen.contents[NAME].value("keys.json"))
    change(document["keys"])
    text = json.dumps(document, separators=(",", ":")).encode()
    return with_data(seen, NAME, keys_json=b64encode(text).decode())


def jwk(state, until=None, material=None):
    key = key_ring.RingKey(*hmac_ring.make(), state, T0, until)
    if material is not None:
        secret = KeyMaterial(material)
        key = RingKey(hmac_ring.key_id(secret), secret, state, T0, until)
    return hmac_ring.to_jwk(key)


@pytest.mark.parametrize(
    "changed",
    ["x", "", None, 5, "2026-01-01", "0001-01-01T00:00:00+10:00", "9999-12-31T00:00:00Z", "9999-12-31T23:59:59-10:00"],
)
def test_no_instant_in_a_ring_stops_the_decisions(changed):
    seen = stored(lambda keys: keys[0].update(changed=changed))
    plan.plan(seen, T0)
    plan.deadline(seen, T0)
    status.of_identity(seen, {}, {}, T0)


def test_a_retiring_key_without_a_deadline_does_not_stay_for_ever():
    try:
        ring = hmac_ring.from_json(
            json.dumps({"keys": [jwk(KeyState.ACTIVE), jwk(KeyState.RETIRING)]}, separators=(",", ":")).encode()
        )
    except MalformedError:
        return
    rhythm = key_ring.Rhythm(30 * DAY, DAY, DAY / 24, lambda _key_id: True)
    later = key_ring.advance(ring, rhythm, hmac_ring.make, T0 + 400 * DAY)
    assert not ring.key_ids & later.key_ids


@pytest.mark.parametrize("material", [b"", b"short"])
def test_a_key_that_is_too_short_to_be_ours_is_malformed(material):
    """Its ID is right: whoever can write the Secret can compute it."""
    with pytest.raises(MalformedError):
        hmac_ring.from_json(json.dumps({"keys": [jwk(KeyState.ACTIVE, material=material)]}).encode())


@pytest.mark.parametrize("states", [[], ["Prepared"], ["Active", "Active"], ["Active", "Prepared", "Prepared"], ["X"]])
def test_a_ring_has_one_active_key_and_at_most_one_prepared(states):
    keys = [jwk(KeyState.ACTIVE, T0) | {"state": state} for state in states]
    with pytest.raises(MalformedError):
        hmac_ring.from_json(json.dumps({"keys": keys}).encode())


def test_single_values_are_put_right_without_a_new_key():
    before = issued({"hmac": {}})
    seen = with_data(before, NAME, key="eA==")
    verdict = HMAC.decide(seen, T0)
    assert isinstance(verdict, Due)
    assert (verdict.reason, verdict.fresh) == (Reason.MISSING_DATA, False)
    same = dict(HMAC.render(seen, verdict, T0, None).data) == dict(before.contents[NAME].data)
    assert same


def test_a_ring_that_is_lost_is_made_anew_and_says_why():
    seen = with_data(issued({"hmac": {}}), NAME, keys_json=None)
    verdict = HMAC.decide(seen, T0)
    assert isinstance(verdict, Due)
    assert (verdict.reason, verdict.fresh) == (Reason.MISSING_DATA, True)
    fresh = replace(seen, contents={})
    assert HMAC.decide(fresh, T0).reason is Reason.DOES_NOT_EXIST
