"""Signed requests: what is signed is what JavaScript signs, and every request that is not right is an answer."""

import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain import hmac_ring, key_ring
from serviceidentity.domain.material import MalformedError
from serviceidentity.domain.requests import javascript
from serviceidentity.domain.requests.signing import AcceptedRequest, read_keyring, sign, verify_request
from serviceidentity.domain.verdict import Refused

NOW = datetime(2026, 11, 25, 16, 0, 0, 250000, tzinfo=UTC)
MS = int(NOW.timestamp() * 1000)
RING = key_ring.new_ring(hmac_ring.make, NOW)
KEY = RING.active.material.reveal()
ENTRY = {
    "namespace": "shop",
    "name": "order-service",
    "spiffeID": "spiffe://e/ns/shop/sa/o",
    "keys": [hmac_ring.to_jwk(RING.active)],
}
KEYRING = json.dumps({"services": {"order-service": ENTRY}}).encode()
BODY = {"amount": 12.5, "note": "für Käse", "items": [1, 2.0, None, True]}
WINDOW = timedelta(milliseconds=300_000)


def verified(headers: Any, body: bytes = json.dumps(BODY).encode(), now: datetime = NOW) -> AcceptedRequest | Refused:
    return verify_request(headers.items() if isinstance(headers, dict) else headers, body, read_keyring(KEYRING), now)


def reasons(*given: Any, **more: Any) -> list[str]:
    found = verified(*given, **more)
    return [one.reason for one in found.problems] if isinstance(found, Refused) else []


def headers(**changed: str) -> dict[str, str]:
    return sign("order-service", KEY, BODY, MS) | {name.replace("_", "-"): value for name, value in changed.items()}


def test_an_accepted_request_says_who_and_with_which_key():
    found = verified(headers())
    assert isinstance(found, AcceptedRequest)
    assert (found.caller.service_id, found.caller.namespace, found.caller.name) == (
        "order-service",
        "shop",
        "order-service",
    )
    assert found.key_id == RING.active.key_id
    assert (found.signed_at, found.accepted_until) == (NOW, NOW + WINDOW)
    assert KEY.hex() not in repr(found)


def test_the_signature_is_over_service_timestamp_and_body():
    text = f"order-service:{MS}:".encode() + '{"amount":12.5,"note":"für Käse","items":[1,2,null,true]}'.encode()
    assert headers()["X-Signature"] == hmac.digest(KEY, text, "sha256").hex()


def test_the_window_is_300000_ms_in_either_direction():
    late = timedelta(milliseconds=1)
    assert reasons(headers(), now=NOW + WINDOW) == reasons(headers(), now=NOW - WINDOW) == []
    assert reasons(headers(), now=NOW + WINDOW + late) == ["Expired"]
    assert reasons(headers(), now=NOW - WINDOW - late) == ["IssuedInTheFuture"]
    assert reasons(headers(), now=NOW + timedelta(days=30)) == ["Expired"]


@pytest.mark.parametrize("name", ["X-Service-ID", "X-Timestamp", "X-Signature"])
def test_a_header_is_there_once_in_any_case(name):
    without = {key: value for key, value in headers().items() if key != name}
    assert reasons(without)[0] == "NotSigned"
    assert reasons(without | {name: ""})[0] == "NotSigned"
    assert reasons([*headers().items(), (name.upper(), headers()[name])])[0] == "NotSigned"
    assert reasons(without | {name.lower(): headers()[name]}) == []
    assert reasons([*headers().items(), (name, "")])[0] == "NotSigned"


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "1e3", "\u0661", " 1", "1" * 16, "9" * 5000, "0x1", "+1"])
def test_a_timestamp_is_a_number_of_milliseconds(value):
    assert reasons(headers(X_Timestamp=value))[0] == "Malformed"


@pytest.mark.parametrize("value", ["ab", "", "g" * 64, "\ud800" * 64, "é" * 64, "0" * 64, "0" * 100_000])
def test_a_signature_of_another_form_is_an_answer(value):
    assert reasons(headers(X_Signature=value))[0] in ("BadSignature", "NotSigned")


def test_changes_are_noticed():
    assert reasons(headers(), b'{"amount":0.01}') == ["BadSignature"]
    assert reasons(headers(X_Timestamp=str(MS + 1))) == ["BadSignature"]
    assert reasons(headers(X_Signature=headers()["X-Signature"].upper())) == ["BadSignature"]
    assert reasons(headers(X_Service_ID="nobody")) == ["UnknownService"]
    assert reasons(sign("order-service", b"x" * 32, BODY, MS)) == ["BadSignature"]


@pytest.mark.parametrize("body", [b"{", b"NaN", b"\xff", b"[" * 50_000, b"[Infinity]", b"{}{}", b"\xef\xbb\xbf{}"])
def test_a_body_that_is_no_json_is_an_answer(body):
    assert reasons(headers(), body) == ["Malformed"]


def test_layout_of_the_body_makes_no_difference_and_none_is_an_empty_object():
    assert reasons(headers(), json.dumps(BODY, indent=4).encode() + b"\n") == []
    assert reasons(sign("order-service", KEY, {}, MS), b"") == []


def test_every_key_of_the_ring_verifies():
    other = key_ring.new_ring(hmac_ring.make, NOW)
    ring = {"services": {"order-service": ENTRY | {"keys": [hmac_ring.to_jwk(other.active), *ENTRY["keys"]]}}}
    found = verify_request(headers().items(), json.dumps(BODY).encode(), read_keyring(json.dumps(ring).encode()), NOW)
    assert isinstance(found, AcceptedRequest)
    assert found.key_id == RING.active.key_id


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"services": []}', '{"services": {"a": {}}}', '{"services": {"a": 1}}', "[" * 5000,
     json.dumps({"services": {"a": ENTRY | {"keys": [{"kid": "x", "k": ""}]}}}),
     json.dumps({"services": {"a": ENTRY | {"keys": [{"kid": "x", "k": 7}]}}})],
)  # fmt: skip
def test_what_is_no_keyring_is_malformed(text):
    with pytest.raises(MalformedError):
        read_keyring(text.encode())


@given(st.lists(st.tuples(st.sampled_from([*headers(), "Host"]) | st.text(), st.text())), st.binary())
def test_no_request_is_an_exception(given_headers, body):
    assert isinstance(verified(given_headers, body), Refused)


values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_json_comes_back_and_has_one_form(value):
    text = javascript.stringify(value)
    assert javascript.parse(text) == value
    assert javascript.stringify(javascript.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1.0", "1"), ("-0", "0"), ("1e21", "1e+21"), ("1e20", "100000000000000000000"), ("1e-7", "1e-7"),
        ("0.000001", "0.000001"), ("123456789012345678901", "123456789012345680000"), ("1e400", "null"), ("5e-324", "5e-324"),
        ('{"b":1,"2":2,"1":3,"01":4}', '{"1":3,"2":2,"b":1,"01":4}'), ('{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'),
        ('"\\ud800\\u2028\\u007f\\u0001\\/"', '"\\ud800\u2028\u007f\\u0001/"'),
    ],
)  # fmt: skip
def test_json_is_written_as_javascript_does(text, written):
    assert javascript.stringify(javascript.parse(text.encode())).decode() == written


def test_what_json_can_not_say_is_malformed():
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (object(), {1: 2}, {"a": b"x"}, deep):
        with pytest.raises(MalformedError):
            javascript.stringify(value)
