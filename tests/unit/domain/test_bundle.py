"""What a trust bundle holds: strict about what comes in, the same bytes for the same roots, compared and not re-made."""

import json
from base64 import b64decode, b64encode, urlsafe_b64decode
from dataclasses import replace
from datetime import timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, pkcs12
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain import authority, ownership, status
from serviceidentity.domain import bundle as bundles
from serviceidentity.domain.bundle import Foreign, Place, Publication, Root, SourceError, Store
from serviceidentity.domain.bundle.publication import Trouble
from serviceidentity.domain.model import BundleFormat, StoreKind
from serviceidentity.domain.pki import certificates, formats, jks, keys
from serviceidentity.domain.pki.certificates import Subject, Validity
from serviceidentity.errors import InvalidSpecError
from tests.unit.domain.builders import DAY, T0, TRUST, authorities, domain, view_of
from tests.unit.domain.test_parse import schema_of, unknown
from tests.unit.pki.builders import ED25519, P256, P384, RSA, hierarchy, key_for, leaf, title

FORMATS = ["JKS", "PKCS12", "SPIFFE"]
TARGET = Place(StoreKind.CONFIG_MAP, "shop", "default-trust-bundle")


@cache
def root(name, days=3650, profile=P256):
    validity = Validity(T0 - 2 * DAY, T0 + days * DAY)
    return certificates.issue_root(Subject(name), key_for("root", profile), validity)


def pem(*roots):
    return certificates.encode_chain(*roots)


def extra(*names, source="extraRoots[0]"):
    return [Root.of(root(name), source) for name in names]


def spec(**target):
    found = domain(bundle={"target": {"formats": FORMATS, "namespaceSelector": {}} | target}).bundle
    assert found is not None
    return found


OWN = tuple(root(name) for name in ("own 1", "own 2"))
POOL = [Root.of(root(f"extra {n}"), f"extraRoots[{n % 3}]") for n in range(6)]


def assembled(own=OWN, more=(), **target):
    return bundles.assemble(bundles.merge(own, more, T0), spec(**target), 7, 300)


@given(st.lists(st.sampled_from(OWN), min_size=2), st.lists(st.sampled_from(POOL)), st.randoms())
def test_the_same_roots_in_any_order_and_number_give_the_same_bytes(own, more, chance):
    own, shuffled = own + list(OWN), more * 2
    first = assembled(own, more, formats=["JKS", "SPIFFE"])
    chance.shuffle(own)
    chance.shuffle(shuffled)
    assert assembled(own, shuffled, formats=["JKS", "SPIFFE"]).data == first.data
    held = certificates.load_chain(b64decode(first.data["ca.crt"]))
    assert len(held) == len(set(held)), "each once"
    assert set(held) == {*OWN, *(one.certificate for one in more)}


def test_what_is_over_is_left_out_and_counted_and_the_next_end_is_known():
    short, over = Root.of(root("short", 3)), Root.of(root("over", -1))
    merged = bundles.merge(OWN, [short, over], T0)
    assert [one.certificate for one in merged.extra] == [root("short", 3)]
    assert (merged.expired, merged.until) == (1, T0 + 3 * DAY)
    later = bundles.merge(OWN, [short, over], T0 + 3 * DAY)
    assert (later.extra, later.expired) == ((), 2)
    assert later.digest != merged.digest


def test_a_refused_authority_does_not_come_back_by_an_extra_source():
    (bad,) = extra("tainted")
    assert bundles.merge(OWN, [bad], T0, [bad.fingerprint]).extra == ()


def test_an_own_root_that_is_an_extra_one_too_is_an_own_one():
    merged = bundles.merge(OWN, [Root.of(OWN[0], "somewhere")], T0)
    assert (len(merged.own), merged.extra) == (2, ())


def test_text_between_certificates_is_passed_over():
    text = b"# Some CA\n" + pem(root("a")).replace(b"\n", b"\r\n") + b"\n  # Another\n" + pem(root("b")) + b"the end"
    assert [one.certificate for one in bundles.read_roots(text, "here")] == [root("a"), root("b")]


