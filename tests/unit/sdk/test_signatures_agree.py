"""The operator's command line and the SDK each write and check signatures; they agree on every body."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from sdk.python.tests.requests.bodies import NASTY
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.requests import javascript, signing
from serviceidentity_sdk.credentials import KeyMaterial as SdkKeyMaterial
from serviceidentity_sdk.requests import Fixed, HmacKey, Keyring, ServiceAuthenticator, ServiceSigner
from serviceidentity_sdk.requests.ecmascript import canonical, stringify

KEY, NOW = b"\x01" * 32, 1_800_000_000_000
RING = {"orders": signing.Caller("orders", "shop", "orders", "", (signing.RequestKey("k", KeyMaterial(KEY)),))}
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(0, 2**33).map(str), inner, max_size=5)
    ),
    max_leaves=12,
)


def theirs(text):
    return javascript.stringify(javascript.parse(text.encode()))


def test_nasty_bodies_are_written_alike():
    assert [canonical(text) for text in NASTY] == [theirs(text) for text in NASTY]


@given(values)
def test_any_value_is_written_alike(value):
    text = stringify(value)
    assert canonical(text) == text == javascript.stringify(javascript.parse(text))


def test_each_verifies_what_the_other_signs():
    signer = ServiceSigner("orders", Fixed(HmacKey("k", SdkKeyMaterial(KEY))), clock_ms=lambda: NOW)
    authenticator = ServiceAuthenticator(Fixed(Keyring.of({"orders": [KEY]})), clock_ms=lambda: NOW)
    now = datetime.fromtimestamp(NOW / 1000, UTC)
    for text in NASTY:
        body = canonical(text)
        made = signing.sign("orders", KEY, javascript.parse(body), NOW)
        assert authenticator.verify(made, body).subject == "orders"
        _, headers = signer.sign_json(javascript.parse(body))
        accepted = signing.verify_request(headers.items(), body, RING, now)
        assert isinstance(accepted, signing.AcceptedRequest)
    empty = signing.verify_request(signer.sign().items(), b"", RING, now)
    assert isinstance(empty, signing.AcceptedRequest)
