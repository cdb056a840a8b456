"""What the use cases rely on, checked on a real API server: errors, preconditions, chunks, and what is left alone."""

import asyncio
import json
import secrets
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from serviceidentity.adapters.kube import lease as leases
from serviceidentity.adapters.kube.client import KubeClient
from serviceidentity.adapters.kube.events import MESSAGE_LIMIT, KubeEvents
from serviceidentity.adapters.kube.lease import KubeLease
from serviceidentity.adapters.kube.objects import KubeObjects, KubeSecrets
from serviceidentity.domain.material import SecretContent
from serviceidentity.domain.model import identity_key, trust_domain_key
from serviceidentity.domain.ownership import MANAGED_BY, MANAGED_BY_LABEL, Metadata
from serviceidentity.errors import (
    AlreadyExistsError,
    ConflictError,
    MissingError,
    PortError,
    RejectedError,
    RetryableError,
)
from tests.controlplane import ControlPlane
from tests.controlplane.operator import NAMESPACE, install

pytestmark = pytest.mark.contract

T = TypeVar("T")
Use = Callable[[Callable[[KubeClient], Awaitable[T]]], T]
OURS = Metadata({MANAGED_BY_LABEL: MANAGED_BY}, {"serviceidentity.dev/content-id": "1"}, ())


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> ControlPlane:
    install(control_plane)
    return control_plane


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    name = f"adapter-{secrets.token_hex(4)}"
    plane.kubectl("create", "namespace", name)
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def use(plane: ControlPlane) -> Use[Any]:
    """Run something with a client that may do everything."""
    return lambda work: run(str(plane.admin_kubeconfig), plane.context, work)


@pytest.fixture
def use_as_operator(plane: ControlPlane) -> Use[Any]:
    """Run something with the rights that the operator has."""
    kubeconfig = str(plane.kubeconfig_for(NAMESPACE, "serviceidentity-operator"))
    return lambda work: run(kubeconfig, None, work)


def run(kubeconfig: str, context: str | None, work: Callable[[KubeClient], Awaitable[T]]) -> T:
    async def inside() -> T:
        client = await KubeClient.connect(kubeconfig, context)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(inside())


def content(**data: str) -> SecretContent:
    return SecretContent.of("Opaque", {key: value.encode() for key, value in data.items()}, {})


def identity(plane: ControlPlane, namespace: str, name: str, spec: dict[str, Any] | None = None) -> dict[str, Any]:
    body = {
        "apiVersion": "serviceidentity.dev/v1alpha1",
        "kind": "ServiceIdentity",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec or {"certificate": {}},
    }
    plane.kubectl("create", "-f", "-", input=json.dumps(body))
    return plane.get("sid", name, f"--namespace={namespace}")


# Secrets


def test_what_was_created_reads_back_the_same(use: Use[Any], namespace: str) -> None:
    async def work(client: KubeClient) -> None:
        store = KubeSecrets(client)
        made = await store.create(namespace, "one", content(key="värde"), OURS)
        assert await store.read(namespace, "one") == made
        assert made.value("key") == "värde".encode()
        assert (made.type, made.labels, made.owners) == ("Opaque", OURS.labels, ())

    use(work)


def test_creating_what_is_there_is_told_from_other_conflicts(use: Use[Any], namespace: str) -> None:
    async def work(client: KubeClient) -> None:
        store = KubeSecrets(client)
        await store.create(namespace, "one", content(), OURS)
        with pytest.raises(AlreadyExistsError):
            await store.create(namespace, "one", content(), OURS)

    use(work)


def test_only_the_version_that_was_seen_is_replaced(use: Use[Any], plane: ControlPlane, namespace: str) -> None:
    async def work(client: KubeClient) -> None:
        store = KubeSecrets(client)
        seen = await store.create(namespace, "one", content(a="1"), OURS)
        plane.kubectl("label", "secret", "one", "team=payments", f"--namespace={namespace}")
        with pytest.raises(ConflictError):
            await store.replace(seen, content(a="2"), OURS)
        seen = await store.read(namespace, "one")
        assert seen is not None
        replaced = await store.replace(seen, content(b="2"), OURS)
        assert replaced.data.keys() == {"b"}
        assert replaced.labels["team"] == "payments"

    use(work)


def test_a_namesake_made_meanwhile_is_neither_replaced_nor_deleted(
    use: Use[Any], plane: ControlPlane, namespace: str
) -> None:
    async def work(client: KubeClient) -> None:
        store = KubeSecrets(client)
        seen = await store.create(namespace, "one", content(a="1"), OURS)
        plane.kubectl("delete", "secret", "one", f"--namespace={namespace}")
        with pytest.raises((ConflictError, MissingError)):
            await store.replace(seen, content(a="2"), OURS)
        plane.kubectl("create", "secret", "generic", "one", "--from-literal=theirs=1", f"--namespace={namespace}")
        with pytest.raises(ConflictError):
            await store.replace(seen, content(a="2"), OURS)
        with pytest.raises(ConflictError):
            await store.delete(seen)
        theirs = await store.read(namespace, "one")
        assert theirs is not None and theirs.data.keys() == {"theirs"}

    use(work)


