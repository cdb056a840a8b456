"""A ring of signing keys as it is stored and published: what comes back is what was written, or an error of ours."""

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import RSAKey

from serviceidentity.domain import key_ring
from serviceidentity.domain.jwt import jose, ring
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.key_ring import KeyState, Ring, RingKey
from serviceidentity.domain.material import MalformedError
from tests.unit.jwt.tokens import key

NOW = datetime(2026, 11, 25, 16, tzinfo=UTC)


def three(algorithm: Algorithm = Algorithm.ES256) -> Ring:
    states = (KeyState.RETIRING, KeyState.ACTIVE, KeyState.PREPARED)
    ends = (NOW + timedelta(hours=1), None, NOW + timedelta(minutes=32))
    return Ring(tuple(RingKey(*key(algorithm, n), state, NOW, ends[n]) for n, state in enumerate(states)))


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_ring_comes_back_as_it_was_written(algorithm):
    written = ring.to_json(three(algorithm))
    assert ring.from_json(written) == three(algorithm)
    assert ring.to_json(ring.from_json(written)) == written
    assert {ring.algorithm_of(one) for one in ring.from_json(written).keys} == {algorithm}
    made = key_ring.new_ring(ring.maker(algorithm), NOW)
    assert ring.algorithm_of(made.active) is algorithm


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_the_published_set_has_every_key_and_nothing_private(algorithm):
    seen = three(algorithm)
    published = json.loads(ring.jwks(seen))["keys"]
    assert {one["kid"] for one in published} == seen.key_ids
    for one in published:
        assert jose.read_public(one)[1] is algorithm
        assert one.keys() <= {"kty", "crv", "x", "y", "n", "e", "kid", "alg", "use"}
    assert ring.jwks(Ring(seen.keys[::-1])) == ring.jwks(seen)  # the same bytes, in whichever order


@pytest.mark.parametrize(
    "changed",
    [
        {"kid": "x"},
        {"state": "Lost"},
        {"state": ["Active"]},
        {"changed": "today"},
        {"changed": 7},
        {"changed": "2026-01-01T00:00:00"},
        {"until": "2026-01-01T00:00:00Z"},
        {"alg": "HS256"},
        {"alg": None},
        {"d": "AA"},
        {"kty": "oct"},
    ],
)
def test_a_ring_that_was_edited_is_malformed(changed):
    one = json.loads(ring.to_json(Ring(three().keys[1:2])))["keys"][0]
    assert ring.from_json(json.dumps({"keys": [one]}).encode())
    with pytest.raises(MalformedError):
        ring.from_json(json.dumps({"keys": [one | changed]}).encode())
    without = {name: value for name, value in one.items() if name not in changed}
    if without.keys() != one.keys():
        with pytest.raises(MalformedError):
            ring.from_json(json.dumps({"keys": [without]}).encode())


members = st.sampled_from(["kid", "state", "changed", "until", "alg", "kty", "crv", "x", "d"])
values = (
    st.none()
    | st.integers()
    | st.text()
    | st.lists(st.text())
    | st.sampled_from(["Active", "9999-12-31T23:59:59-14:00"])
)


@given(st.dictionaries(members, values))
def test_no_ring_raises_anything_else(changed):
    one = json.loads(ring.to_json(Ring(three().keys[1:2])))["keys"][0]
    with contextlib.suppress(MalformedError):
        ring.from_json(json.dumps({"keys": [one | changed]}).encode())


@given(st.binary() | st.text().map(str.encode) | values.map(lambda value: json.dumps({"keys": value}).encode()))
def test_what_is_no_ring_is_malformed(text):
    with pytest.raises(MalformedError):
        ring.from_json(text)


def _as_json(*jwks: dict[str, object]) -> bytes:
    return json.dumps({"keys": jwks}).encode()


def _jwks(seen: Ring) -> list[dict[str, object]]:
    return list(json.loads(ring.to_json(seen))["keys"])


def test_what_somebody_adds_to_a_key_is_not_kept():
    padded = [jwk | {"x5c": "A" * 1000, "note": "?"} for jwk in _jwks(three())]
    assert ring.from_json(_as_json(*padded)) == three()


def test_how_much_is_read_is_limited():
    retiring, active, _ = _jwks(three())
    with pytest.raises(MalformedError, match="longer than"):
        ring.from_json(_as_json(active | {"note": "A" * ring.LONGEST}))
    with pytest.raises(MalformedError, match="more than 32 keys"):
        ring.from_json(_as_json(active, *(retiring | {"kid": str(n)} for n in range(32))))
    with pytest.raises(MalformedError, match="twice"):
        ring.from_json(_as_json(active, retiring | {"kid": active["kid"]}))
    large = RSAKey.generate_key(3072, auto_kid=False)
    jwk = large.as_dict(private=True) | {"kid": large.thumbprint(), "alg": "RS256", "use": "sig"}
    with pytest.raises(MalformedError, match="larger than"):
        ring.from_json(_as_json(jwk | {"state": "Active", "changed": "2026-11-25T16:00:00Z"}))


def test_a_ring_that_is_full_takes_no_more_until_a_key_has_retired():
    ends = NOW + timedelta(hours=1)
    active = RingKey(*key(Algorithm.ES256, 0), KeyState.ACTIVE, NOW)
    retiring = tuple(
        RingKey(*jose.make_key(Algorithm.ES256), KeyState.RETIRING, NOW, ends + timedelta(seconds=n)) for n in range(31)
    )
    full = Ring((active, *retiring))
    assert ring.from_json(ring.to_json(full)) == full
    day, minute = timedelta(days=1), timedelta(minutes=1)
    rhythm = key_ring.Rhythm(day, day, minute, lambda _: True, rotation_requested=True)
    assert key_ring.next_step(full, rhythm, NOW) is None
    assert key_ring.deadline(full, rhythm) == ends
    assert key_ring.deadline(full, replace(rhythm, rotate_every=2 * minute)) == ends  # and not a time long past
    turned = key_ring.advance(full, rhythm, ring.maker(Algorithm.ES256), ends)
    assert (len(turned.keys), turned.keys[-1].state) == (32, KeyState.PREPARED)
