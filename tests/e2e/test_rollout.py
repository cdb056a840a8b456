"""Workloads are restarted when their credentials have new content: once, and for nothing else."""

import json
import time
from typing import Any

import pytest

from serviceidentity.domain.rollout import annotation_of
from tests.controlplane import ControlPlane
from tests.controlplane.binaries import ROOT
from tests.controlplane.operator import OperatorProcess
from tests.e2e.support import Space, eventually, new_space, settled

pytestmark = pytest.mark.e2e
CONDITION = "RolloutTargetsReady"
ROTATE = "serviceidentity.dev/rotate"


def spec(settle: str = "1s", interval: str = "2s", *others: str) -> dict[str, Any]:
    targets = [{"kind": "Deployment", "name": name} for name in ("app", *others)]
    return {"certificate": {}, "rollout": {"targets": targets, "settle": settle, "minInterval": interval}}


def allow(space: Space) -> None:
    space.plane.kubectl("apply", "-f", str(ROOT / "deploy/rollout/role.yaml"))
    space.kubectl("apply", "-f", str(ROOT / "deploy/rollout/namespace-rollout.yaml"))


def deploy(space: Space, name: str = "app") -> None:
    labels = {"app": name}
    volume = {"name": "identity", "secret": {"secretName": "a-tls"}}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "main", "image": "none"}], "volumes": [volume]},
    }
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}}
    body |= {"spec": {"selector": {"matchLabels": labels}, "template": template}}
    space.kubectl("apply", "-f", "-", input=json.dumps(body))


def deployment(space: Space, name: str = "app") -> dict[str, Any]:
    return dict(space.plane.get("deployment", name, f"--namespace={space.name}"))


def generation(space: Space, name: str = "app") -> int:
    return int(deployment(space, name)["metadata"]["generation"])


def rolled_out(space: Space, name: str = "app") -> bool:
    """Whether the target was restarted for what the Secret holds now."""
    annotations = deployment(space, name)["spec"]["template"]["metadata"].get("annotations") or {}
    recorded = json.loads(annotations.get(annotation_of("a"), '{"for":{}}'))["for"]
    return bool(recorded == {"a-tls": content(space)})


def content(space: Space) -> str:
    return str(space.secrets()["a-tls"]["metadata"]["annotations"]["serviceidentity.dev/content-id"])


def rotate(space: Space, request: str = "1") -> None:
    before = content(space)
    space.kubectl("annotate", "sid/a", f"{ROTATE}={request}", "--overwrite")
    eventually(lambda: content(space) != before)


def up_to_date(space: Space) -> bool:
    return bool(space.condition("a", CONDITION).get("reason") == "UpToDate")


def test_new_content_replaces_the_pods_once(space: Space):
    allow(space)
    deploy(space)
    space.apply("a", spec())
    space.ready()
    assert space.condition("a", CONDITION)["reason"] == "UpToDate"
    rotate(space)
    eventually(lambda: rolled_out(space))
    eventually(lambda: up_to_date(space))
    eventually(lambda: len(space.plane.get("replicasets", f"--namespace={space.name}")["items"]) == 2)
    assert generation(space) == 2

    def told() -> list[str]:
        events = space.plane.get("events", f"--namespace={space.name}", "--field-selector=reason=Restarted")["items"]
        return [one["message"] for one in events]

    eventually(told)  # Events are written when nothing more urgent is to do
    assert told() == ["Deployment app restarted: new content in a-tls"]


def test_changes_that_come_together_are_one_restart(space: Space):
    allow(space)
    for name in ("app", "worker"):
        deploy(space, name)
    space.apply("a", spec("3s", "1m", "worker"))
    space.ready()
    for request in ("1", "2", "3"):
        rotate(space, request)
    for name in ("app", "worker"):
        eventually(lambda name=name: rolled_out(space, name))
        assert generation(space, name) == 2
    rotate(space, "4")
    eventually(lambda: space.condition("a", CONDITION).get("reason") == "RestartPending")
    assert space.status("a")["rollout"][0]["restartTime"] == space.status("a")["nextActionTime"]


