from dataclasses import replace

import pytest

from serviceidentity.domain import authority
from serviceidentity.domain.authority import Hierarchy
from serviceidentity.domain.material import Held, MalformedError
from tests.unit.domain.builders import T0, authorities, domain

SHORT = {
    "root": {"duration": "2400h"},
    "intermediate": {"duration": "240h"},
    "maxLeafDuration": "24h",
    "backdate": "0s",
}


def test_a_lost_root_is_never_silently_replaced():
    owner = domain()
    recorded = frozenset({"default-root-1"})
    for left in ((), authorities(owner)[1:]):
        verdict = authority.plan(Hierarchy(owner, left, recorded=recorded), T0)
        assert isinstance(verdict, Held)
        assert verdict.reason == "AuthorityMissing"


def test_authorities_of_another_spiffe_trust_domain_are_not_used():
    verdict = authority.plan(Hierarchy(domain(trustDomain="other.example"), authorities(domain())), T0)
    assert isinstance(verdict, Held)
    assert verdict.reason == "Conflict"


@pytest.mark.parametrize("data", [{}, {"tls.crt": "", "tls.key": ""}, {"tls.crt": "!", "tls.key": "anVuaw=="}])
def test_an_unreadable_authority_is_malformed(data):
    view = authorities(domain())[0].view
    with pytest.raises(MalformedError):
        authority.read_authority(replace(view, data=data))
