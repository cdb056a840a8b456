"""Who a certificate stands for, and who is allowed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.python.tests.ca import Pki, spiffe_id
from serviceidentity_sdk.mtls import ANYONE, PeerIdentity, Peers
from serviceidentity_sdk.mtls.peer import is_spiffe_id

PKI = Pki()
ORDER = spiffe_id("order-service")


@pytest.mark.parametrize(
    ("uris", "found"),
    [
        ([ORDER], ORDER),
        ([], None),
        ([ORDER, spiffe_id("admin")], None),
        ([ORDER, "https://shop.example/order"], ORDER),
        ([ORDER, "SPIFFE://shop.example/ns/shop/sa/admin"], None),
        (["https://shop.example"], None),
        (["spiffe://shop.example"], None),
        (["spiffe://Shop.example/a"], None),
        (["spiffe://shop.example/a/"], None),
        (["spiffe://shop.example/a/../b"], None),
        (["spiffe://shop.example:443/a"], None),
        (["spiffe://shop.example/a?b"], None),
        (["spiffe://shop.example/a%2fb"], None),
    ],
)
def test_a_spiffe_id_is_the_only_one_and_well_formed(uris, found):
    assert PeerIdentity.of(PKI.leaf(uris=uris).certificate).spiffe_id == found


def test_two_common_names_are_none():
    peer = PeerIdentity.of(PKI.leaf(uris=[], names=["order-service", "admin"]).certificate)
    assert peer.common_name is None
    assert peer.subject == f"sha256:{peer.fingerprint}"
    assert not Peers(common_names=["order-service", "admin"]).allow(peer)


def test_a_certificate_without_names_is_nobody():
    nameless = PeerIdentity.of(PKI.leaf(uris=[], dns=[], names=[]).certificate)
    assert (nameless.common_name, nameless.spiffe_id, nameless.dns_names) == (None, None, ())
    assert not Peers().allow(nameless)
    assert not Peers(spiffe_ids=[ORDER], common_names=["order-service"]).allow(nameless)
    assert ANYONE.allow(nameless)


def test_a_common_name_that_looks_like_a_spiffe_id_is_no_spiffe_id():
    peer = PeerIdentity.of(PKI.leaf(uris=[], names=["spiffe://shop.example/a"]).certificate)
    assert not Peers(spiffe_ids=["spiffe://shop.example/a"]).allow(peer)


@pytest.mark.parametrize("wrong", ["order-service", "spiffe://shop.example/*", ""])
def test_a_name_that_can_never_match_is_an_error(wrong):
    with pytest.raises(ValueError, match="not a SPIFFE ID"):
        Peers(spiffe_ids=[wrong])


def test_a_string_is_not_taken_for_a_list_of_letters():
    with pytest.raises(TypeError):
        Peers(common_names="order-service")
    with pytest.raises(TypeError):
        Peers(spiffe_ids=ORDER)


@given(st.lists(st.text("abcXYZ019._-", min_size=1).filter(lambda s: s not in {".", ".."}), min_size=1, max_size=4))
def test_each_path_of_allowed_characters_is_a_spiffe_id(segments):
    assert is_spiffe_id("spiffe://example.org/" + "/".join(segments))
    assert not is_spiffe_id("spiffe://example.org/" + "/".join([*segments, ".."]))
    assert not is_spiffe_id("spiffe://example.org/" + "/".join([*segments, ""]))
    assert not is_spiffe_id("spiffe://example.org/" + "/".join(segments) + "\n")


def test_a_spiffe_id_has_at_most_2048_bytes():
    assert is_spiffe_id("spiffe://a/" + "b" * 2037)
    assert not is_spiffe_id("spiffe://a/" + "b" * 2038)
