"""Settings from the environment."""

from datetime import timedelta

import pytest

from auth_service.errors import RejectedError
from auth_service.settings import read_settings

ENV = {
    "AUTH_JWT": "/identity/jwt",
    "AUTH_DATABASE": "host=db dbname=users",
    "AUTH_DATABASE_LOGIN": "/identity/database",
    "AUTH_REDIS": "redis://redis",
}


def test_what_is_not_set_has_a_default():
    found = read_settings(ENV)
    assert (found.issuer, found.audience, found.trusted_hops) == ("auth-service", "microservices", 0)
    assert (found.access_lifetime, found.look_every, found.access_log) == (timedelta(minutes=15), 2.0, False)
    assert (found.tls, found.callers, found.origins) == (None, (), frozenset())


def test_lists_are_separated_by_spaces():
    found = read_settings(ENV | {"AUTH_CALLERS": "spiffe://a/b  spiffe://a/c", "AUTH_ORIGINS": "https://a https://b"})
    assert found.callers == ("spiffe://a/b", "spiffe://a/c")
    assert found.origins == {"https://a", "https://b"}


def test_all_that_is_missing_is_named_at_once():
    with pytest.raises(RejectedError) as found:
        read_settings({})
    assert all(name in str(found.value) for name in ENV)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTH_REDIS", "http://redis"),
        ("AUTH_TRUSTED_HOPS", "-1"),
        ("AUTH_TRUSTED_HOPS", "many"),
        ("AUTH_ACCESS_SECONDS", "901"),
        ("AUTH_ACCESS_SECONDS", "0"),
        ("AUTH_ACCESS_SECONDS", "15m"),
        ("AUTH_LOOK_EVERY", "0"),
        ("AUTH_LOOK_EVERY", "0.0"),
        ("AUTH_LOOK_EVERY", "-1"),
        ("AUTH_ACCESS_LOG", "yes"),
        ("AUTH_DATABASE", "host=db user=me"),
        ("AUTH_DATABASE", "host=db password = s3cret"),
        ("AUTH_DATABASE", "postgresql://me:s3cret@db/auth"),
    ],
)
def test_what_cant_be_is_named_and_not_quoted(name, value):
    with pytest.raises(RejectedError, match=name) as found:
        read_settings(ENV | {name: value})
    assert "s3cret" not in str(found.value)


def test_what_is_set_counts():
    found = read_settings(ENV | {"AUTH_ACCESS_SECONDS": "10", "AUTH_LOOK_EVERY": "0.5", "AUTH_ACCESS_LOG": "on"})
    assert (found.access_lifetime, found.look_every, found.access_log) == (timedelta(seconds=10), 0.5, True)