OTHER_DER = "\n".join(
    ["-----BEGIN CERTIFICATE-----", b64encode(b"\x30\x03\x02\x01\x01").decode(), "-----END CERTIFICATE-----"]
).encode()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "there is no certificate"),
        (b"sesame", "there is no certificate"),
        (pem(root("a"), leaf()), "entry 2 is not the certificate of a CA"),
        (pem(root("a")) + keys.encode(key_for("leaf"), keys.KeyEncoding.PKCS8), "entry 2 is not a whole PEM"),
        (pem(root("a"))[:-30], "entry 1 is not a whole PEM"),
        (pem(root("a"))[:-30] + pem(root("b")), "entry 1 is not a whole PEM"),
        (pem(root("a"), root("b")).replace(b"MII", b"MIX", 1), "entry 1 is not a readable"),
        (OTHER_DER, "entry 1 is not a readable"),
        (b"-----BEGIN CERTIFICATE-----\nsesame\n-----END CERTIFICATE-----", "entry 1 is not a readable"),
        (b"\xff\xfe-----BEGIN ", "entry 1 is not a whole PEM"),
    ],
)
def test_a_source_that_holds_anything_else_is_told_by_name_and_not_quoted(text, complaint):
    with pytest.raises(SourceError) as told:
        bundles.read_roots(text, "ConfigMap cas, key ca.crt")
    assert str(told.value).startswith(f"ConfigMap cas, key ca.crt: {complaint}")
    assert "sesame" not in str(told.value)


@given(st.binary(max_size=200), st.integers(0, 900))
def test_no_text_is_more_than_an_error(junk, cut):
    text = pem(root("a"))
    for damaged in (junk, text[:cut] + junk + text[cut:]):
        try:
            bundles.read_roots(damaged, "x")
        except SourceError:
            continue


def test_an_intermediate_is_a_ca_too():
    below = hierarchy().intermediate.certificate
    assert [one.certificate for one in bundles.read_roots(pem(below), "x")] == [below]


def test_from_a_broken_source_what_was_published_stays_and_nothing_else_a_copy_says():
    kept, gone, planted = root("kept"), root("from another source"), root("planted")
    recorded = {
        "extraRoots": [
            {"fingerprint": Root.of(kept).fingerprint, "source": "broken"},
            {"fingerprint": Root.of(gone).fingerprint, "source": "well"},
        ]
    }
    copies = [b"junk", pem(planted, gone), pem(kept, planted)]
    assert bundles.recover(recorded, ["broken"], [], copies) == [Root.of(kept, "broken")]
    assert bundles.recover(recorded, ["broken"], [Root.of(kept, "broken")], []) == [Root.of(kept, "broken")]
    assert bundles.recover({}, ["broken"], [Root.of(kept, "broken")], copies) == []
    assert bundles.recover({"extraRoots": ["junk", {}]}, ["broken"], [], copies) == []


@pytest.mark.parametrize(
    ("recorded", "copies", "expected"),
    [
        ({}, [], 1),
        ({"sequence": 4, "digest": "now"}, [(9, "now")], 4),
        ({"sequence": 4, "digest": "old"}, [], 5),
        ({"sequence": 4, "digest": "old"}, [(5, "now")], 5),
        ({"sequence": 4, "digest": "old"}, [(5, "lost"), (4, "old")], 6),
        ({"sequence": 4, "digest": "old"}, [(5, "now"), (6, "lost")], 7),
        ({"sequence": 4, "digest": "old"}, [(10**15, "planted")], 5),
        ({}, [(7, "now"), (7, "now")], 7),
        ({}, [(7, "old")], 8),
        ({}, [(10**15, "planted")], 1),
        ({"sequence": "junk", "digest": "now"}, [], 1),
    ],
)
def test_the_sequence_number_grows_with_each_change_and_survives_what_may_be_lost(recorded, copies, expected):
    assert bundles.next_sequence("now", recorded, copies) == expected


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1), st.integers(0, 5))
def test_no_two_neighbours_have_the_same_number_and_it_never_goes_back(digests, crashes):
    recorded, published = {}, []
    last = (0, "")
    for digest in digests:
        number = bundles.next_sequence(digest, recorded, published)
        assert number > last[0] or (number, digest) == last
        assert number != last[0] or digest == last[1]
        published.append((number, digest))
        last = (number, digest)
        if crashes:
            crashes -= 1  # killed before the status was written
        else:
            recorded = {"sequence": number, "digest": digest}


