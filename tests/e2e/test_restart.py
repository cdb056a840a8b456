import time

import pytest

from tests.controlplane import ControlPlane
from tests.controlplane.operator import OperatorProcess
from tests.e2e.support import Space, eventually, fits, new_space, serial, settled, writes

AUTHORITIES = "--selector=serviceidentity.dev/trust-domain"
pytestmark = pytest.mark.e2e
COUNT = 100


def _identities(space: Space, count: int) -> None:
    documents = [
        f"apiVersion: serviceidentity.dev/v1alpha1\nkind: ServiceIdentity\nmetadata: {{name: s{n}, namespace: {space.name}}}\n"
        "spec: {certificate: {}, hmac: {}}\n"
        for n in range(count)
    ]
    space.kubectl("apply", "-f", "-", input="---\n".join(documents))


def _consistent(space: Space, count: int) -> None:
    secrets = space.secrets()
    assert set(secrets) == {f"s{n}-{kind}" for n in range(count) for kind in ("tls", "hmac")}
    items = space.plane.get("sid", f"--namespace={space.name}")["items"]
    assert len(items) == count
    for item in items:
        data = space.data(f"{item['metadata']['name']}-tls")
        assert fits(data)
        assert item["status"]["certificate"]["serialNumber"] == serial(data)
        assert item["status"]["conditions"][0]["status"] == "True"


def test_a_restart_with_nothing_due_writes_nothing(own_plane: ControlPlane):
    space = new_space(own_plane)
    operator = OperatorProcess(own_plane)
    operator.start()
    _identities(space, COUNT)
    space.ready(timeout=30)
    before = settled(own_plane)
    for stop in (operator.stop, operator.kill):
        stop()
        operator.start()
        time.sleep(3)
        assert writes(own_plane) == before
    operator.stop()


def test_what_went_missing_while_nobody_watched_is_replaced(own_plane: ControlPlane):
    space = new_space(own_plane)
    operator = OperatorProcess(own_plane)
    operator.start()
    space.apply("a", {"certificate": {}, "hmac": {}})
    space.ready()
    operator.kill()
    space.kubectl("delete", "secret", "a-tls")
    space.kubectl("patch", "secret", "a-hmac", "--type=merge", '--patch={"data":{"key":"anVuaw=="}}')
    operator.start()
    eventually(lambda: space.secret("a-tls") is not None and fits(space.data("a-tls")))
    eventually(lambda: len(space.data("a-hmac")["key"]) == 64)
    operator.stop()


def test_a_lost_root_is_reported_and_not_replaced(own_plane: ControlPlane):
    operator = OperatorProcess(own_plane)
    operator.start()
    own_plane.kubectl("wait", "--for=condition=Ready", "td/default", "--timeout=10s")
    operator.kill()
    own_plane.kubectl("delete", "secret", "default-root-1", "--namespace=serviceidentity-system")
    operator.start()

    def reason() -> str:
        return str(own_plane.get("td", "default")["status"]["conditions"][0]["reason"])

    eventually(lambda: reason() == "AuthorityMissing")
    operator.kill()
    operator.start()
    time.sleep(1)
    assert reason() == "AuthorityMissing"
    names = [
        s["metadata"]["name"]
        for s in own_plane.get("secrets", "--namespace=serviceidentity-system", AUTHORITIES)["items"]
    ]
    assert names == ["default-intermediate-1"]
    operator.stop()


def test_the_operator_outlives_the_api_server(own_plane: ControlPlane):
    space = new_space(own_plane)
    operator = OperatorProcess(own_plane)
    operator.start()
    space.apply("a", {"certificate": {}})
    space.ready()
    pid, before = operator.pid, space.data("a-tls")
    own_plane.stop_api_server()
    time.sleep(3)
    own_plane.compact_etcd()
    own_plane.start_api_server()
    space.apply("b", {"certificate": {}, "hmac": {}})
    space.ready(timeout=60)
    assert operator.pid == pid
    assert space.data("a-tls") == before
    operator.stop()


def _revisions(space: Space) -> set[str]:
    annotations = (s["metadata"]["annotations"] for n, s in space.secrets().items() if n.endswith("-tls"))
    return {one["serviceidentity.dev/revision"] for one in annotations}


def test_two_operators_at_once_issue_and_rotate_nothing_twice(own_plane: ControlPlane):
    space = new_space(own_plane)
    operators = [OperatorProcess(own_plane, events=False) for _ in range(2)]
    for operator in operators:
        operator.start(wait=False)
    before = writes(own_plane)
    _identities(space, COUNT)
    space.ready(timeout=60)
    settled(own_plane)
    _consistent(space, COUNT)
    created = writes(own_plane)["POST", "secrets", ""] - before["POST", "secrets", ""]
    assert created - COUNT * 2 in range(4), "each Secret once; two authorities and the key ring may fall into the time"
    assert _revisions(space) == {"1"}
    space.kubectl("annotate", "sid", "--all", "serviceidentity.dev/rotate=1")
    eventually(lambda: _revisions(space) == {"2"})
    settled(own_plane)
    assert _revisions(space) == {"2"}, "each rotated once, and not undone by the other"
    _consistent(space, COUNT)
    for operator in operators:
        operator.stop()


def test_with_leader_election_one_works_and_the_other_takes_over(own_plane: ControlPlane):
    space = new_space(own_plane)
    first, second = (OperatorProcess(own_plane, "--leader-elect=on") for _ in range(2))
    first.start()
    second.start(wait=False)
    space.apply("a", {"certificate": {}})
    space.ready()
    assert "started with" not in second.log
    first.stop()
    eventually(lambda: "started with" in second.log, 5)
    first.start(wait=False)
    second.kill()
    space.apply("b", {"certificate": {}})
    space.ready("b", timeout=40)
    first.stop()
