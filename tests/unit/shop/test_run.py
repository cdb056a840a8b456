"""Parts of the local run that need nothing to run."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from examples.shop.run import lifetimes
from examples.shop.run.customers import Addresses


@given(st.integers(0, 23), st.integers(0, 2**31))
def test_there_is_a_zone_for_each_hour(hour: int, seconds: int) -> None:
    at = datetime.fromtimestamp(seconds, UTC)
    assert at.astimezone(ZoneInfo(lifetimes.zone(hour, at))).hour == hour


def test_an_address_is_used_again_only_after_the_limits_window(monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("examples.shop.run.customers.time.monotonic", lambda: clock[0])
    addresses = Addresses(range(1, 2))
    taken = [addresses.take() for _ in range(254)]
    assert len(set(taken)) == 254
    assert addresses.take() is None
    addresses.give_back("127.1.1.7")
    assert addresses.take() is None
    clock[0] = timedelta(minutes=15, seconds=1).total_seconds()
    assert addresses.take() == "127.1.1.7"


def test_the_short_lifetimes_keep_the_rules_between_them() -> None:
    def seconds(text: str) -> int:
        return int(text.removesuffix("s"))

    hmac, jwt = lifetimes.HMAC, lifetimes.JWT
    assert seconds(hmac["overlap"]) + seconds(hmac["publishBefore"]) <= seconds(hmac["rotateEvery"])
    tail = seconds(jwt["maxTokenTTL"]) + seconds(jwt["propagation"])
    assert tail + seconds(jwt["cacheTime"]) + seconds(jwt["propagation"]) <= seconds(jwt["rotateEvery"])
