"""Settings from the environment."""

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
        ("AUTH_DATABASE", "host=db user=me"),
        ("AUTH_DATABASE", "host=db password = s3cret"),
        ("AUTH_DATABASE", "postgresql://me:s3cret@db/auth"),
    ],
)
def test_what_cant_be_is_named_and_not_quoted(name, value):
    with pytest.raises(RejectedError, match=name) as found:
        read_settings(ENV | {name: value})
    assert "s3cret" not in str(found.value)
