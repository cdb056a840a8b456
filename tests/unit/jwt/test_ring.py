"""A ring of signing keys as it is stored and published: what comes back is what was written, or an error of ours."""

import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
