"""When a token is signed anew, and when the one that is there is left alone."""

import json
from base64 import b64encode, urlsafe_b64encode
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from serviceidentity.domain import key_ring, parse, plan, status
from serviceidentity.domain.credentials import credentials_of
from serviceidentity.domain.credentials.base import Reason
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.jwt.ring import maker
from serviceidentity.domain.key_ring import Rhythm
from serviceidentity.domain.material import Held
from serviceidentity.domain.plan import Hold, Restore, Write
from serviceidentity.domain.policy.checks import Denial, DenialReason, check_tokens
from tests.unit.domain.builders import T0, domain, with_data, with_spec
from tests.unit.jwt.issuers import (
    RING,
    SECRET,
    asking,
    claims_of,
    credential,
    minted,
    ring,
    text_of,
    token_issuer,
    waiting,
)

MINUTE = timedelta(minutes=1)
AWAY = Held("TokenIssuerNotReady", "no key yet")
DENIED = Denial(DenialReason.POLICY_DENIED, "no", "token.payments")


def reason(seen, now=T0):
    due = credential(seen).decide(seen, now)
    return None if due is None else due.reason


def actions(seen, now):
    return [(type(action), getattr(action, "due", None) and action.due.reason) for action in plan.plan(seen, now)]


def test_a_new_token_is_left_alone_until_two_thirds_of_its_life():
    seen = minted(waiting())
    due = credential(seen).next_refresh(seen, T0)
    assert T0 + 9 * MINUTE < due <= T0 + 10 * MINUTE
    assert reason(seen, due - timedelta(seconds=1)) is None
    verdict = credential(seen).decide(seen, due)
    assert (verdict.reason, verdict.routine) == (Reason.RENEWING, True)


@pytest.mark.parametrize(
    "changed",
    [
        {"audiences": ["payment-service", "other"]},
        {"ttl": "20m"},
        {"subject": "SPIFFEID"},
        {"permissions": ["orders:read"]},
        {"roles": ["clerk"]},
    ],
)
def test_another_request_is_another_token(changed):
    seen = minted(waiting())
    assert reason(with_spec(seen, asking(changed))) is Reason.REQUEST_CHANGED


def test_the_order_of_a_list_is_no_other_request():
    seen = minted(waiting({"audiences": ["a", "b"]}))
    assert reason(with_spec(seen, asking({"audiences": ["b", "a"]}))) is None


def test_another_service_account_is_another_token():
    seen = minted(waiting())
    assert reason(with_spec(seen, asking(serviceAccountName="other"))) is Reason.REQUEST_CHANGED


def test_another_issuer_is_another_token():
    seen = minted(waiting())
    other = token_issuer(issuer="https://other.example")
    assert reason(replace(seen, token_issuer=other)) is Reason.INCORRECT_ISSUER


def test_a_key_that_is_replaced_on_schedule_replaces_no_token():
    seen = minted(waiting())
    rhythm = Rhythm(timedelta(hours=1), timedelta(minutes=40), timedelta(0), lambda _: True, rotation_requested=True)
    turned = key_ring.advance(RING, rhythm, maker(Algorithm.ES256), T0 + MINUTE)
    turned = key_ring.advance(turned, replace(rhythm, rotation_requested=False), maker(Algorithm.ES256), T0 + MINUTE)
    assert turned.active.key_id != RING.active.key_id
    assert reason(replace(seen, token_issuer=token_issuer(turned)), T0 + MINUTE) is None


def test_a_key_that_was_withdrawn_replaces_every_token():
    seen = minted(waiting())
    assert reason(replace(seen, token_issuer=token_issuer(ring()))) is Reason.REVOKED


@pytest.mark.parametrize("asked", ["1", "2"])
def test_a_rotation_that_is_asked_for_is_served_once(asked):
    seen = minted(waiting())
    seen = with_spec(seen, asking(), annotations={"serviceidentity.dev/rotate": asked})
    assert reason(seen) is Reason.ROTATION_REQUESTED
    assert reason(minted(seen)) is None


def test_a_token_that_was_edited_while_nobody_looked_is_replaced():
    seen = minted(waiting())
    header, _, signature = text_of(seen.contents[SECRET]).split(".")
    claims = claims_of(seen.contents[SECRET]) | {"sub": "shop/order-service", "jti": "x"}
    body = urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    forged = with_data(seen, SECRET, token=b64encode(f"{header}.{body}.{signature}".encode()).decode())
    assert reason(forged) is Reason.SECRET_MISMATCH


@pytest.mark.parametrize("data", [{"token": None}, {"token": "%"}, {"token": "YQ=="}, {"more": "YQ=="}])
def test_a_secret_without_a_token_or_with_more_is_written_anew(data):
    seen = with_data(minted(waiting()), SECRET, **data)
    assert reason(seen) is Reason.MISSING_DATA
    assert actions(seen, T0) == [(Write, Reason.MISSING_DATA)]
    assert plan.next_refresh(seen, T0) is None
    assert "tokens" not in status.of_identity(seen, {}, {}, T0)


@pytest.mark.parametrize(("ahead", "verdict"), [(5, None), (6, Reason.RENEWING), (10**6, Reason.RENEWING)])
def test_a_token_of_a_clock_that_was_far_ahead_is_replaced(ahead, verdict):
    seen = minted(waiting(), T0 + ahead * MINUTE)
    assert reason(seen, T0) is verdict


def test_a_clock_that_jumped_ahead_is_a_new_token():
    assert reason(minted(waiting()), T0 + timedelta(days=900)) is Reason.EXPIRED