@pytest.mark.parametrize("profile", [P256, P384, RSA, ED25519], ids=title)
def test_the_spiffe_document_names_each_own_root_with_its_key(profile):
    mine = root("mine", profile=profile)
    held = b64decode(assembled((mine,), extra("company")).data["bundle.spiffe.json"])
    document = json.loads(held)
    (key,) = document.pop("keys")
    assert document == {"spiffe_sequence": 7, "spiffe_refresh_hint": 300}
    assert key.pop("use") == "x509-svid"
    assert x509.load_der_x509_certificate(b64decode(key.pop("x5c")[0])) == mine
    public = mine.public_key()
    numbers = {
        name: int.from_bytes(urlsafe_b64decode(value + "=="))
        for name, value in key.items()
        if name in ("x", "y", "n", "e")
    }
    match key.pop("kty"):
        case "EC":
            found = public.public_numbers()
            size = public.curve.key_size
            assert key["crv"] == f"P-{size}"
            assert len(urlsafe_b64decode(key["x"] + "==")) == size // 8
            assert numbers == {"x": found.x, "y": found.y}
        case "RSA":
            found = public.public_numbers()
            assert numbers == {"n": found.n, "e": found.e}
        case "OKP":
            assert key["crv"] == "Ed25519"
            assert urlsafe_b64decode(key["x"] + "==") == public.public_bytes_raw()


@given(st.integers(0, 8760 * 3600))
def test_consumers_are_told_to_look_well_inside_the_propagation_time(seconds):
    hint = bundles.refresh_hint(timedelta(seconds=seconds))
    assert 1 <= hint <= 300
    assert hint * 10 <= max(seconds, 10)


def test_truststores_hold_all_roots_and_open_with_the_password():
    made = assembled(more=extra("company"), truststorePassword="correct horse")
    assert jks.opens(b64decode(made.data["truststore.jks"]), "correct horse")
    store = pkcs12.load_pkcs12(b64decode(made.data["truststore.p12"]), b"correct horse")
    assert {entry.certificate for entry in store.additional_certs} == {*OWN, root("company")}


def test_pem_is_there_whatever_is_asked_for_and_a_crl_goes_along():
    merged = bundles.merge(OWN, [], T0)
    assert assembled(formats=["SPIFFE"]).data.keys() == {"ca.crt", "bundle.spiffe.json"}
    made = bundles.assemble(merged, spec(formats=[]), 1, 300, b"the list")
    assert {key: b64decode(value) for key, value in made.data.items()}["ca.crl"] == b"the list"
    assert b64decode(made.data["ca.crt"]) in (pem(*OWN), pem(*reversed(OWN)))


def test_a_bundle_that_fits_into_no_object_is_refused():
    merged = bundles.merge(OWN, [], T0)
    with pytest.raises(bundles.TooLargeError, match="1048576"):
        bundles.assemble(merged, spec(formats=[]), 1, 300, b"x" * (1 << 20))


@pytest.mark.parametrize("formats_", [[], FORMATS, ["PKCS12"]])
def test_a_bundle_holds_itself_and_no_other_and_pkcs12_is_compared_by_what_is_in_it(formats_):
    one, again, other = (
        assembled(formats=formats_),
        assembled(formats=formats_),
        assembled(more=extra("x"), formats=formats_),
    )
    assert one.is_held_by(again.data)
    assert not one.is_held_by(other.data)
    assert not one.is_held_by({**one.data, "extra": "eA=="})
    assert not one.is_held_by({key: value for key, value in one.data.items() if key != "ca.crt"})
    for key in one.data:
        assert not one.is_held_by({**one.data, key: b64encode(b"junk").decode()})


