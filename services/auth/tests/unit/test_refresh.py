"""Which refresh tokens are good."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.domain.refresh import GRACE, LIFETIME, Seen, Verdict, expiry, hashed, judge, new_token

NOW = datetime(2027, 1, 15, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
FRESH = Seen(NOW + LIFETIME, None, False, NOW + 2 * LIFETIME, False, False)
USED = replace(FRESH, used_at=NOW, successor_unused=True)


@pytest.mark.parametrize(
    ("seen", "now", "verdict"),
    [
        (None, NOW, Verdict.UNKNOWN),
        (FRESH, NOW, Verdict.ROTATE),
        (FRESH, NOW + LIFETIME - SECOND, Verdict.ROTATE),
        (FRESH, NOW + LIFETIME, Verdict.EXPIRED),
        (replace(FRESH, session_ends_at=NOW), NOW, Verdict.EXPIRED),
        (replace(FRESH, session_ended=True), NOW, Verdict.ENDED),
        (replace(FRESH, account_disabled=True), NOW, Verdict.ENDED),
        (USED, NOW + GRACE - SECOND, Verdict.REPEAT),
        (USED, NOW + GRACE, Verdict.REUSED),
        (replace(USED, successor_unused=False), NOW, Verdict.REUSED),
        (replace(USED, session_ended=True), NOW, Verdict.ENDED),
    ],
)
def test_verdicts(seen, now, verdict):
    assert judge(seen, now) is verdict


times = st.integers(0, 60 * 24 * 3600).map(lambda seconds: NOW + timedelta(seconds=seconds))
seens = st.builds(Seen, times, st.none() | times, st.booleans(), times, st.booleans(), st.booleans())


@given(seens, times)
def test_nothing_is_granted_after_an_end_or_for_good_after_a_use(seen, now):
    verdict = judge(seen, now)
    if verdict.granted:
        assert now < seen.expires_at
        assert now < seen.session_ends_at
        assert not seen.session_ended
        assert not seen.account_disabled
        assert seen.used_at is None or (now < seen.used_at + GRACE and seen.successor_unused)


@given(seens, times)
def test_what_was_used_and_is_refused_in_its_time_ends_the_session(seen, now):
    verdict = judge(seen, now)
    if seen.used_at is not None and now < min(seen.expires_at, seen.session_ends_at):
        assert verdict.granted or verdict.ends_session


@given(times, times)
def test_a_token_never_outlives_its_session(now, session_ends_at):
    assert expiry(now, session_ends_at) <= session_ends_at


def test_tokens_are_random_and_stored_as_hashes():
    first, second = new_token(), new_token()
    assert first != second
    assert len(first) == 43
    assert hashed(first) != hashed(second)
    assert first.encode() not in hashed(first)