def test_while_nobody_signs_a_good_token_stays_and_a_due_one_waits():
    seen = replace(minted(waiting()), token_issuer=AWAY)
    assert actions(seen, T0 + MINUTE) == []
    (hold,) = plan.plan(seen, T0 + 11 * MINUTE)
    assert isinstance(hold, Hold) and hold.held == AWAY
    (hold,) = plan.plan(seen, T0 + 16 * MINUTE)
    assert hold.held == Held(Reason.EXPIRED, "the token expired at 2026-01-01T12:15:00Z: no key yet")


def test_the_first_token_waits_for_who_signs():
    (hold,) = plan.plan(waiting(token_issuer=AWAY), T0)
    assert hold.held == AWAY


def test_a_token_that_is_denied_later_is_kept_until_it_ends():
    seen = replace(minted(waiting()), denied=(DENIED,))
    (hold,) = plan.plan(seen, T0 + MINUTE)
    message = "no; what was issued before is kept until it ends at 2026-01-01T12:15:00Z, and not renewed"
    assert (hold.held, hold.intact) == (Held(DENIED.reason, message), True)
    (hold,) = plan.plan(seen, T0 + 11 * MINUTE)
    assert hold.held.message == message
    (hold,) = plan.plan(seen, T0 + 16 * MINUTE)
    assert hold.held.message.endswith("and is not: the token expired at 2026-01-01T12:15:00Z")


def test_a_token_that_is_denied_is_put_back_when_it_was_edited():
    seen = replace(minted(waiting()), denied=(DENIED,), drifted={SECRET: "edited"})
    assert actions(seen, T0 + MINUTE) == [(Hold, None), (Restore, Reason.DRIFTED)]


def test_one_denied_token_holds_up_no_other():
    asked = ({}, {"name": "stock", "audiences": ["stock-service"]})
    seen = replace(waiting(*asked), denied=(DENIED,))
    found = {action.credential.name: type(action) for action in plan.plan(seen, T0)}
    assert found == {"token.payments": Hold, "token.stock": Write}


def test_a_denied_certificate_holds_up_no_token_and_a_denied_token_no_certificate():
    seen = with_spec(waiting(), asking(certificate={}))
    for denied, held in (("certificate", "certificate"), ("token.payments", "token.payments")):
        only = replace(seen, denied=(Denial(DenialReason.POLICY_DENIED, "no", denied),))
        found = {action.credential.name for action in plan.plan(only, T0) if isinstance(action, Hold)}
        assert found == {held}
    whole = replace(seen, denied=(Denial(DenialReason.POLICY_DENIED, "no", None),))
    assert {type(action) for action in plan.plan(whole, T0)} == {Hold}


def test_a_suspended_identity_keeps_its_token_until_it_ends():
    seen = with_spec(minted(waiting()), asking(suspend=True))
    assert plan.plan(seen, T0 + 11 * MINUTE) == ()
    assert plan.next_refresh(seen, T0) is None
    assert plan.next_defect(seen, T0) == T0 + 15 * MINUTE
    conditions = status.of_identity(seen, {}, {}, T0 + 16 * MINUTE)["conditions"]
    assert {c["reason"] for c in conditions} == {"Expired"}


def test_the_status_says_the_same_before_and_after_a_refresh():
    seen = minted(waiting())
    before = status.of_identity(seen, {}, {}, T0)
    later = T0 + 10 * MINUTE
    assert status.of_identity(minted(seen, later), {}, before, later) == before
    assert "nextActionTime" not in before
    assert before["tokens"] == [
        {
            "name": "payments",
            "secretName": SECRET,
            "issuer": "https://issuer.example/default",
            "subject": "shop/order-service",
            "keyID": RING.active.key_id,
        }
    ]


def test_a_token_is_looked_at_at_its_refresh_and_when_that_can_not_be_at_its_end():
    seen = minted(waiting())
    refresh = plan.next_refresh(seen, T0)
    assert refresh <= T0 + 10 * MINUTE
    assert plan.next_refresh(seen, refresh) == T0 + 15 * MINUTE
    assert plan.next_refresh(seen, T0 + 15 * MINUTE) is None
    assert plan.deadline(seen, T0) is None


def test_neither_token_nor_its_id_nor_its_signature_is_in_metadata_or_status():
    seen = minted(waiting())
    view = seen.contents[SECRET]
    shown = json.dumps([dict(view.annotations), dict(view.labels), status.of_identity(seen, {}, {}, T0)])
    token_id, pieces = claims_of(view)["jti"], text_of(view).split(".")
    assert len(token_id) == 32
    assert not any(piece in shown for piece in (token_id, *pieces))


def test_each_token_has_an_id_of_its_own():
    seen = waiting()
    assert len({claims_of(minted(seen).contents[SECRET])["jti"] for _ in range(20)}) == 20


def test_labels_that_are_asked_for_are_on_the_secret():
    seen = minted(waiting({"secretTemplate": {"labels": {"team": "orders"}, "annotations": {"note": "x"}}}))
    assert seen.contents[SECRET].labels["team"] == "orders"
    assert seen.contents[SECRET].annotations["note"] == "x"


def test_the_example_asks_for_what_its_comments_say():
    examples = Path(__file__).parents[3] / "examples" / "jwt"
    body, shared = (yaml.safe_load((examples / name).read_text()) for name in ("tokens.yaml", "trust-domain.yaml"))
    body["metadata"] |= {"uid": "u"}
    found = parse.identity(body)
    secrets = ["report-service-payments-token", "report-service-inventory-token"]
    assert [one.spec.secret_name for one in credentials_of(found)] == secrets
    (denied,) = check_tokens(found, domain())
    assert "spec.policy.tokens.permissions" in denied.message
    assert check_tokens(found, domain(policy=shared["spec"]["policy"])) == ()