def test_what_others_wrote_stays_on_a_replaced_secret(use: Use[Any], plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("create", "configmap", "friend", f"--namespace={namespace}")
    friend = plane.get("configmap", "friend", f"--namespace={namespace}")["metadata"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "friend", "uid": friend["uid"]}

    async def work(client: KubeClient) -> None:
        store = KubeSecrets(client)
        await store.create(namespace, "one", content(a="1"), OURS)
        patch = {"metadata": {"annotations": {"backup/at": "night"}, "ownerReferences": [owner]}}
        plane.kubectl(
            "patch", "secret", "one", "--type=merge", f"--patch={json.dumps(patch)}", f"--namespace={namespace}"
        )
        seen = await store.read(namespace, "one")
        assert seen is not None
        replaced = await store.replace(seen, content(a="2"), Metadata(OURS.labels, {"serviceidentity.dev/x": "2"}, ()))
        assert replaced.annotations == {"backup/at": "night", "serviceidentity.dev/x": "2"}
        assert [item["uid"] for item in replaced.owners] == [friend["uid"]]

    use(work)


def test_deleting_what_is_gone_is_no_error(use: Use[Any], namespace: str) -> None:
    async def work(client: KubeClient) -> None:
        store = KubeSecrets(client)
        seen = await store.create(namespace, "one", content(), OURS)
        await store.delete(seen)
        await store.delete(seen)
        assert await store.read(namespace, "one") is None

    use(work)


def test_lists_have_ours_alone_and_come_whole_in_chunks(use: Use[Any], plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("create", "secret", "generic", "theirs", f"--namespace={namespace}")

    async def work(client: KubeClient) -> None:
        store = KubeSecrets(client)
        for number in range(7):
            await store.create(namespace, f"s{number}", content(), OURS)
        found, version = await store.list_ours((namespace,))
        assert {view.name for view in found} == {f"s{number}" for number in range(7)}
        assert version >= max(view.resource_version for view in found)
        path, selector = f"/api/v1/namespaces/{namespace}/secrets", f"{MANAGED_BY_LABEL}={MANAGED_BY}"
        pieces, _ = await client.list_all(path, selector, chunk=2)
        assert sorted(item["metadata"]["name"] for item in pieces) == sorted(view.name for view in found)

    use(work)


# Errors: what the server wrote is never in them


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"key": "not base64: hunter2!"}, RejectedError),
        ({"bad key": b64encode(b"hunter2").decode()}, RejectedError),
        ({"big": b64encode(b"x" * 1_100_000).decode()}, RejectedError),
    ],
    ids=["not base64", "bad key", "too large"],
)
def test_what_is_refused_is_not_echoed(
    use: Use[Any], namespace: str, data: dict[str, str], error: type[PortError]
) -> None:
    async def work(client: KubeClient) -> None:
        with pytest.raises(error) as refused:
            await KubeSecrets(client).create(namespace, "one", SecretContent("Opaque", data), OURS)
        assert "hunter2" not in str(refused.value)

    use(work)


def test_a_namespace_that_is_not_there_or_on_its_way_out_is_missing(use: Use[Any], plane: ControlPlane) -> None:
    leaving = f"leaving-{secrets.token_hex(4)}"
    finalized = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "last", "finalizers": ["test/hold"]}}
    plane.kubectl("create", "namespace", leaving)
    plane.kubectl("create", "-f", "-", f"--namespace={leaving}", input=json.dumps(finalized))
    plane.kubectl("delete", "namespace", leaving, "--wait=false")

    async def work(client: KubeClient) -> None:
        for gone in ("no-such-namespace", leaving):
            with pytest.raises(MissingError):
                await KubeSecrets(client).create(gone, "one", content(), OURS)

    try:
        use(work)
    finally:
        release = '{"metadata": {"finalizers": null}}'
        plane.kubectl("patch", "configmap", "last", "--type=merge", f"--patch={release}", f"--namespace={leaving}")


def test_a_token_that_is_not_accepted_and_a_server_that_is_away_may_be_tried_again(
    plane: ControlPlane, tmp_path: Any
) -> None:
    text = plane.kubeconfig_for(NAMESPACE, "serviceidentity-operator").read_text()
    config = json.loads(plane.kubectl("config", "view", "--raw", "-o=json").stdout)
    assert plane.url in text
    for name, change in (("stranger", {"token": "made-up"}), ("away", None)):
        mine = json.loads(json.dumps(config))
        for user in mine["users"]:
            user["user"] = change or user["user"]
        for cluster in mine["clusters"]:
            if name == "away":
                cluster["cluster"]["server"] = "https://127.0.0.1:1"
        path = tmp_path / name
        path.write_text(json.dumps(mine))

        async def work(client: KubeClient) -> None:
            with pytest.raises(RetryableError):
                await KubeObjects(client).list_namespaces()

        run(str(path), None, work)


