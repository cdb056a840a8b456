from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain import schedule

T0 = datetime(2026, 1, 1, tzinfo=UTC)
lifetimes = st.integers(3, 10 * 365 * 86400).map(lambda seconds: timedelta(seconds=seconds))
leads = st.none() | st.integers(1, 20 * 365 * 86400).map(lambda seconds: timedelta(seconds=seconds))


@given(lifetimes, leads, st.text(max_size=20))
def test_renewal_is_after_issue_and_before_expiry(lifetime, lead, seed):
    due = schedule.renewal_time(T0, T0 + lifetime, lead, seed)
    assert T0 < due < T0 + lifetime


@given(lifetimes, leads, st.text(max_size=20))
def test_jitter_never_moves_renewal_later(lifetime, lead, seed):
    fitting = lead if lead is not None and lead < lifetime else lifetime / 3
    promised = T0 + lifetime - fitting
    assert schedule.renewal_time(T0, T0 + lifetime, lead, seed) <= max(promised, T0 + timedelta(seconds=1))


@given(lifetimes, st.text(max_size=20))
def test_renewal_does_not_depend_on_when_it_is_computed(lifetime, seed):
    first = schedule.renewal_time(T0, T0 + lifetime, None, seed)
    assert schedule.renewal_time(T0, T0 + lifetime, None, seed) == first
    assert schedule.parse_time(schedule.format_time(first)) == first


@given(st.integers(0, 36525 * 86400))
def test_durations_survive_writing_and_reading(seconds):
    duration = timedelta(seconds=seconds)
    assert schedule.parse_duration(schedule.format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86400), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("1500ms", 1), ("0s", 0), ("2h0m10s", 7210)],
)
def test_durations_are_gos(text, seconds):
    assert schedule.parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "24", "h", "1d", "-1h", "1 h", "1h ", "1H", "1e9h", "999999999h", "١h"])
def test_anything_else_is_not_a_duration(text):
    with pytest.raises(ValueError):
        schedule.parse_duration(text)


@given(st.text(max_size=30))
def test_a_duration_is_read_or_refused_never_a_crash(text):
    try:
        assert schedule.parse_duration(text) >= timedelta(0)
    except ValueError:
        pass


@given(st.integers(-5, 10_000))
def test_backoff_grows_from_a_minute_to_32_hours(attempts):
    pause = schedule.backoff(attempts)
    assert timedelta(minutes=1) <= pause <= timedelta(hours=32)
    assert schedule.backoff(attempts + 1) >= pause