def test_a_pkcs12_file_with_another_password_or_a_key_in_it_is_another_one():
    one = assembled()
    stranger = assembled(truststorePassword="another one")
    assert not one.is_held_by({**one.data, "truststore.p12": stranger.data["truststore.p12"]})
    certs = [entry.certificate for entry in one.roots.all]
    smuggled = pkcs12.serialize_key_and_certificates(
        b"x", key_for("leaf"), leaf(), certs, formats._encryption(b"changeit")
    )
    assert not one.is_held_by({**one.data, "truststore.p12": b64encode(smuggled).decode()})


OWNER = domain(bundle={"target": {"namespaceSelector": {}, "formats": FORMATS, "template": {"labels": {"team": "a"}}}})
BUNDLE = bundles.assemble(bundles.merge(TRUST.roots, [], T0), OWNER.bundle, 1, 300)


def copy_of(bundle=BUNDLE, owner=OWNER, **changes):
    metadata = bundles.metadata_for(owner, TARGET, bundle)
    view = view_of(bundles.content_for(bundle, owner.bundle), TARGET.name, labels=metadata.labels)
    return replace(view, annotations=metadata.annotations, owners=metadata.owners, **changes)


def test_a_copy_that_is_right_is_left_alone():
    assert bundles.decide(OWNER, BUNDLE, TARGET, copy_of()) is None
    foreign = copy_of()
    foreign = replace(foreign, labels={**foreign.labels, "x": "y"}, annotations={**foreign.annotations, "x": "y"})
    assert bundles.decide(OWNER, BUNDLE, TARGET, foreign) is None, "what others put there is theirs"


def test_a_copy_that_is_missing_or_differs_is_written():
    assert bundles.decide(OWNER, BUNDLE, TARGET, None) == Store(TARGET)
    right = copy_of()
    for changed in (
        replace(right, data={**right.data, "ca.crt": "eA=="}),
        replace(right, labels={name: value for name, value in right.labels.items() if name != "team"}),
        replace(right, annotations={**right.annotations, "serviceidentity.dev/bundle-sequence": "9"}),
        replace(right, owners=({"controller": True, "uid": "uid-td", "kind": "x"},)),
    ):
        assert bundles.decide(OWNER, BUNDLE, TARGET, changed) == Store(TARGET, changed)


def test_anothers_pkcs12_file_is_right_where_its_maker_recorded_it_and_an_edited_one_is_not():
    other = bundles.assemble(BUNDLE.roots, OWNER.bundle, 1, 300)
    assert other.data != BUNDLE.data, "salts"
    assert bundles.decide(OWNER, BUNDLE, TARGET, copy_of(other)) is None
    edited = copy_of(data={**BUNDLE.data, "truststore.p12": other.data["truststore.p12"]})
    assert bundles.decide(OWNER, BUNDLE, TARGET, edited) == Store(TARGET, edited)
    assert bundles.decide(OWNER, BUNDLE, TARGET, edited, copy_of()) == Store(TARGET, edited)


AUTHORITY = {"serviceidentity.dev/authority-role": "Root"}
IDENTITY = {"serviceidentity.dev/identity": "a"}
CONTROLLER = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "default", "uid": "u", "controller": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {}},
        {"labels": {"app.kubernetes.io/managed-by": "serviceidentity-operator"}},
        {"labels": {bundles.BUNDLE_LABEL: "other"}},
        {"labels": {bundles.BUNDLE_LABEL: "default"} | AUTHORITY},
        {"labels": {bundles.BUNDLE_LABEL: "default"} | IDENTITY},
        {"labels": AUTHORITY, "annotations": {ownership.ADOPT_ANNOTATION: "default"}},
        {"annotations": {ownership.STORED_AS_ANNOTATION: "elsewhere/default-trust-bundle"}},
        {"owners": (CONTROLLER,)},
    ],
)
def test_what_is_not_ours_is_foreign(changes):
    assert bundles.decide(OWNER, BUNDLE, TARGET, replace(copy_of(), **changes)) == Foreign(TARGET)


