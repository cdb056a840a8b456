"""Authorities that people bring along: which are accepted, why others are not, and that they live like any other."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.domain import authority, parse, status
from serviceidentity.domain.authority import Brought, ImportAuthority, MakeAuthority
from serviceidentity.domain.material import Held, SecretContent
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.errors import InvalidSpecError
from tests.unit.domain.authorities_at_work import Works
from tests.unit.domain.builders import DAY, HOUR, T0, domain, trust_domain_body, view_of
from tests.unit.pki.companies import company, key_pem, pem, without

SECOND = timedelta(seconds=1)
TIMES = {"maxLeafDuration": "24h", "backdate": "0s", "propagation": "2h"}
ROOT = {"root": {"secretRef": {"name": "company"}}, "intermediate": {"duration": "240h"}} | TIMES
INTERMEDIATE = {"intermediate": {"secretRef": {"name": "company"}}} | TIMES
MADE_HERE = {"root": {"duration": "2400h"}, "intermediate": {"duration": "240h"}} | TIMES
RSA_1024 = rsa.generate_private_key(public_exponent=65537, key_size=1024)


def secret(data, **changes):
    return view_of(SecretContent.of("kubernetes.io/tls", data, {}), "company", "system", **changes)


def read(spec, data, now=T0, **changes):
    return authority.read_brought(domain(**spec), None if data is None else secret(data, **changes), now)


def refused(spec, data, now=T0, **changes):
    found = read(spec, data, now, **changes)
    assert isinstance(found, Held)
    assert found.message.startswith("Secret company")
    return found.reason


def top(**changes):
    return company("Company root", **changes)


def issuing(above=None, **changes):
    return company("Company issuing", above or top(), **changes)


def test_a_root_and_an_intermediate_are_accepted_with_their_path():
    root = top()
    policy = company("Company policy", root)
    lower = issuing(policy)
    assert read(ROOT, root.secret()).path.certificates == root.path
    for data in (lower.secret(), lower.secret(chain_in_ca=True)):
        found = read(INTERMEDIATE, data)
        assert isinstance(found, Brought)
        assert found.path.certificates == (lower.certificate, policy.certificate, root.certificate)
        assert found.remarks == ()


def test_nothing_is_brought_along_unless_the_spec_says_so():
    assert read(MADE_HERE, top().secret()) is None


def test_a_certificate_of_a_shop_is_no_authority():
    shop = issuing(ca=False)
    assert refused(INTERMEDIATE, shop.secret()) == "NotAnAuthority"
    assert refused(INTERMEDIATE, issuing(ca=None).secret()) == "NotAnAuthority"


BAD_ROOTS = {
    "NotAnAuthority": [
        {"ca": False},
        {"usage": None},
        {"usage": x509.KeyUsage(True, False, False, False, False, False, True, False, False)},
        {"key_id": False},
    ],
    "PathLengthTooSmall": [{"path_length": 0}],
    "Expired": [{"begins": T0 - 2 * DAY, "lives": DAY}, {"begins": T0 - DAY, "lives": DAY}],
    "NotYetValid": [{"begins": T0 + SECOND}],
    "WeakKey": [{"key": RSA_1024}],
    "UnsupportedKey": [
        {"key": ec.generate_private_key(ec.SECP521R1())},
        {"key": ec.generate_private_key(ec.SECP256K1())},
    ],
}


@pytest.mark.parametrize(("reason", "changes"), [(r, c) for r, changes in BAD_ROOTS.items() for c in changes])
def test_a_root_that_can_not_sign_here_is_refused_with_its_reason(reason, changes):
    assert refused(ROOT, top(**changes).secret()) == reason


ABOVE = {
    "PathLengthTooSmall": {"path_length": 0},
    "Expired": {"begins": T0 - 2 * DAY, "lives": DAY},
    "NotYetValid": {"begins": T0 + SECOND},
    "WeakKey": {"key": RSA_1024},
    "NotAnAuthority": {"ca": False},
}


@pytest.mark.parametrize(("reason", "changes"), ABOVE.items())
def test_the_path_above_an_intermediate_is_examined_as_well(reason, changes):
    assert refused(INTERMEDIATE, issuing(top(**changes)).secret()) == reason


def test_a_root_above_may_have_any_strong_key():
    for key in (ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate()):
        assert isinstance(read(INTERMEDIATE, issuing(top(key=key)).secret()), Brought)


def test_what_is_wrong_with_the_secret_itself_is_said():
    root, lower = top(), issuing()
    assert refused(ROOT, None) == "SecretMissing"
    assert refused(ROOT, {}) == "MissingData"
    assert refused(ROOT, without(root.secret(), "tls.key")) == "MissingData"
    assert refused(ROOT, root.secret() | {"tls.crt": b"super secret"}) == "InvalidCertificate"
    assert refused(INTERMEDIATE, lower.secret() | {"ca.crt": b"super secret"}) == "InvalidCertificate"
    assert refused(ROOT, root.secret() | {"tls.key": b"super secret"}) == "InvalidKeyPair"
    assert refused(ROOT, root.secret() | {"tls.key": key_pem(root.key, b"password")}) == "InvalidKeyPair"
    assert refused(ROOT, root.secret() | {"tls.key": lower.secret()["tls.key"]}) == "InvalidKeyPair"
    assert refused(ROOT, lower.secret()) == "NotARoot"
    assert refused(INTERMEDIATE, root.secret()) == "NotAnIntermediate"
    assert refused(INTERMEDIATE, lower.secret() | {"tls.crt": pem(lower.certificate)}) == "IncompleteChain"
    assert refused(INTERMEDIATE, lower.secret() | {"tls.crt": pem(lower.certificate) + root.secret()["tls.crt"]}) == (
        "IncompleteChain"
    ), "a root of the same name that did not sign it"
    ours = {"app.kubernetes.io/managed-by": "serviceidentity-operator"}
    assert refused(ROOT, root.secret(), labels=ours) == "NotAllowed"


@settings(deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_no_bytes_in_the_secret_do_more_than_be_refused(chain, key, above):
    for spec in (ROOT, INTERMEDIATE):
        found = read(spec, {"tls.crt": chain, "tls.key": key, "ca.crt": above})
        assert isinstance(found, Held)
        assert not any(part and part.decode("latin1") in found.message for part in (chain, key) if len(part) > 12)


def test_limits_for_what_is_signed_are_remarked():
    names = x509.NameConstraints([x509.DNSName("example.org")], None)
    servers = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    found = read(INTERMEDIATE, issuing(top(extensions=(names,)), extensions=(servers,)).secret())
    assert len(found.remarks) == 2
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    assert read(INTERMEDIATE, issuing(extensions=(both,)).secret()).remarks == ()


def test_of_a_renewed_root_the_one_that_is_valid_is_taken():
    old = top(begins=T0 - 10 * DAY, lives=9 * DAY)
    new = old.renewed(T0 - DAY, 100 * DAY)
    data = issuing(old).secret(chain_in_ca=True)
    for order in ((old, new), (new, old)):
        found = read(INTERMEDIATE, data | {"ca.crt": b"".join(pem(one.certificate) for one in order)})
        assert found.root == new.certificate


def test_the_root_comes_with_the_intermediate():
    both = {"root": {"secretRef": {"name": "a"}}, "intermediate": {"secretRef": {"name": "b"}}}
    with pytest.raises(InvalidSpecError, match=r"spec\.root\.secretRef: must be left out"):
        domain(**both)


def works(spec, company_, **more):
    made = Works(domain(**spec | more))
    bring(made, company_)
    made.publish()
    return made


def bring(made, company_):
    """Put it into the Secret; None takes the Secret away."""
    made.brought = None if company_ is None else secret(company_.secret())
    made.work()


def through(made, spec, **more):
    made.domain = domain(**spec | more)
    made.work()


def leaf_chain_of(made):
    return made.trust.signer.chain


def test_a_root_that_was_brought_along_signs_our_intermediate():
    root = top()
    made = works(ROOT, root)
    assert made.states() == {"root-1": "Active", "intermediate-1": "Active"}
    (ours,) = leaf_chain_of(made)
    assert certificates.signed_by(ours, root.certificate)
    assert made.trust.roots == (root.certificate,)


def test_an_intermediate_that_was_brought_along_signs_with_its_whole_chain_and_no_key_of_the_root():
    policy = company("Company policy", top())
    lower = issuing(policy)
    made = works(INTERMEDIATE, lower)
    assert made.states() == {"root-1": "Active", "intermediate-1": "Active"}
    assert leaf_chain_of(made) == (lower.certificate, policy.certificate)
    assert made.trust.roots == (lower.path[-1],)
    assert "tls.key" not in made.named("root-1").view.data
    assert made.named("root-1").key is None


def test_nothing_outlives_the_chain_above():
    soon = top(lives=2 * DAY)
    made = works(INTERMEDIATE, issuing(soon, lives=3000 * DAY))
    assert made.trust.signer.not_after == soon.certificate.not_valid_after_utc
    assert made.named("intermediate-1").not_after == soon.certificate.not_valid_after_utc
    made.go(soon.certificate.not_valid_after_utc)
    trust = authority.trust_of(made.seen, made.now)
    assert isinstance(trust, Held) or isinstance(trust.signer, Held)


def test_a_new_root_in_the_secret_is_published_before_it_signs_and_the_old_one_retires():
    made = works(ROOT, top())
    new = company("Company root 2")
    bring(made, new)
    assert made.states()["root-2"] == "Prepared"
    assert made.signs() == "intermediate-1"
    made.go(made.now + DAY)
    assert made.states()["root-2"] == "Prepared", "nobody has it yet"
    made.publish()
    made.go(made.now + 2 * HOUR)
    assert made.states() == {
        "root-1": "Retiring", "root-2": "Active", "intermediate-1": "Retiring", "intermediate-2": "Active",
    }  # fmt: skip
    made.go(made.now + DAY)
    assert made.states() == {"root-2": "Active", "intermediate-2": "Active"}
    assert made.trust.roots == (new.certificate,)


def test_a_new_intermediate_under_the_same_root_waits_and_takes_over():
    root = top()
    made = works(INTERMEDIATE, issuing(root))
    bring(made, issuing(root))
    assert made.states() == {"root-1": "Active", "intermediate-1": "Active", "intermediate-2": "Prepared"}
    made.go(made.now + 2 * HOUR)
    assert made.signs() == "intermediate-2"
    made.go(made.now + DAY)
    assert made.states() == {"root-1": "Active", "intermediate-2": "Active"}


def test_a_new_intermediate_under_a_new_root_goes_the_way_of_the_root():
    made = works(INTERMEDIATE, issuing())
    bring(made, issuing(company("Company root 2")))
    assert made.states()["root-2"] == made.states()["intermediate-2"] == "Prepared"
    made.go(made.now + 3 * HOUR)
    assert made.signs() == "intermediate-1"
    made.publish()
    made.go(made.now + 2 * HOUR)
    assert made.signs() == "intermediate-2"
    made.go(made.now + DAY)
    assert made.states() == {"root-2": "Active", "intermediate-2": "Active"}


def test_a_root_renewed_with_the_same_key_takes_its_intermediate_along():
    root = top(lives=30 * DAY)
    made = works(ROOT, root)
    bring(made, root.renewed(T0 - HOUR, 300 * DAY))
    assert made.states() == {"root-1": "Active", "intermediate-1": "Active", "root-2": "Prepared"}
    made.publish()
    made.go(made.now + 2 * HOUR)
    assert made.states() == {"root-2": "Active", "intermediate-1": "Active"}
    assert made.signs() == "intermediate-1"


@pytest.mark.parametrize("spec", [ROOT, INTERMEDIATE])
def test_one_that_is_put_back_signs_again(spec):
    first, second = (top(), top()) if spec is ROOT else (issuing(), issuing())
    made = works(spec, first)
    for brought in (second, first):
        bring(made, brought)
        made.publish()
        made.go(made.now + 2 * HOUR)
        assert made.trust.signer.chain[-1].issuer == brought.path[-1].subject
        assert certificates.signed_by(made.trust.signer.chain[-1], brought.path[-1])
    assert len(made.trust.roots) == 2, "each is there once"


def test_an_intermediate_whose_root_was_renewed_lives_as_long_as_the_new_one():
    root = top(lives=3 * DAY)
    lower = issuing(root, lives=3000 * DAY)
    made = works(INTERMEDIATE, lower)
    bring(made, replace(lower, above=root.renewed(T0 - HOUR, 300 * DAY)))
    made.publish()
    made.go(made.now + 2 * HOUR)
    made.publish()
    made.go(made.now + 10 * DAY)
    assert made.signs() == "intermediate-2"
    assert made.states() == {"root-2": "Active", "intermediate-2": "Active"}


@pytest.mark.parametrize("spec", [ROOT, INTERMEDIATE])
def test_what_was_imported_works_on_while_the_secret_is_broken_or_gone(spec):
    mine = top() if spec is ROOT else issuing()
    made = works(spec, mine)
    before = made.states()
    for data in (None, {}, mine.secret() | {"tls.key": b"?"}):
        made.brought = None if data is None else secret(data)
        made.go(made.now + DAY)
        assert made.signs() != "nobody"
        (condition,) = (c for c in report(made) if c["type"] == "SourceReady")
        assert condition["status"] == "False"
        assert "what is there from before stays in use" in condition["message"]
        assert report(made)[0]["status"] == "True"
    bring(made, mine)
    assert made.states().keys() >= before.keys() - {"intermediate-1"}


def test_without_a_usable_secret_nothing_is_made_in_its_place():
    for spec in (ROOT, INTERMEDIATE):
        made = Works(domain(**spec))
        made.work()
        assert made.found == ()
        verdict = authority.plan(made.seen, made.now)
        assert isinstance(verdict, Held)
        assert verdict.reason == "SecretMissing"


def test_the_secret_is_never_taken_for_read_when_it_was_not():
    verdict = authority.plan(replace(Works(domain(**ROOT)).seen, source=None), T0)
    assert isinstance(verdict, Held)


def report(made):
    return status.of_trust_domain(made.seen, None, None, {}, made.now)["conditions"]


def test_people_are_asked_to_renew_what_they_brought_along_in_time():
    made = works(INTERMEDIATE, issuing(lives=100 * DAY))
    assert [c["reason"] for c in report(made)] == ["Ready", "Available"]
    due = authority.deadline(made.seen, made.now)
    assert T0 + 65 * DAY < due <= T0 + 69 * DAY
    made.go(due)
    assert [c["reason"] for c in report(made)] == ["Ready", "RenewalDue"]
    assert made.signs() == "intermediate-1", "it still signs"
    bring(made, issuing(made_above(made)))
    assert [c["reason"] for c in report(made)] == ["Ready", "Available"]


def made_above(_made):
    return company("Company root 2", begins=T0 - DAY)


def test_the_time_of_that_can_be_set():
    made = works(ROOT | {"root": {"secretRef": {"name": "company"}, "renewBefore": "1000h"}}, top(lives=100 * DAY))
    made.go(T0 + 99 * DAY - timedelta(hours=1000))
    assert report(made)[1]["reason"] == "RenewalDue"


def test_a_rotation_that_only_people_can_serve_is_answered():
    made = works(ROOT, top())
    body = trust_domain_body(**ROOT)
    body["metadata"]["annotations"] = {"serviceidentity.dev/rotate-root": "1"}
    made.domain = parse.trust_domain(body)
    made.work()
    assert "root-2" not in made.states()
    assert "a new root was asked for" in report(made)[1]["message"]
    bring(made, company("Company root 2"))
    assert "asked for" not in report(made)[1]["message"]


def test_a_tainted_authority_is_not_imported_again_nor_its_key_under_another_certificate():
    root = top()
    made = works(ROOT, root)
    listed = [{"fingerprint": made.named("root-1").fingerprint}]
    through(made, ROOT, taintedAuthorities=listed)
    assert made.signs() == "nobody"
    assert made.seen.source.reason == "Tainted"
    bring(made, root.renewed(T0 - HOUR, 300 * DAY))
    assert made.seen.source.reason == "Tainted"
    assert made.signs() == "nobody"
    bring(made, company("Company root 2"))
    made.publish()
    made.publish()
    assert made.signs() == "intermediate-2"


def test_a_taint_is_about_the_key_whatever_certificate_it_has_now():
    root = top()
    made = works(ROOT, root)
    bring(made, root.renewed(T0 - HOUR, 300 * DAY))
    made.publish()
    assert made.states()["root-2"] == "Prepared"
    through(made, ROOT, taintedAuthorities=[{"fingerprint": made.named("root-1").fingerprint}])
    assert "root-2" not in made.states(), "it never signs, and nobody need trust it"
    assert made.signs() == "nobody"


SOURCES = [MADE_HERE, ROOT, INTERMEDIATE]


@pytest.mark.parametrize("before", SOURCES)
@pytest.mark.parametrize("after", SOURCES)
def test_authorities_can_be_made_here_instead_and_the_other_way_round(before, after):
    root = top()
    both = {"ROOT": root, "INTERMEDIATE": issuing(root)}

    def mine(spec):
        return None if spec is MADE_HERE else both["ROOT" if spec is ROOT else "INTERMEDIATE"]

    made = works(before, mine(before))
    made.brought = None if mine(after) is None else secret(mine(after).secret())
    made.domain = domain(**after)
    made.work()
    for _ in range(6):
        made.publish()
        assert made.signs() != "nobody"
        made.go(made.now + 2 * HOUR)
    made.go(made.now + 2 * DAY)
    states = made.states()
    assert sorted(states.values()) == ["Active", "Active"]
    newest_root = next(a for a in made.found if a.role == "Root")
    assert (newest_root.certificate == root.certificate) is (after is not MADE_HERE)
    intermediate = next(a for a in made.found if a.role == "Intermediate")
    assert (intermediate.imported_from is not None) is (after is INTERMEDIATE)
    count = len(made.steps)
    made.go(made.now + DAY)
    assert len(made.steps) == count, "at rest"


def test_the_copy_of_a_key_is_the_key_that_was_brought():
    lower = issuing()
    made = works(INTERMEDIATE, lower)
    assert (
        keys.load(made.named("intermediate-1").view.value("tls.key")).private_numbers() == lower.key.private_numbers()
    )
    assert not any(isinstance(step, MakeAuthority) for step in made.steps)
    assert all(isinstance(step, ImportAuthority) for step in made.steps), "two writes and no more"


POOL = [company(f"Company root {number}", begins=T0 - DAY, lives=(9 + number) * DAY) for number in range(3)]
POOL += [POOL[0].renewed(T0 - HOUR, 20 * DAY)]
LOWER = [company("Company issuing", one, lives=8 * DAY) for one in POOL] + [company("Company issuing", POOL[0])]


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([ROOT, INTERMEDIATE]),
    st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from(["0", "1", "2", "3", "4", "gone", "publish", "taint", "here"])),
        max_size=12,
    ),
)
def test_whatever_is_brought_along_nobody_meets_a_certificate_whose_root_is_new_to_them(spec, story):
    pool, listed, current = (POOL, [], spec) if spec is ROOT else (LOWER, [], spec)
    made = works(spec, pool[0])
    for pause, event in story:
        if event == "gone":
            bring(made, None)
        elif event == "taint":
            listed.append({"fingerprint": made.found[len(listed) % len(made.found)].fingerprint})
        elif event == "here":
            current = MADE_HERE if current is not MADE_HERE else spec
        elif event != "publish":
            bring(made, pool[int(event) % len(pool)])
        made.domain = domain(**current | {"taintedAuthorities": listed})
        until = made.now + pause * HOUR
        made.work()
        while (due := authority.deadline(made.seen, made.now)) is not None and due <= until:
            made.go(due)
            check(made)
        made.go(until)
        if event == "publish":
            made.publish()
        check(made)
        shown = status.of_trust_domain(made.seen, None, None, {}, made.now)["authorities"]
        later = made.now + SECOND
        if authority.deadline(made.seen, made.now) not in (made.now, later):
            again = status.of_trust_domain(made.seen, None, None, {}, later)["authorities"]
            assert shown == again, "at rest the status says the same at each look"


def check(made):
    trust = authority.trust_of(made.seen, made.now)
    if isinstance(trust, Held) or isinstance(trust.signer, Held):
        return
    by = next(a for a in made.found if a.key is trust.signer)
    root = made.seen.root_of(by)
    assert not made.seen.is_tainted(by)
    assert made.now < by.not_after <= root.not_after
    assert pem(root.certificate).strip() in made.bundle_held, "the root was published before its first leaf"
    end = made.now + min(made.domain.max_leaf_duration, trust.signer.not_after - made.now)
    made.leaves[by.fingerprint] = max(end, made.leaves.get(by.fingerprint, end))
    for fingerprint, ends in made.leaves.items():
        alive = [a for a in made.found if a.fingerprint == fingerprint]
        if ends > made.now and not any(made.seen.is_tainted(a) for a in alive):
            assert alive, "an authority stays while what it signed may be in use"
            assert any(made.seen.root_of(a).certificate in trust.roots for a in alive)
