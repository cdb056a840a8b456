"""The key ring only grows, and is never made anew behind anyone's back."""

import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain.encryption import ring as rings
from serviceidentity.domain.encryption.ring import EMPTY, KeyRing, Lost
from serviceidentity.domain.material import MalformedError
from serviceidentity.domain.pki.errors import PkiError
from tests.unit.domain.builders import DAY, T0

ONE = EMPTY.with_new(T0)
TWO = ONE.with_new(T0 + DAY)


def step(stored=EMPTY, known=EMPTY, **more):
    given = {"earlier": (), "requested": False, "every": None, "now": T0 + DAY} | more
    return rings.next_ring(stored, known, **given)


def test_ring_is_read_as_it_was_stored():
    assert rings.from_json(rings.to_json(TWO)) == TWO
    assert TWO.ids[1] == ONE.newest.id != TWO.newest.id


def test_first_ring_has_one_key():
    made = step()
    assert isinstance(made, KeyRing) and len(made.pairs) == 1


@pytest.mark.parametrize("known", [EMPTY, ONE])
def test_at_rest_nothing_changes(known):
    assert step(ONE, known) == ONE


def test_deleted_ring_is_put_back_and_taken_out_keys_too():
    assert step(EMPTY, TWO, earlier=TWO.ids) == TWO
    assert step(ONE, TWO) == TWO
    assert step(TWO, ONE) == TWO


def test_backup_of_an_old_ring_that_is_put_back_joins_the_new_one():
    new = EMPTY.with_new(T0 + 2 * DAY)
    joined = step(TWO, new)
    assert joined.ids == (*new.ids, *TWO.ids)


def test_lost_ring_is_not_made_anew_unless_somebody_asks():
    lost = step(earlier=["0011223344556677"])
    assert isinstance(lost, Lost)
    assert "0011223344556677" in lost.message
    asked = step(earlier=["0011223344556677"], requested=True)
    assert isinstance(asked, KeyRing) and len(asked.pairs) == 1


def test_rotation_by_request_and_by_age_appends():
    for turned in (step(ONE, ONE, requested=True), step(ONE, ONE, every=DAY)):
        assert turned.ids[1:] == ONE.ids
        assert turned.newest.created == T0 + DAY
    assert step(ONE, ONE, every=DAY, now=T0 + DAY - timedelta(seconds=1)) == ONE


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=6))
def test_newest_is_the_one_made_last_whatever_the_clock_says(offsets):
    ring = EMPTY
    for offset in offsets:
        before, ring = ring, ring.with_new(T0 + timedelta(seconds=offset))
        assert ring.ids[1:] == before.ids
    assert rings.from_json(rings.to_json(ring)) == ring
    assert ring.merged(before) == ring == before.merged(ring)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: [],
        lambda _: {"keys": []},
        lambda body: {"keys": body["keys"] * 2},
        lambda body: {"keys": [{**body["keys"][0], "keyID": "0011223344556677"}]},
        lambda body: {"keys": [{**body["keys"][0], "privateKey": "AAAA"}]},
        lambda body: {"keys": [{**body["keys"][0], "privateKey": "!" * 44}]},
        lambda body: {"keys": [{**body["keys"][0], "created": "yesterday"}]},
        lambda body: {"keys": [{"keyID": body["keys"][0]["keyID"]}]},
        lambda _: {"keys": "x"},
    ],
)
def test_damaged_ring_is_refused_as_a_whole_and_not_quoted(damage):
    body = json.loads(rings.to_json(ONE))
    with pytest.raises(MalformedError) as caught:
        rings.from_json(json.dumps(damage(body)).encode())
    assert body["keys"][0]["privateKey"] not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_no_ring(text):
    with pytest.raises(MalformedError):
        rings.from_json(text)


def test_public_key_is_published_without_the_private_one():
    content = rings.public_content_of(TWO)
    key = rings.from_pem(content.value(rings.PUBLIC_KEY))
    assert rings.key_id(key) == TWO.newest.id
    assert content.value(rings.KEY_IDS).decode().split() == list(TWO.ids)
    assert set(content.data) == {rings.PUBLIC_KEY, rings.KEY_IDS}
    other = Ed25519PrivateKey.generate().public_key()
    for wrong in (b"", b"-----BEGIN PUBLIC KEY-----", rings.to_pem(other)):
        with pytest.raises(PkiError):
            rings.from_pem(wrong)


def test_ring_shows_in_no_text():
    shown = f"{TWO!r} {TWO}"
    for pair in TWO.pairs:
        assert pair.private.reveal().hex() not in shown
        assert repr(pair.private.reveal()) not in shown
