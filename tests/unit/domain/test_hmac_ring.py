from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain import hmac_ring, key_ring
from serviceidentity.domain.key_ring import KeyState, Rhythm, Ring, Step
from serviceidentity.domain.material import KeyMaterial, MalformedError

T0 = datetime(2026, 1, 1, tzinfo=UTC)
RHYTHM = Rhythm(
    rotate_every=timedelta(hours=720),
    overlap=timedelta(hours=24),
    publish_before=timedelta(minutes=2),
    published=lambda _key_id: True,
)
rhythms = st.tuples(st.integers(10, 10**6), st.integers(0, 10**6), st.integers(0, 10**5)).map(
    lambda s: replace(
        RHYTHM,
        rotate_every=timedelta(seconds=s[0] + s[1] + s[2]),
        overlap=timedelta(seconds=s[1]),
        publish_before=timedelta(seconds=s[2]),
    )
)
steps = st.lists(st.integers(0, 3 * 10**6), max_size=12)


@given(rhythms, steps, st.booleans())
def test_one_key_signs_at_every_moment_however_time_jumps(rhythm, pauses, published):
    ring, now = key_ring.new_ring(hmac_ring.make, T0), T0
    rhythm = replace(rhythm, published=lambda _key_id: published)
    for pause in pauses:
        now += timedelta(seconds=pause)
        ring = key_ring.advance(ring, rhythm, hmac_ring.make, now)
        states = [key.state for key in ring.keys]
        assert states.count(KeyState.ACTIVE) == 1
        assert states.count(KeyState.PREPARED) <= 1
        assert all(key.until is not None and key.until > now for key in ring.keys if key.state is KeyState.RETIRING)


@given(rhythms, steps)
def test_advancing_twice_changes_nothing_more(rhythm, pauses):
    now = T0 + timedelta(seconds=sum(pauses))
    ring = key_ring.advance(key_ring.new_ring(hmac_ring.make, T0), rhythm, hmac_ring.make, now)
    assert key_ring.advance(ring, rhythm, hmac_ring.make, now) == ring


@given(rhythms)
def test_a_key_is_published_for_its_time_and_active_on_schedule(rhythm):
    ring = key_ring.new_ring(hmac_ring.make, T0)
    prepare_at = key_ring.prepare_time(ring, rhythm)
    assert prepare_at + rhythm.publish_before <= T0 + rhythm.rotate_every, "jitter is only earlier"
    if rhythm.publish_before == timedelta(0):
        return
    ring = key_ring.advance(ring, rhythm, hmac_ring.make, prepare_at)
    prepared = ring.in_state(KeyState.PREPARED)
    assert prepared is not None
    assert prepared.until == prepare_at + rhythm.publish_before
    just_before = prepared.until - timedelta(seconds=1)
    assert key_ring.advance(ring, rhythm, hmac_ring.make, just_before).active.key_id != prepared.key_id
    assert key_ring.advance(ring, rhythm, hmac_ring.make, prepared.until).active.key_id == prepared.key_id


def test_the_previous_key_verifies_for_exactly_the_overlap():
    ring = key_ring.new_ring(hmac_ring.make, T0)
    first = ring.active.key_id
    ring = key_ring.advance(ring, RHYTHM, hmac_ring.make, key_ring.prepare_time(ring, RHYTHM))
    switched = key_ring.deadline(ring, RHYTHM)
    assert switched is not None
    ring = key_ring.advance(ring, RHYTHM, hmac_ring.make, switched)
    last = switched + RHYTHM.overlap
    assert first in key_ring.advance(ring, RHYTHM, hmac_ring.make, last - timedelta(seconds=1)).key_ids
    assert first not in key_ring.advance(ring, RHYTHM, hmac_ring.make, last).key_ids


def test_a_key_that_is_not_in_every_keyring_does_not_sign():
    waiting = replace(RHYTHM, published=lambda _key_id: False)
    ring = key_ring.advance(key_ring.new_ring(hmac_ring.make, T0), waiting, hmac_ring.make, T0 + timedelta(days=40))
    later = T0 + timedelta(days=400)
    assert key_ring.next_step(ring, waiting, later) is None
    assert key_ring.next_step(ring, RHYTHM, later) is Step.ACTIVATE


def test_a_requested_rotation_prepares_one_key():
    ring = key_ring.advance(
        key_ring.new_ring(hmac_ring.make, T0), replace(RHYTHM, rotation_requested=True), hmac_ring.make, T0
    )
    assert [key.state for key in ring.keys] == [KeyState.ACTIVE, KeyState.PREPARED]


@given(rhythms, steps)
def test_a_ring_survives_writing_and_reading(rhythm, pauses):
    ring = key_ring.advance(
        key_ring.new_ring(hmac_ring.make, T0), rhythm, hmac_ring.make, T0 + timedelta(seconds=sum(pauses))
    )
    assert hmac_ring.from_json(hmac_ring.to_json(ring)) == ring


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["keys", "k", "kid", "state"]), inner),
    max_leaves=8,
)


@given(st.binary(max_size=60) | json_like.map(lambda value: __import__("json").dumps(value).encode()))
def test_garbage_is_malformed_and_nothing_else(data):
    with pytest.raises(MalformedError):
        hmac_ring.from_json(data)


def test_an_edited_key_no_longer_matches_its_id():
    text = hmac_ring.to_json(key_ring.new_ring(hmac_ring.make, T0)).decode()
    start = text.index('"k":"') + 5
    other = "A" if text[start] != "A" else "B"
    with pytest.raises(MalformedError):
        hmac_ring.from_json((text[:start] + other + text[start + 1 :]).encode())


def test_key_ids_tell_keys_apart_and_nothing_about_them():
    keys = [KeyMaterial(bytes([n]) * 32) for n in range(50)]
    ids = {hmac_ring.key_id(key) for key in keys}
    assert len(ids) == 50
    assert all(len(key_id) == 16 for key_id in ids)


def test_two_active_keys_are_malformed():
    ring = Ring((*key_ring.new_ring(hmac_ring.make, T0).keys, *key_ring.new_ring(hmac_ring.make, T0).keys))
    with pytest.raises(MalformedError):
        hmac_ring.from_json(hmac_ring.to_json(ring))