def test_without_a_usable_kubeconfig_there_is_no_client(tmp_path: Any) -> None:
    with pytest.raises(RejectedError, match="no usable kubeconfig"):
        asyncio.run(KubeClient.connect(str(tmp_path / "absent")))


# Statuses


def test_status_patches_merge_and_leave_the_spec_alone(use: Use[Any], plane: ControlPlane, namespace: str) -> None:
    identity(plane, namespace, "orders")

    async def work(client: KubeClient) -> None:
        objects, key = KubeObjects(client), identity_key(namespace, "orders")
        first = await objects.patch(key, {"observedGeneration": 1, "nextActionTime": "2030-01-01T00:00:00Z"})
        second = await objects.patch(key, {"nextActionTime": None})
        assert second > first
        (body,), version = await objects.list_identities((namespace,))
        assert body["status"] == {"observedGeneration": 1}
        assert body["metadata"]["generation"] == 1
        assert version >= second
        with pytest.raises(MissingError):
            await objects.patch(identity_key(namespace, "nobody"), {"observedGeneration": 1})
        with pytest.raises(RejectedError):
            await objects.patch(key, {"observedGeneration": "many"})

    use(work)


# The Lease


def test_a_lease_has_one_holder_and_can_be_given_back(use: Use[Any], plane: ControlPlane, namespace: str) -> None:
    async def work(client: KubeClient) -> None:
        store = KubeLease(client, namespace)
        assert await store.read() is None
        first = await store.write("one", None, 15.0)
        with pytest.raises(ConflictError):
            await store.write("two", None, 15.0)
        renewed = await store.write("one", first, 15.0)
        with pytest.raises(ConflictError):
            await store.write("two", first, 15.0)
        given_back = await store.write("", renewed, 1.0)
        assert await store.read() == given_back
        assert (given_back.holder, given_back.duration) == ("", 1.0)
        taken = await store.write("two", given_back, 15.0)
        assert (taken.holder, taken.transitions) == ("two", 1)

    use(work)
    spec = plane.get("lease", leases.NAME, f"--namespace={namespace}")["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("two", 15)


# Events


def test_events_are_found_where_kubectl_looks(use: Use[Any], plane: ControlPlane, namespace: str) -> None:
    sid = identity(plane, namespace, "orders")
    uid = sid["metadata"]["uid"]

    async def work(client: KubeClient) -> None:
        events = KubeEvents(client, lambda: False, enabled=True)
        task = asyncio.create_task(events.run())
        events.emit(identity_key(namespace, "orders"), uid, "Issued", "x" * (MESSAGE_LIMIT + 1))
        events.emit(identity_key("no-such-namespace", "orders"), uid, "Lost", "nowhere to put it")
        events.emit(
            trust_domain_key("adapter-test"), namespace, "Activated", "of a cluster-scoped object", warning=True
        )
        try:
            async with asyncio.timeout(15):
                while len(await told()) < 2:
                    await asyncio.sleep(0.05)
        finally:
            task.cancel()

    async def told() -> list[tuple[str, str, int]]:
        found = []
        for place, of in ((namespace, uid), ("default", namespace)):
            command = ("get", "events", f"--namespace={place}", f"--field-selector=involvedObject.uid={of}", "-o=json")
            listed = await asyncio.to_thread(plane.kubectl, *command)
            items = json.loads(listed.stdout)["items"]
            found += [(item["type"], item["reason"], len(item["message"])) for item in items]
        return found

    use(work)
    assert asyncio.run(told()) == [("Normal", "Issued", MESSAGE_LIMIT), ("Warning", "Activated", 26)]


# Rights: those of deploy/, and not one more


def test_the_operator_may_do_its_work_and_nothing_else(
    use_as_operator: Use[Any], plane: ControlPlane, namespace: str
) -> None:
    identity(plane, namespace, "orders")

    async def work(client: KubeClient) -> None:
        store, objects = KubeSecrets(client), KubeObjects(client)
        made = await store.create(namespace, "one", content(), OURS)
        await store.delete(await store.replace(made, content(a="1"), OURS))
        await store.list_ours(None)
        await objects.list_namespaces()
        await objects.list_trust_domains()
        await objects.list_identities(None)
        await objects.patch(identity_key(namespace, "orders"), {"observedGeneration": 1})
        lease = await KubeLease(client, NAMESPACE).read()
        assert lease is None or lease.version
        with pytest.raises(RejectedError, match="does not allow"):
            await KubeLease(client, namespace).write("me", None, 15.0)
        own = f"/apis/serviceidentity.dev/v1alpha1/namespaces/{namespace}/serviceidentities/orders"
        refused = [
            ("GET", f"/api/v1/namespaces/{namespace}/pods"),
            ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
            ("GET", "/api/v1/nodes"),
            ("DELETE", own),
            ("DELETE", f"/api/v1/namespaces/{namespace}"),
        ]
        for method, path in refused:
            with pytest.raises(RejectedError, match="does not allow"):
                await client.request(method, path)
        with pytest.raises(RejectedError, match="does not allow"):
            await client.request("PATCH", own, {"spec": {"suspend": True}}, "application/merge-patch+json")

    use_as_operator(work)
