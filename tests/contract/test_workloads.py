"""Restarting workloads on a real API server: one annotation, nothing else, and only of the version that was read."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from serviceidentity.adapters.kube.client import KubeClient
from serviceidentity.adapters.kube.workloads import KubeWorkloads
from serviceidentity.domain.model import Target, WorkloadKind
from serviceidentity.domain.rollout import Workload, annotation_of
from serviceidentity.errors import ConflictError, ForbiddenError, MissingError, RejectedError
from tests.controlplane import ControlPlane
from tests.controlplane.binaries import ROOT
from tests.controlplane.operator import NAMESPACE, install

pytestmark = pytest.mark.contract

ANNOTATION = annotation_of("a" * 63)
VALUE = '{"at":"2026-01-01T12:00:00Z","for":{}}'
DEPLOYMENT = Target(WorkloadKind.DEPLOYMENT, "order-service")
ALL = [Target(kind, "order-service") for kind in WorkloadKind]
Use = Callable[[Callable[[KubeWorkloads], Awaitable[Any]]], Any]


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> ControlPlane:
    install(control_plane)
    control_plane.kubectl("apply", "-f", str(ROOT / "deploy/rollout/role.yaml"))
    return control_plane


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    name = f"workloads-{secrets.token_hex(4)}"
    plane.kubectl("create", "namespace", name)
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def use(plane: ControlPlane) -> Use:
    """Run something with the operator's rights."""
    kubeconfig = str(plane.kubeconfig_for(NAMESPACE, "serviceidentity-operator"))

    def run(work: Callable[[KubeWorkloads], Awaitable[Any]]) -> Any:
        async def inside() -> Any:
            client = await KubeClient.connect(kubeconfig, None)
            try:
                return await work(KubeWorkloads(client))
            finally:
                await client.close()

        return asyncio.run(inside())

    return run


@pytest.fixture
def granted(plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("apply", f"--namespace={namespace}", "-f", str(ROOT / "deploy/rollout/namespace-rollout.yaml"))


def manifest(target: Target, **spec: Any) -> dict[str, Any]:
    labels = {"app": target.name}
    template = {
        "metadata": {"labels": labels, "annotations": {"theirs": "1"}},
        "spec": {"containers": [{"name": "main", "image": "none", "env": [{"name": "A", "value": "b"}]}]},
    }
    body = {"apiVersion": "apps/v1", "kind": target.kind.value, "metadata": {"name": target.name}}
    return body | {"spec": {"selector": {"matchLabels": labels}, "template": template} | spec}


def create(plane: ControlPlane, namespace: str, target: Target, **spec: Any) -> None:
    body = json.dumps(manifest(target, **spec))
    plane.kubectl("create", f"--namespace={namespace}", "-f", "-", input=body)


def shown(plane: ControlPlane, namespace: str, target: Target) -> dict[str, Any]:
    return dict(plane.get(target.kind.value, target.name, f"--namespace={namespace}"))


@pytest.mark.parametrize("target", ALL, ids=str)
def test_one_annotation_is_set_and_nothing_else_is_touched(
    plane: ControlPlane, use: Use, namespace: str, granted: None, target: Target
) -> None:
    create(plane, namespace, target)
    before = shown(plane, namespace, target)

    async def work(workloads: KubeWorkloads) -> Workload | None:
        for _ in range(20):  # its controller writes the status meanwhile
            found = await workloads.read(namespace, target)
            assert found is not None
            assert found.annotations == {"theirs": "1"}
            try:
                await workloads.annotate(namespace, target, found, ANNOTATION, VALUE)
            except ConflictError:
                continue
            return await workloads.read(namespace, target)
        return None

    after = use(work)
    assert after is not None
    assert after.annotations == {"theirs": "1", ANNOTATION: VALUE}
    spec = shown(plane, namespace, target)
    assert spec["metadata"]["generation"] == before["metadata"]["generation"] + 1
    del spec["spec"]["template"]["metadata"]["annotations"][ANNOTATION]
    assert spec["spec"] == before["spec"]


def test_what_changed_since_it_was_read_is_left_alone(
    plane: ControlPlane, use: Use, namespace: str, granted: None
) -> None:
    create(plane, namespace, DEPLOYMENT, paused=True)
    found = use(lambda workloads: workloads.read(namespace, DEPLOYMENT))
    assert found.paused
    plane.kubectl("scale", f"--namespace={namespace}", "deployment/order-service", "--replicas=3")
    with pytest.raises(ConflictError):
        use(lambda workloads: workloads.annotate(namespace, DEPLOYMENT, found, ANNOTATION, VALUE))
    plane.kubectl("delete", f"--namespace={namespace}", "deployment/order-service")
    with pytest.raises(MissingError):
        use(lambda workloads: workloads.annotate(namespace, DEPLOYMENT, found, ANNOTATION, VALUE))
    create(plane, namespace, DEPLOYMENT)
    with pytest.raises(ConflictError):
        use(lambda workloads: workloads.annotate(namespace, DEPLOYMENT, found, ANNOTATION, VALUE))


def test_a_workload_that_is_not_there_is_none(use: Use, namespace: str, granted: None) -> None:
    assert use(lambda workloads: workloads.read(namespace, DEPLOYMENT)) is None


def test_without_the_grant_nothing_is_allowed(plane: ControlPlane, use: Use, namespace: str) -> None:
    create(plane, namespace, DEPLOYMENT)
    found = Workload("uid", "1", {})
    with pytest.raises(ForbiddenError):
        use(lambda workloads: workloads.read(namespace, DEPLOYMENT))
    with pytest.raises(ForbiddenError):
        use(lambda workloads: workloads.annotate(namespace, DEPLOYMENT, found, ANNOTATION, VALUE))


def test_an_invalid_annotation_is_rejected(plane: ControlPlane, use: Use, namespace: str, granted: None) -> None:
    create(plane, namespace, DEPLOYMENT, paused=True)

    async def work(workloads: KubeWorkloads) -> None:
        for _ in range(20):
            found = await workloads.read(namespace, DEPLOYMENT)
            with contextlib.suppress(ConflictError):  # its controller writes the status meanwhile
                await workloads.annotate(namespace, DEPLOYMENT, found, "not a name", VALUE)

    with pytest.raises(RejectedError):
        use(work)


def test_the_grant_for_the_cluster_is_the_same_role(plane: ControlPlane) -> None:
    shown = plane.kubectl("kustomize", str(ROOT / "deploy/rollout")).stdout
    assert "name: serviceidentity-operator-rollout" in shown
    plane.kubectl("apply", "--dry-run=server", "-k", str(ROOT / "deploy/rollout"))