def test_what_this_process_wrote_is_ours_without_any_label_and_what_is_handed_over_becomes_so():
    bare = replace(copy_of(), labels={}, annotations={}, owners=())
    assert bundles.decide(OWNER, BUNDLE, TARGET, bare, copy_of()) == Store(TARGET, bare)
    assert bundles.decide(OWNER, BUNDLE, TARGET, bare, copy_of(uid="another")) == Foreign(TARGET)
    given_away = replace(bare, annotations={ownership.ADOPT_ANNOTATION: "default"})
    assert bundles.decide(OWNER, BUNDLE, TARGET, given_away) == Store(TARGET, given_away)


@pytest.mark.parametrize(
    ("owner", "target", "served", "selected", "goes"),
    [
        (OWNER, TARGET, True, True, False),
        (OWNER, TARGET, False, False, True),
        (OWNER, replace(TARGET, name="old"), False, True, False),
        (OWNER, replace(TARGET, name="old"), True, True, True),
        (OWNER, replace(TARGET, kind=StoreKind.SECRET), True, True, True),
        (domain(), TARGET, False, False, True),
    ],
)
def test_a_copy_goes_when_nobody_is_to_have_it_and_never_before_its_successor_is_there(
    owner, target, served, selected, goes
):
    view = replace(copy_of(), name=target.name)
    view = replace(view, annotations={**view.annotations, ownership.STORED_AS_ANNOTATION: f"shop/{target.name}"})
    assert (bundles.leftover(owner, target, view, served=served, selected=selected) is not None) is goes
    assert bundles.leftover(owner, target, replace(view, labels={}), served=True, selected=False) is None, "not ours"


def test_the_pause_after_a_failure_doubles_and_ends_somewhere():
    trouble, pauses = None, []
    for _ in range(12):
        trouble = bundles.next_attempt(trouble, bundles.CONFLICT, T0, 1)
        pauses.append(trouble.until - T0)
    assert pauses[:3] == [timedelta(minutes=1), timedelta(minutes=2), timedelta(minutes=4)]
    assert pauses[-1] == timedelta(minutes=15)
    other = bundles.next_attempt(trouble, bundles.UNREACHABLE, T0, 1)
    assert (other.attempts, other.until) == (1, T0 + timedelta(seconds=1))
    assert other.holds(1, T0)
    assert not other.holds(2, T0), "a changed spec is tried at once"
    assert not other.holds(1, other.until)


def test_the_condition_names_what_is_wrong_and_where():
    def trouble(reason):
        return Trouble(reason, T0, 1, 1)

    fine = Publication(OWNER.bundle, BUNDLE, 3)
    assert fine.condition() == ("BundleReady", True, "Published", "3 of 3 namespaces have the bundle, with 1 root")
    bad = replace(
        fine,
        troubles={f"n{number}": trouble("Conflict") for number in range(7)} | {"z": trouble("Rejected")},
        selected=9,
    )
    reason, message = bad.condition()[2:]
    assert reason == "Conflict"
    assert message == (
        "1 of 9 namespaces have the bundle; ConfigMap default-trust-bundle belongs to someone else and is left alone"
        " in n0, n1, n2, n3, n4 and 2 more"
    )
    assert bad.report({})["conflicts"] == [f"n{number}" for number in range(7)]
    assert (bad.report({})["namespaces"], bad.report({})["published"]) == (9, 1)
    unread = Publication(OWNER.bundle, None, 3, problem=("TrustDomainNotReady", "nobody knows"))
    assert unread.condition()[1:] == (False, "TrustDomainNotReady", "nobody knows")
    assert unread.report({"sequence": 4, "digest": "x", "name": "old"})["sequence"] == 4


