from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain import authority, parse
from serviceidentity.domain.authority import MakeAuthority, RetireAuthority, Role, Trust
from serviceidentity.domain.material import Held, MalformedError
from tests.unit.domain.builders import DAY, T0, authorities, domain, make_authority, trust_domain_body

SHORT = {
    "root": {"duration": "2400h"},
    "intermediate": {"duration": "240h"},
    "maxLeafDuration": "24h",
    "backdate": "0s",
}


def test_the_root_is_made_first_then_the_intermediate_then_nothing():
    owner = domain()
    first = authority.plan(owner, (), T0)
    assert isinstance(first, MakeAuthority)
    assert (first.role, first.secret_name) == (Role.ROOT, "default-root-1")
    both = authorities(owner)
    second = authority.plan(owner, both[:1], T0)
    assert isinstance(second, MakeAuthority)
    assert (second.role, second.secret_name) == (Role.INTERMEDIATE, "default-intermediate-1")
    assert authority.plan(owner, both, T0) is None


def test_an_intermediate_is_replaced_before_it_cuts_a_leaf_short():
    owner = domain(**SHORT)
    both = authorities(owner)
    due = authority.deadline(owner, both, T0)
    assert due is not None
    assert due + owner.max_leaf_duration <= both[1].not_after
    assert authority.plan(owner, both, due - timedelta(seconds=1)) is None
    action = authority.plan(owner, both, due)
    assert isinstance(action, MakeAuthority)
    assert action.secret_name == "default-intermediate-2"


def test_a_superseded_intermediate_stays_until_its_last_leaf_is_gone():
    owner = domain(**SHORT)
    root, old = authorities(owner)
    new = make_authority(owner, Role.INTERMEDIATE, 2, root, T0 + 6 * DAY)
    three = (root, old, new)
    last = T0 + 6 * DAY + owner.max_leaf_duration
    assert authority.plan(owner, three, last - timedelta(seconds=1)) is None
    assert authority.plan(owner, three, last) == RetireAuthority(
        "default-intermediate-1", "Retired", "everything it signed has expired"
    )
    found = authority.trust_of(owner, three, T0 + 6 * DAY)
    assert isinstance(found, Trust)
    assert found.issuer.certificate == new.certificate


def test_nothing_is_signed_by_an_expired_authority():
    owner = domain(**SHORT)
    both = authorities(owner)
    assert isinstance(authority.trust_of(owner, both, T0 + 10 * DAY), Held)
    verdict = authority.plan(owner, both, T0 + 100 * DAY)
    assert isinstance(verdict, Held)
    assert verdict.reason == "RootExpired"


def test_a_lost_root_is_never_silently_replaced():
    owner = domain()
    recorded = frozenset({"default-root-1"})
    for left in ((), authorities(owner)[1:]):
        verdict = authority.plan(owner, left, T0, recorded)
        assert isinstance(verdict, Held)
        assert verdict.reason == "AuthorityMissing"


def test_authorities_of_another_spiffe_trust_domain_are_not_used():
    verdict = authority.plan(domain(trustDomain="other.example"), authorities(domain()), T0)
    assert isinstance(verdict, Held)
    assert verdict.reason == "Conflict"


def test_the_rotate_annotation_makes_one_new_intermediate():
    body = trust_domain_body()
    body["metadata"]["annotations"] = {"serviceidentity.dev/rotate": "1"}
    owner = parse.trust_domain(body)
    root, old = authorities(domain())
    action = authority.plan(owner, (root, old), T0)
    assert isinstance(action, MakeAuthority)
    assert action.reason == "RotationRequested"
    new = make_authority(owner, Role.INTERMEDIATE, 2, root, T0)
    assert authority.plan(owner, (root, old, new), T0) is None


@pytest.mark.parametrize("data", [{}, {"tls.crt": "", "tls.key": ""}, {"tls.crt": "!", "tls.key": "anVuaw=="}])
def test_an_unreadable_authority_is_malformed(data):
    view = authorities(domain())[0].view
    with pytest.raises(MalformedError):
        authority.read_authority(replace(view, data=data))


@given(st.lists(st.integers(1, 20 * 86400), max_size=8))
def test_whenever_one_looks_there_is_one_signer_that_is_alive(pauses):
    owner, now = domain(**SHORT), T0
    found: tuple[authority.Authority, ...] = ()
    for pause in [0, *pauses]:
        now += timedelta(seconds=pause)
        while isinstance(action := authority.plan(owner, found, now), MakeAuthority | RetireAuthority):
            if isinstance(action, MakeAuthority):
                root = authority.newest(found, Role.ROOT)
                found = (*found, make_authority(owner, action.role, action.generation, root, now))
            else:
                found = tuple(a for a in found if a.view.name != action.secret_name)
        trusted = authority.trust_of(owner, found, now)
        if isinstance(trusted, Trust):
            assert trusted.issuer.certificate.not_valid_after_utc > now
            assert all(root.not_valid_after_utc > now for root in trusted.roots)
        else:
            assert isinstance(action, Held), "only an expired root is a reason not to sign"
