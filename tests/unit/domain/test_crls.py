"""When revocation lists are issued and what is on them: nothing revoked is ever missing, and numbers only grow."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.domain import status
from serviceidentity.domain.authority import crls
from serviceidentity.domain.authority.crl_records import Revocation, read_crl
from serviceidentity.domain.authority.crls import IssueCrl, RemoveCrl
from serviceidentity.domain.material import MalformedError
from tests.unit.domain.builders import DAY, HOUR, T0, domain
from tests.unit.domain.lists_at_work import ListWorks
from tests.unit.domain.test_authority_life import SHORT, tainted, works
from tests.unit.domain.test_parse import schema_of, unknown

SECOND = timedelta(seconds=1)
LISTS = {"crl": {"duration": "72h"}}


def at_work(**spec):
    made = ListWorks(works(**spec))
    made.work()
    return made


def revoked(made, serial, name="intermediate-1", ends=None, **fields):
    issuer = made.works.named(name).fingerprint
    made.asked.append(
        Revocation(serial, made.works.now, issuer=issuer, not_after=ends or made.works.now + DAY, **fields)
    )
    made.work()


def spec_of(made, **spec):
    made.works.domain = domain(**SHORT | spec)
    made.work()


def test_a_trust_domain_where_nothing_is_revoked_has_no_lists():
    made = at_work()
    assert made.issued == []
    assert crls.deadline(made.seen, made.works.now) is None


def test_asked_for_every_authority_has_one_from_the_start():
    made = at_work(**LISTS)
    assert made.numbers() == {"root-1": 1, "intermediate-1": 1}
    crl = made.found["default-intermediate-1"]
    assert (crl.this_update, crl.next_update) == (T0, T0 + 72 * HOUR)


def test_thisupdate_is_backdated_for_clocks_that_are_behind():
    made = at_work(backdate="5m", **LISTS)
    crl = made.found["default-root-1"]
    assert (crl.this_update, crl.issued_at) == (T0 - timedelta(minutes=5), T0)


def test_the_first_revocation_begins_them_for_all_authorities():
    made = at_work()
    revoked(made, "0a")
    assert made.on("intermediate-1") == {"0a"}
    assert made.on("root-1") == set(), "whoever checks the chain needs this one as well"
    made.asked.clear()
    made.go(T0 + 100 * HOUR)
    assert made.numbers() == {"root-1": 2, "intermediate-1": 2}, "and they go on"


def test_a_list_is_refreshed_before_its_end_and_not_earlier_than_promised():
    made = at_work(**LISTS)
    due = crls.deadline(made.seen, T0)
    assert T0 + 22 * HOUR < due <= T0 + 24 * HOUR, "two thirds before the end, jitter only earlier"
    made.go(due - SECOND)
    assert set(made.numbers().values()) == {1}
    made.go(T0 + 24 * HOUR)
    assert set(made.numbers().values()) == {2}


def test_nothing_is_due_after_the_work():
    made = at_work(**LISTS)
    for _ in range(5):
        due = crls.deadline(made.seen, made.works.now)
        assert due > made.works.now
        made.go(due)


def test_another_duration_takes_effect_at_once():
    made = at_work(**LISTS)
    spec_of(made, crl={"duration": "10h", "renewBefore": "1h"})
    assert made.found["default-root-1"].next_update == T0 + 10 * HOUR
    assert crls.deadline(made.seen, T0) > T0 + 8 * HOUR


def test_a_list_from_a_clock_that_was_ahead_is_replaced():
    made = at_work()
    made.works.now = T0 + 2 * HOUR
    spec_of(made, **LISTS)
    steps = crls.plan(made.seen, T0 + HOUR)
    assert [(s.reason, s.number) for s in steps] == [("NotYetValid", 2)] * 2


def test_a_prepared_authority_has_its_list_before_it_signs_and_a_retiring_one_while_it_is_trusted():
    made = at_work(**LISTS)
    while made.works.states().get("root-2") != "Prepared":
        made.go(made.works.next())
        made.works.publish()
    made.work()
    assert made.numbers().keys() == {name for name, state in made.works.states().items() if state != "Expired"}
    assert made.on("root-2") == set()
    while made.works.states().get("root-1") != "Retiring":
        made.go(made.works.next())
        made.works.publish()
    before = made.numbers()["root-1"]
    revoked(made, "0b", made.works.signs())
    serial = next(name for name, state in made.works.states().items() if state == "Retiring" and "inter" in name)
    revoked(made, "0c", serial)
    assert "0c" in made.on(serial)
    assert made.numbers()["root-1"] == before, "nothing to say about it"


def test_the_list_of_an_authority_that_is_gone_stays_until_its_end():
    made = at_work(**LISTS)
    name = "default-intermediate-1"
    made.works.found = tuple(a for a in made.works.found if a.view.name != name)
    (step,) = (s for s in crls.plan(made.seen, T0 + 72 * HOUR) if isinstance(s, RemoveCrl))
    assert step.secret_name == f"{name}-crl"
    assert not any(isinstance(s, RemoveCrl) for s in crls.plan(made.seen, T0 + 72 * HOUR - SECOND))
    assert crls.published(made.seen, T0).count(b"BEGIN") == 2
    assert crls.published(made.seen, T0 + 72 * HOUR).count(b"BEGIN") == 1


def test_nothing_is_removed_while_a_root_is_lost():
    made = at_work(**LISTS)
    lost = replace(made.works.seen, authorities=(), recorded=frozenset({"default-root-1"}))
    assert crls.plan(replace(made.seen, hierarchy=lost), T0 + 100 * DAY) == ()


def test_an_expired_authority_signs_no_list():
    made = at_work(**LISTS)
    late = made.works.named("intermediate-1").not_after
    steps = crls.plan(made.seen, late)
    assert all(s.authority.view.name != "default-intermediate-1" for s in steps if isinstance(s, IssueCrl))
    assert not crls.issues_lists(made.works.seen, made.works.named("root-1"), made.works.named("root-1").not_after)


def test_an_authority_that_is_not_valid_yet_signs_no_list():
    made = at_work(**LISTS)
    begins = made.works.named("root-1").not_before
    made.found.clear()
    assert crls.plan(made.seen, begins - SECOND) == ()
    assert len(crls.plan(made.seen, begins)) == 2


def test_a_tainted_authority_has_a_list_for_as_long_as_it_is_trusted():
    made = at_work(**LISTS)
    tainted(made.works, "root-1")
    assert crls.issues_lists(made.works.seen, made.works.named("root-1"), T0)
    tainted(made.works, "root-1", removeFromBundle="Immediately")
    for name in ("root-1", "intermediate-1"):
        assert not crls.issues_lists(made.works.seen, made.works.named(name), T0)
    assert made.works.named("root-1").fingerprint in made.works.domain.tainted


def test_a_tainted_intermediate_goes_on_its_roots_list_when_it_goes():
    made = at_work(**LISTS)
    serial = crls._serial(made.works.named("intermediate-1"))
    made.works.leaves = {made.works.named("intermediate-1").fingerprint: T0 + 20 * HOUR}
    tainted(made.works, "intermediate-1")
    made.work()
    assert made.on("root-1") == set(), "its certificates are being replaced, no handshake is to fail"
    made.works.leaves.clear()
    made.works.work()
    made.go(made.works.now + 2 * HOUR - SECOND)
    assert made.on("root-1") == set()
    made.go(made.works.now + SECOND)
    assert "intermediate-1" not in made.works.states()
    assert made.on("root-1") == {serial}
    assert made.found["default-root-1"].entries[serial].reason == "cACompromise"


def test_a_tainted_intermediate_goes_at_once_when_that_is_asked_for_and_can_come_back():
    made = at_work()
    serial = crls._serial(made.works.named("intermediate-1"))
    made.works.leaves = {made.works.named("intermediate-1").fingerprint: T0 + 20 * HOUR}
    tainted(made.works, "intermediate-1", removeFromBundle="Immediately")
    made.work()
    assert made.on("root-1") == {serial}
    spec_of(made)
    assert made.on("root-1") == set(), "what the spec says of an authority that is there is all that counts"


def test_an_intermediate_is_not_revoked_through_the_list_of_certificates():
    made = at_work()
    serial = crls._serial(made.works.named("intermediate-1"))
    for issuer in (None, made.works.named("root-1").fingerprint):
        made.asked.append(Revocation(serial, T0, issuer=issuer))
    made.work()
    assert made.on("root-1") == set()


def test_without_an_issuer_a_certificate_is_on_the_list_of_every_intermediate():
    made = at_work()
    made.asked.append(Revocation("0d", T0 - DAY, "superseded"))
    made.work()
    assert made.on("intermediate-1") == {"0d"}
    assert made.on("root-1") == set()
    entry = made.found["default-intermediate-1"].entries["0d"]
    assert (entry.revoked_at, entry.reason) == (T0 - DAY, "superseded")


def test_a_revocation_is_not_dated_in_the_future():
    made = at_work()
    made.asked.append(Revocation("0d", T0 + DAY))
    made.work()
    assert made.found["default-intermediate-1"].entries["0d"].revoked_at == T0


def test_an_entry_keeps_its_first_time_and_reason_and_stays_when_nobody_asks_any_more():
    made = at_work()
    revoked(made, "0a", reason="superseded", ends=T0 + 9 * DAY)
    made.asked.clear()
    made.works.now = T0 + HOUR
    revoked(made, "0a", reason="keyCompromise", ends=T0 + 9 * DAY)
    made.asked.clear()
    made.go(T0 + 2 * DAY)
    entry = made.found["default-intermediate-1"].entries["0a"]
    assert (entry.revoked_at, entry.reason) == (T0, "superseded")


def test_an_entry_goes_only_after_a_list_was_issued_after_the_certificates_end():
    """RFC 5280 3.3."""
    made = at_work()
    revoked(made, "0a", ends=T0 + 10 * HOUR)
    made.go(T0 + 24 * HOUR)
    assert made.numbers()["intermediate-1"] == 2
    assert made.on("intermediate-1") == {"0a"}, "issued after its end, and the last one that has it"
    made.go(T0 + 48 * HOUR)
    assert made.on("intermediate-1") == set()


def test_what_has_ended_is_not_listed_any_more():
    made = at_work(**LISTS)
    revoked(made, "0a", ends=T0)
    assert made.on("intermediate-1") == set()


def test_numbers_go_on_when_a_list_is_lost_and_the_loss_is_on_record():
    made = at_work()
    revoked(made, "0a")
    made.asked.clear()
    made.found.pop("default-intermediate-1")
    made.work()
    crl = made.found["default-intermediate-1"]
    assert (crl.number, crl.incomplete) == (2, True)
    made.go(T0 + 2 * DAY)
    assert made.found["default-intermediate-1"].incomplete, "until the authority is gone"


def test_a_lost_list_is_complete_when_everything_on_it_is_still_known():
    made = at_work()
    revoked(made, "0a")
    made.found.clear()
    made.work()
    assert made.numbers() == {"root-1": 2, "intermediate-1": 2}
    assert not any(crl.incomplete for crl in made.found.values())
    assert made.on("intermediate-1") == {"0a"}


def test_an_older_copy_put_back_is_followed_by_a_newer_one():
    made = at_work()
    revoked(made, "0a")
    old = dict(made.found)
    revoked(made, "0b")
    made.asked.clear()
    made.found = old
    made.work()
    crl = made.found["default-intermediate-1"]
    assert (crl.number, crl.incomplete, set(crl.entries)) == (3, True, {"0a"})


def test_an_unreadable_list_is_replaced():
    made = at_work(**LISTS)
    made.found.pop("default-root-1")
    made.broken = frozenset({"default-root-1"})
    made.work()
    assert made.numbers()["root-1"] == 2


@pytest.mark.parametrize("damage", ["", "nonsense", "bnVsbA==", "eyIwYSI6IDF9"])
def test_ends_that_cant_be_read_keep_the_entries(damage):
    made = at_work()
    revoked(made, "0a")
    view = made.found["default-intermediate-1"].view
    issuer = made.works.named("intermediate-1").certificate
    read = read_crl(replace(view, data={**view.data, "expiries.json": damage}), issuer)
    assert read.entries["0a"].not_after is None


def test_a_list_of_another_key_is_not_taken_for_ones_own():
    made = at_work(**LISTS)
    with pytest.raises(MalformedError):
        read_crl(made.found["default-root-1"].view, made.works.named("intermediate-1").certificate)


def test_a_full_list_takes_what_the_spec_says_and_nothing_more_from_identities(monkeypatch):
    monkeypatch.setattr(crls, "MOST_ENTRIES", 3)
    made = at_work()
    for number in range(5):
        revoked(made, f"0{number + 1}")
    assert made.on("intermediate-1") == {"01", "02", "03"}
    found = status.of_trust_domain(made.works.seen, None, None, {}, T0, None, made.seen)
    assert [c["reason"] for c in found["conditions"]] == ["Ready", "ListFull"]
    made.asked.append(Revocation("0e", T0))
    made.work()
    assert made.on("intermediate-1") == {"01", "02", "03", "0e"}
    made.asked = made.asked[3:]
    for _ in range(4):
        made.go(made.works.now + 24 * HOUR)
    assert made.on("intermediate-1") == {"0e"}, "there is room when the certificates have ended"


def test_the_status_shows_them_in_the_form_of_its_schema():
    made = at_work()
    revoked(made, "0a")
    found = status.of_trust_domain(made.works.seen, None, None, {}, T0, None, made.seen)
    assert unknown(found, schema_of("trustdomains", "status")) == []
    assert [item["crl"]["revoked"] for item in found["authorities"]] == [0, 1]
    assert found["nextActionTime"] < "2026-01-02T12:00:00Z"
    failed = status.of_trust_domain(
        made.works.seen, None, None, {}, T0, None, made.seen, status.Failure("Conflict", "x")
    )
    assert [c["type"] for c in failed["conditions"] if c["status"] == "False"] == ["CRLReady"]


def test_a_certificate_of_an_authority_that_is_not_there_does_not_pass_in_silence():
    made = at_work(**LISTS)

    def message(issuer):
        entry = {"serialNumber": "0a", "issuerFingerprint": issuer}
        spec_of(made, revokedCertificates=[entry], **LISTS)
        found = status.of_trust_domain(made.works.seen, None, None, {}, T0, None, made.seen)
        return next(c["message"] for c in found["conditions"] if c["type"] == "CRLReady")

    assert "fingerprint" not in message(made.works.named("intermediate-1").fingerprint)
    assert message("0" * 64).endswith(f"there is no authority (any more) with fingerprint {'0' * 16}...")


def test_what_fails_is_tried_again_within_a_quarter_of_an_hour():
    made = at_work(**LISTS)
    found = {}
    for _ in range(12):
        found = status.of_trust_domain(
            made.works.seen, None, None, found, T0, None, made.seen, status.Failure("Rejected", "x")
        )
    assert found["backoff"]["nextAttemptTime"] == "2026-01-01T12:15:00Z"


moves = st.lists(
    st.one_of(
        st.tuples(st.just("revoke"), st.integers(1, 9), st.integers(1, 60)),
        st.tuples(st.just("wait"), st.integers(1, 90), st.just(0)),
        st.tuples(st.just("forget"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("lose"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("duration"), st.integers(1, 100), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(moves)
def test_whatever_happens_nothing_revoked_is_missing_and_every_list_counts(steps):
    made = ListWorks(works(intermediate={"duration": "2000h"}))
    for move, number, hours in steps:
        match move:
            case "revoke":
                revoked(made, f"0{number}", ends=made.works.now + hours * HOUR)
            case "wait":
                due = crls.deadline(made.seen, made.works.now)
                until = made.works.now + number * HOUR
                while due is not None and due <= until:
                    made.go(due)
                    due = crls.deadline(made.seen, made.works.now)
                made.go(until)
            case "forget":
                made.asked = made.asked[number:]
            case "lose" if made.found:
                made.found.pop(sorted(made.found)[number % len(made.found)])
                made.work()
            case "duration":
                spec_of(made, intermediate={"duration": "2000h"}, crl={"duration": f"{number}h"})
        check(made)


def check(made):
    now = made.works.now
    if made.found:
        for one in made.works.found:
            if crls.issues_lists(made.works.seen, one, now):
                crl = made.found[one.view.name]
                assert crl.this_update <= now < crl.next_update
                assert crls.refresh_of(made.works.domain, crl) > now
    for asked in made.asked:
        if asked.not_after > now:
            name = next(a.view.name for a in made.works.found if a.fingerprint == asked.issuer)
            assert asked.serial_number in made.found[name].entries
    by_issuer = {}
    for issuer, crl in made.issued:
        before = by_issuer.get(issuer)
        if before is not None:
            assert crl.number > before.number
            gone = before.entries.keys() - crl.entries.keys()
            complete = crl.number == before.number + 1 and not crl.incomplete
            ends = (before.entries[serial].not_after for serial in gone)
            assert not complete or all(before.this_update > end for end in ends), "RFC 5280 3.3"
        by_issuer[issuer] = crl