def test_the_status_has_only_what_its_schema_knows():
    bundle = replace(BUNDLE, roots=bundles.merge(TRUST.roots, extra("company"), T0))
    troubles = {"shop": Trouble("Conflict", T0, 1, 1)}
    publication = Publication(OWNER.bundle, bundle, 3, troubles)
    seen = authority.Hierarchy(OWNER, authorities(OWNER))
    found = status.of_trust_domain(seen, None, T0, {}, T0, publication)
    assert unknown(found, schema_of("trustdomains", "status")) == []
    assert found["bundle"].keys() == schema_of("trustdomains", "status")["properties"]["bundle"]["properties"].keys()
    assert [c["type"] for c in found["conditions"]] == ["Ready", "BundleReady"]
    gone = status.of_trust_domain(seen, None, T0, found, T0)
    assert status.merge_patch(found, gone)["bundle"] is None


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        ({}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchLabels": {"a": ""}}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
        ({"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": "1"}, False),
    ],
)
def test_namespaces_are_selected_as_kubernetes_does(selector, labels, selected):
    found = domain(bundle={"target": {"namespaceSelector": selector}}).bundle.selector
    assert found.admits(labels) is selected


def test_no_selector_is_not_the_empty_one():
    assert domain(bundle={}).bundle.selector is None
    assert domain(bundle={"target": {"namespaceSelector": {}}}).bundle.selector is not None
    assert domain().bundle is None


def test_defaults_of_a_bundle():
    found = domain(bundle={"extraRoots": [{"secretRef": {"name": "partner"}}]}).bundle
    assert (found.kind, found.name, found.truststore_password) == (
        StoreKind.CONFIG_MAP,
        "default-trust-bundle",
        "changeit",
    )
    assert found.formats == {BundleFormat.PEM}
    assert str(found.extra_roots[0]) == "Secret partner, key ca.crt"


@pytest.mark.parametrize(
    ("bundle", "path"),
    [
        ({"target": "x"}, "spec.bundle.target"),
        ({"target": {"kind": "Pod"}}, "spec.bundle.target.kind"),
        ({"target": {"formats": ["DER"]}}, "spec.bundle.target.formats"),
        ({"target": {"namespaceSelector": []}}, "spec.bundle.target.namespaceSelector"),
        ({"target": {"namespaceSelector": {"matchLabels": {"a": 1}}}}, "spec.bundle.target.namespaceSelector.matchLabels.a"),
        ({"target": {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}}, "spec.bundle.target.namespaceSelector.matchExpressions[0].operator"),
        ({"target": {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}}, "spec.bundle.target.namespaceSelector.matchExpressions[0].values"),
        ({"extraRoots": [{}]}, "spec.bundle.extraRoots[0]"),
        ({"extraRoots": [{"pem": "x", "secretRef": {"name": "a"}}]}, "spec.bundle.extraRoots[0]"),
        ({"extraRoots": [{"configMapRef": {}}]}, "spec.bundle.extraRoots[0].configMapRef.name"),
    ],
)  # fmt: skip
def test_what_slips_past_the_schema_is_named(bundle, path):
    with pytest.raises(InvalidSpecError) as told:
        domain(bundle=bundle)
    assert told.value.path == path


def test_no_key_material_can_get_into_a_bundle():
    key_pem = keys.encode(key_for("root"), keys.KeyEncoding.PKCS8)
    der = key_for("root").private_bytes(Encoding.DER, formats.serialization.PrivateFormat.PKCS8, NoEncryption())
    disguised = b"-----BEGIN CERTIFICATE-----\n" + b64encode(der) + b"\n-----END CERTIFICATE-----\n"
    for text in (key_pem, disguised, pem(root("a")) + key_pem):
        with pytest.raises(SourceError):
            bundles.read_roots(text, "x")