def test_what_is_put_back_restarts_nothing(space: Space):
    allow(space)
    deploy(space)
    space.apply("a", spec("0s", "0s"))
    space.ready()
    before = space.secrets()["a-tls"]
    space.kubectl("delete", "secret", "a-tls")
    eventually(lambda: (space.secret("a-tls") or {}).get("data") == before["data"])
    space.kubectl("patch", "secret", "a-tls", "--type=merge", '--patch={"data":{"ca.crt":"anVuaw=="}}')
    eventually(lambda: (space.secret("a-tls") or {}).get("data") == before["data"])
    space.kubectl("label", "secret", "a-tls", "serviceidentity.dev/identity-")
    space.kubectl("patch", "sid/a", "--type=merge", '--patch={"spec":{"rollout":{"settle":"1s"}}}')
    space.kubectl("wait", "--for=jsonpath={.status.observedGeneration}=2", "sid/a", "--timeout=10s")
    rotate(space)
    eventually(lambda: rolled_out(space))
    assert generation(space) == 2, "once for the rotation, which came last"


def test_an_annotation_that_is_taken_off_is_not_put_back(space: Space):
    allow(space)
    deploy(space)
    space.apply("a", spec("0s", "0s"))
    space.ready()
    rotate(space)
    eventually(lambda: rolled_out(space) and up_to_date(space))
    name = annotation_of("a").replace("/", "~1")
    patch = json.dumps([{"op": "remove", "path": f"/spec/template/metadata/annotations/{name}"}])
    space.kubectl("patch", "deployment/app", "--type=json", f"--patch={patch}")
    space.kubectl("annotate", "sid/a", "look=again")
    rotate(space, "2")
    eventually(lambda: rolled_out(space))
    assert generation(space) == 4, "two restarts of ours, and one by who took it off"


def test_without_the_right_the_identity_is_ready_and_the_condition_clear(space: Space):
    deploy(space)
    space.apply("a", spec("0s", "0s", "nowhere"))
    space.ready()
    assert space.condition("a", CONDITION)["reason"] == "TargetForbidden"
    assert "deploy/rollout" in space.condition("a", CONDITION)["message"]
    rotate(space)
    assert generation(space) == 1
    allow(space)

    def restarted() -> bool:
        space.kubectl("annotate", "sid/a", f"look={time.monotonic()}", "--overwrite")  # or in ten seconds by itself
        return rolled_out(space)

    eventually(restarted)
    eventually(lambda: space.condition("a", CONDITION)["reason"] == "TargetNotFound")
    assert space.condition("a", CONDITION)["message"] == "Deployment nowhere does not exist"
    deploy(space, "nowhere")
    space.kubectl("annotate", "sid/a", "look=found", "--overwrite")
    eventually(lambda: up_to_date(space))
    assert (generation(space), generation(space, "nowhere")) == (2, 1)


def _patches(plane: ControlPlane) -> int:
    return plane.api_writes()["PATCH", "deployments", ""]


def test_a_killed_operator_makes_up_for_a_restart_and_does_none_twice(own_plane: ControlPlane):
    space = new_space(own_plane)
    allow(space)
    deploy(space)
    operator = OperatorProcess(own_plane)
    operator.start()
    space.apply("a", spec("2s", "1m"))
    space.ready()
    rotate(space)
    operator.kill()
    assert generation(space) == 1, "killed between Secret and restart"
    operator.start()
    eventually(lambda: rolled_out(space))
    operator.kill()
    space.kubectl("patch", "sid/a", "--subresource=status", "--type=merge", '--patch={"status":{"rollout":null}}')
    operator.start()
    eventually(lambda: up_to_date(space))
    before = settled(own_plane)
    operator.stop()
    operator.start()
    assert settled(own_plane) == before
    assert (generation(space), _patches(own_plane)) == (2, 1)
    operator.stop()
