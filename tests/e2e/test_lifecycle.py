import json
import time

import pytest

from tests.controlplane import ControlPlane
from tests.controlplane.operator import OperatorProcess
from tests.e2e.support import Space, eventually, new_space, serial, trust_domain

pytestmark = pytest.mark.e2e


def test_a_spec_change_reissues_only_what_it_touches(space: Space):
    space.apply("a", {"certificate": {}, "hmac": {}})
    space.ready()
    certificate, key = space.data("a-tls"), space.data("a-hmac")
    space.apply("a", {"certificate": {"dnsNames": ["a"]}, "hmac": {}})
    eventually(lambda: space.data("a-tls") != certificate)
    assert space.data("a-hmac") == key
    changed = space.data("a-tls")
    assert changed["tls.key"] != certificate["tls.key"]
    template = {"labels": {"team": "shop"}}
    space.apply("a", {"certificate": {"dnsNames": ["a"], "renewBefore": "1h", "secretTemplate": template}, "hmac": {}})
    eventually(lambda: (space.secret("a-tls") or {})["metadata"]["labels"].get("team") == "shop")
    assert space.data("a-tls") == changed
    space.apply("a", {"certificate": {"dnsNames": ["a"]}, "hmac": {"rotateEvery": "800h"}})
    eventually(lambda: space.status("a")["observedGeneration"] == space.sid("a")["metadata"]["generation"])
    assert (space.data("a-tls"), space.data("a-hmac")) == (changed, key)


def test_an_added_format_keeps_the_key_pair(space: Space):
    space.apply("a", {"certificate": {}})
    space.ready()
    before = space.data("a-tls")
    space.apply("a", {"certificate": {"outputFormats": ["CombinedPEM"]}})
    after = eventually(lambda: data if "tls-combined.pem" in (data := space.data("a-tls")) else None)
    assert serial(after) == serial(before)
    assert after["tls.key"] == before["tls.key"]


def test_the_rotate_annotation_rotates_once(space: Space):
    space.apply("a", {"certificate": {}})
    space.ready()
    before = serial(space.data("a-tls"))
    space.kubectl("annotate", "sid", "a", "serviceidentity.dev/rotate=now")
    after = eventually(lambda: now if (now := serial(space.data("a-tls"))) != before else None, 3)
    time.sleep(1.5)
    assert serial(space.data("a-tls")) == after
    assert space.status("a")["certificate"]["revision"] == 2


def test_a_new_secret_name_is_written_before_the_old_one_goes(space: Space):
    space.apply("a", {"certificate": {}})
    space.ready()
    space.apply("a", {"certificate": {"secretName": "other"}})
    eventually(lambda: space.secret("other") is not None and space.secret("a-tls") is None)
    space.ready()
    assert space.status("a")["certificate"]["secretName"] == "other"


def test_what_is_no_longer_asked_for_is_removed(space: Space):
    space.apply("a", {"certificate": {}, "hmac": {}})
    space.ready()
    space.apply("a", {"certificate": {}})
    eventually(lambda: space.secret("a-hmac") is None)
    eventually(lambda: "hmac" not in space.status("a"))  # it is written after the Secret
    assert space.secret("a-tls") is not None


def test_deleting_the_identity_deletes_its_secrets(space: Space):
    space.apply("a", {"certificate": {}, "hmac": {}})
    space.ready()
    space.kubectl("delete", "sid", "a")
    eventually(lambda: not space.secrets(), 90)


def test_retained_secrets_stay_and_are_adopted_as_they_are(space: Space):
    spec = {"certificate": {}, "hmac": {}, "deletionPolicy": "Retain"}
    space.apply("a", spec)
    space.ready()
    before = (space.data("a-tls"), space.data("a-hmac"))
    space.kubectl("delete", "sid", "a")
    time.sleep(2)
    assert (space.data("a-tls"), space.data("a-hmac")) == before
    space.apply("a", spec)
    space.ready()
    assert (space.data("a-tls"), space.data("a-hmac")) == before


def test_a_suspended_identity_is_left_alone_and_resumes(space: Space):
    space.apply("a", {"certificate": {}, "suspend": True})
    eventually(lambda: space.condition("a").get("reason") == "Suspended")
    assert space.secrets() == {}
    space.apply("a", {"certificate": {}, "suspend": False})
    space.ready()


@pytest.mark.parametrize("name", ["a-tls", "a-hmac"])
def test_a_deleted_secret_is_back_with_the_same_content(space: Space, name):
    space.apply("a", {"certificate": {}, "hmac": {}})
    space.ready()
    before = space.data(name)
    space.kubectl("delete", "secret", name)
    eventually(lambda: space.secret(name), 3)
    assert space.data(name) == before


