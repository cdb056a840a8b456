"""What is due for token keys, for any rhythm and any course of events."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.domain import ownership
from serviceidentity.domain.jwt import authority, turning
from serviceidentity.domain.jwt.turning import Seen
from serviceidentity.domain.key_ring import KeyState
from serviceidentity.domain.model import TrustDomain
from tests.unit.domain.builders import T0, domain, view_of

MINUTE = timedelta(minutes=1)


def stored(seen: Seen, change: turning.Change) -> Seen:
    content = authority.content_of(change.ring, seen.domain, change.records)
    view = view_of(content, authority.secret_name(seen.domain.meta.name), "system")
    return replace(seen, view=view, keys=authority.read_keys(view))


def owner(**annotations: str) -> TrustDomain:
    made = domain(jwt={"rotateEvery": "3h", "maxTokenTTL": "20m", "cacheTime": "15m", "propagation": "2m"})
    named = {f"serviceidentity.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return replace(made, meta=replace(made.meta, annotations=named))


def test_nobody_asks_so_nothing_is_made():
    assert turning.next_change(Seen(owner()), T0) is None
    assert turning.report(Seen(owner()), "https://x", T0) is None


def test_requests_from_before_the_keys_were_made_are_served():
    asked = Seen(owner(rotate_jwt="1", revoke_jwt="2"), wanted=True)
    change = turning.next_change(asked, T0)
    assert change.reason == turning.MADE
    assert turning.next_change(stored(asked, change), T0) is None


def test_a_ring_is_not_shown_a_time_that_has_passed():
    seen = Seen(owner(rotate_jwt="1"), wanted=True)
    seen = stored(seen, turning.next_change(seen, T0))
    seen = replace(seen, domain=owner(rotate_jwt="2"), missing=("namespace shop",))
    seen = stored(seen, turning.next_change(seen, T0))
    later = T0 + timedelta(hours=1)
    assert turning.next_change(seen, later) is None
    report = turning.report(seen, "https://x", later)
    assert [key.get("activationTime") for key in report["keys"] if key["state"] == "Prepared"] == [None]
    assert "nextRotationTime" not in report
    assert "namespace shop" in turning.summary(seen, "https://x")
    assert turning.deadline(seen, later) is None


def test_a_namespace_that_never_takes_the_set_puts_off_the_next_key_for_one_period():
    seen = Seen(owner(rotate_jwt="1"), wanted=True)
    seen = stored(seen, turning.next_change(seen, T0))
    seen = replace(seen, domain=owner(rotate_jwt="2"), refusing=("namespace shop",))
    seen = stored(seen, turning.next_change(seen, T0))
    key_id, end = seen.keys.ring.in_state(KeyState.PREPARED).key_id, T0 + timedelta(hours=3)
    assert turning.deadline(seen, T0) == end
    assert turning.next_change(seen, end - MINUTE) is None
    assert "waits for them until 2026-01-01T15:00:00Z" in turning.summary(seen, "https://x")
    change = turning.next_change(seen, end)
    assert "everyone but namespace shop has key" in change.message
    seen, lead = stored(seen, change), seen.domain.jwt.rotation.lead
    assert turning.next_change(seen, end + lead - MINUTE) is None  # it is published for its lead all the same
    assert turning.next_change(replace(seen, missing=("the ConfigMap",)), end + lead) is None
    assert turning.next_change(seen, end + lead).ring.active.key_id == key_id


def prepared_for_everyone() -> tuple[Seen, str]:
    """A ring whose next key everyone has since T0."""
    seen = Seen(owner(rotate_jwt="1"), wanted=True)
    seen = stored(seen, turning.next_change(seen, T0))
    seen = replace(seen, domain=owner(rotate_jwt="2"))
    for _ in range(2):
        seen = stored(seen, turning.next_change(seen, T0))
    assert turning.next_change(seen, T0) is None
    return seen, seen.keys.ring.in_state(KeyState.PREPARED).key_id


def test_a_namespace_that_lost_the_set_again_is_waited_for():
    seen, key_id = prepared_for_everyone()
    due = T0 + seen.domain.jwt.rotation.lead
    assert turning.next_change(replace(seen, missing=("namespace a",)), due) is None
    assert turning.next_change(seen, due).ring.active.key_id == key_id


def test_a_longer_cache_time_counts_for_a_key_that_is_prepared_already():
    seen, key_id = prepared_for_everyone()
    due = T0 + seen.domain.jwt.rotation.lead
    rotation = replace(seen.domain.jwt.rotation, cache_time=timedelta(minutes=30))
    longer = replace(seen, domain=replace(seen.domain, jwt=replace(seen.domain.jwt, rotation=rotation)))
    assert turning.next_change(longer, due) is None
    assert turning.deadline(longer, due) == T0 + rotation.lead
    assert turning.next_change(longer, T0 + rotation.lead).ring.active.key_id == key_id


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 90), st.booleans(), st.booleans()), min_size=1, max_size=25))
def test_no_key_signs_before_everyone_had_it_for_its_lead_or_leaves_before_its_last_token_ended(course):
    """At each step time passes, somebody may lack the set, and a rotation may be asked for."""
    now, asked = T0, 0
    seen = Seen(owner(), wanted=True)
    seen = stored(seen, turning.next_change(seen, now))
    rotation = seen.domain.jwt.rotation
    first = seen.keys.ring.active.key_id
    everywhere, signed = {first: T0 - rotation.lead}, {first: T0}
    for pause, missing, ask in course:
        now += pause * MINUTE
        asked += ask
        signed[seen.keys.ring.active.key_id] = now  # until now it may have
        seen = replace(
            seen, domain=owner(rotate_jwt=str(asked)) if asked else owner(), missing=("namespace a",) if missing else ()
        )
        if not missing:
            for key in seen.keys.ring.keys:
                everywhere.setdefault(key.key_id, now)
        before = seen.keys.ring
        for _ in range(9):
            if (change := turning.next_change(seen, now)) is None:
                break
            new = change.ring.key_ids - seen.keys.ring.key_ids
            seen = replace(stored(seen, change), missing=("the ConfigMap",) if new else seen.missing)
        else:
            raise AssertionError("there is no end to it")
        ring = seen.keys.ring
        assert now >= everywhere[ring.active.key_id] + rotation.lead
        for gone in before.key_ids - ring.key_ids:
            assert now >= signed[gone] + rotation.max_token_lifetime
        assert [key.state for key in ring.keys].count(KeyState.ACTIVE) == 1
        due = turning.deadline(seen, now)
        assert due is None or due > now


def test_records_of_others_stay_on_the_secret():
    seen = Seen(owner(), wanted=True)
    content = authority.content_of(turning.next_change(seen, T0).ring, seen.domain, {})
    assert set(content.data) == {authority.RING_KEY, authority.KEYS_KEY}
    assert ownership.records_of(content) == {"serviceidentity.dev/spiffe-trust-domain": "example.org"}