@pytest.mark.parametrize(
    "patch",
    [{"data": {"tls.key": "anVuaw=="}}, {"data": {"extra": "eA=="}}, {"data": {"ca.crt": None}},
     {"metadata": {"labels": {"serviceidentity.dev/identity": "b"}}}, {"metadata": {"ownerReferences": None}},
     {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}],
    ids=["key", "extra data", "roots removed", "label", "owner", "managed-by label"],
)  # fmt: skip
def test_an_edited_secret_is_put_right(space: Space, patch):
    space.apply("a", {"certificate": {}})
    space.ready()
    before = space.secret("a-tls")
    assert before is not None
    space.kubectl("patch", "secret", "a-tls", "--type=merge", "--patch", json.dumps(patch))

    def restored() -> bool:
        now = space.secret("a-tls")
        assert now is not None
        same_owner = now["metadata"].get("ownerReferences") == before["metadata"]["ownerReferences"]
        return (
            now["data"] == before["data"] and now["metadata"]["labels"] == before["metadata"]["labels"] and same_owner
        )

    eventually(restored, 3)


def test_a_foreign_secret_is_left_alone_and_reported(space: Space):
    space.kubectl("create", "secret", "generic", "a-tls", "--from-literal=mine=1")
    space.apply("a", {"certificate": {}})
    eventually(lambda: space.condition("a").get("reason") == "Conflict")
    assert space.data("a-tls") == {"mine": b"1"}
    assert space.status("a")["backoff"]["failedAttempts"] == 1
    before = space.sid("a")["metadata"]["resourceVersion"]
    time.sleep(2)
    assert space.sid("a")["metadata"]["resourceVersion"] == before, "no loop"
    space.kubectl("delete", "secret", "a-tls")
    space.apply("a", {"certificate": {"renewBefore": "1h"}})
    space.ready()
    assert "backoff" not in space.status("a")


def test_a_foreign_secret_is_adopted_when_it_says_so(space: Space):
    space.kubectl("create", "secret", "generic", "a-tls", "--from-literal=mine=1")
    space.kubectl("annotate", "secret", "a-tls", "serviceidentity.dev/adopt=a")
    space.apply("a", {"certificate": {}})
    space.ready()
    assert "mine" not in space.data("a-tls")


def test_two_identities_with_one_secret_name_do_not_fight(space: Space):
    space.apply("a", {"certificate": {"secretName": "shared"}})
    space.ready("a")
    before = space.data("shared")
    space.apply("b", {"certificate": {"secretName": "shared"}})
    eventually(lambda: space.condition("b").get("reason") == "Conflict")
    versions = [space.sid(name)["metadata"]["resourceVersion"] for name in "ab"]
    time.sleep(2)
    assert [space.sid(name)["metadata"]["resourceVersion"] for name in "ab"] == versions, "no loop"
    assert space.data("shared") == before


def test_a_copy_of_a_secret_is_left_alone(space: Space):
    space.apply("a", {"certificate": {}})
    space.ready()
    copy = space.secret("a-tls")
    assert copy is not None
    kept = {key: copy["metadata"][key] for key in ("labels", "annotations", "ownerReferences")}
    copy["metadata"] = kept | {"name": "backup", "namespace": space.name}
    space.kubectl("create", "-f", "-", input=json.dumps(copy))
    time.sleep(1.5)
    assert space.secret("backup") is not None


def test_an_identity_waits_for_its_trust_domain(space: Space, control_plane: ControlPlane):
    domain = space.name
    space.apply("a", {"trustDomainRef": {"name": domain}, "certificate": {}})
    eventually(lambda: space.condition("a").get("reason") == "TrustDomainNotFound")
    trust_domain(control_plane, domain, trustDomain="late.example")
    space.ready()
    assert space.status("a")["spiffeID"].startswith("spiffe://late.example/")


def test_a_duration_beyond_the_trust_domains_limit_is_refused(space: Space, control_plane: ControlPlane):
    trust_domain(control_plane, space.name, maxLeafDuration="1h")
    space.apply("a", {"trustDomainRef": {"name": space.name}, "certificate": {"duration": "2h"}})
    eventually(lambda: space.condition("a").get("reason") == "DurationNotAllowed")
    space.apply("a", {"trustDomainRef": {"name": space.name}, "certificate": {"duration": "1h"}})
    space.ready()


def test_a_namespace_can_be_deleted_with_everything_in_it(control_plane: ControlPlane, operator: OperatorProcess):
    space = new_space(control_plane)
    space.apply("a", {"certificate": {}, "hmac": {}, "callers": [{"name": "*"}]})
    space.ready()
    control_plane.kubectl("delete", "namespace", space.name, "--timeout=60s")
