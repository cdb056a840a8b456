"""ConfigMaps behind the port `Secrets`: text and binary data, versions, foreign metadata, on a real API server."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from serviceidentity.adapters.kube.client import KubeClient
from serviceidentity.adapters.kube.objects import KubeConfigMaps
from serviceidentity.domain.material import SecretContent
from serviceidentity.domain.ownership import MANAGED_BY, MANAGED_BY_LABEL, Metadata
from serviceidentity.errors import AlreadyExistsError, ConflictError, MissingError, RejectedError
from tests.contract.test_kube_adapter import Use, run
from tests.controlplane import ControlPlane
from tests.controlplane.operator import NAMESPACE, install

pytestmark = pytest.mark.contract
OURS = Metadata({MANAGED_BY_LABEL: MANAGED_BY}, {"serviceidentity.dev/bundle-sequence": "1"}, ())
BINARY = b"\x30\x82\x00\xff"


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    name = f"maps-{secrets.token_hex(4)}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def use(control_plane: ControlPlane) -> Use[Any]:
    return lambda work: run(str(control_plane.admin_kubeconfig), control_plane.context, work)


def content(**data: bytes) -> SecretContent:
    return SecretContent.of("", data, {})


def test_text_is_readable_and_the_rest_is_binary_and_both_read_back(
    use: Use[Any], control_plane: ControlPlane, namespace: str
) -> None:
    async def work(client: KubeClient) -> None:
        store = KubeConfigMaps(client)
        made = await store.create(namespace, "one", content(pem="wörd\n".encode(), store=BINARY, empty=b""), OURS)
        assert await store.read(namespace, "one") == made
        assert (made.value("pem").decode(), made.value("store"), made.data["empty"]) == ("wörd\n", BINARY, "")
        assert (made.type, made.labels, made.annotations) == ("", OURS.labels, OURS.annotations)

    use(work)
    stored = control_plane.get("configmap", "one", f"--namespace={namespace}")
    assert stored["data"] == {"pem": "wörd\n", "empty": ""}
    assert stored["binaryData"].keys() == {"store"}


def test_only_the_version_that_was_seen_is_replaced_and_what_others_wrote_stays(
    use: Use[Any], control_plane: ControlPlane, namespace: str
) -> None:
    owner = control_plane.get("serviceaccount", "default", f"--namespace={namespace}")["metadata"]
    reference = {"apiVersion": "v1", "kind": "ServiceAccount", "name": "default", "uid": owner["uid"]}
    patch = {"metadata": {"annotations": {"backup/at": "night"}, "ownerReferences": [reference]}}

    async def work(client: KubeClient) -> None:
        store = KubeConfigMaps(client)
        stale = await store.create(namespace, "one", content(a=b"1", b=BINARY), OURS)
        with pytest.raises(AlreadyExistsError):
            await store.create(namespace, "one", content(), OURS)
        control_plane.kubectl(
            "patch", "configmap", "one", "--type=merge", f"--patch={json.dumps(patch)}", f"--namespace={namespace}"
        )
        with pytest.raises(ConflictError):
            await store.replace(stale, content(a=b"2"), OURS)
        seen = await store.read(namespace, "one")
        assert seen is not None
        replaced = await store.replace(
            seen, content(a=BINARY), Metadata(OURS.labels, {"serviceidentity.dev/x": "2"}, ())
        )
        assert {key: replaced.value(key) for key in replaced.data} == {"a": BINARY}, "from text to binary, one key gone"
        assert replaced.annotations == {"backup/at": "night", "serviceidentity.dev/x": "2"}
        assert [item["uid"] for item in replaced.owners] == [owner["uid"]]

    use(work)


def test_only_the_object_that_was_seen_is_deleted(use: Use[Any], control_plane: ControlPlane, namespace: str) -> None:
    async def work(client: KubeClient) -> None:
        store = KubeConfigMaps(client)
        seen = await store.create(namespace, "one", content(), OURS)
        await store.delete(seen)
        await store.delete(seen)
        control_plane.kubectl("create", "configmap", "one", f"--namespace={namespace}")
        with pytest.raises(ConflictError):
            await store.delete(seen)
        with pytest.raises((ConflictError, MissingError)):
            await store.replace(seen, content(), OURS)
        assert await store.read(namespace, "another") is None

    use(work)


def test_lists_have_ours_alone(use: Use[Any], control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "configmap", "theirs", f"--namespace={namespace}")

    async def work(client: KubeClient) -> None:
        store = KubeConfigMaps(client)
        made = await store.create(namespace, "ours", content(a=b"1"), OURS)
        found, version = await store.list_ours((namespace,))
        assert found == [made]
        assert version >= made.resource_version
        assert made in (await store.list_ours(None))[0]

    use(work)


def test_what_is_too_large_or_has_no_namespace_is_told_apart(use: Use[Any], namespace: str) -> None:
    async def work(client: KubeClient) -> None:
        store = KubeConfigMaps(client)
        with pytest.raises(RejectedError):
            await store.create(namespace, "large", content(a=b"x" * ((1 << 20) + 1)), OURS)
        await store.create(namespace, "largest", content(a=b"x" * ((1 << 20) - 1)), OURS)
        with pytest.raises(MissingError):
            await store.create("nowhere", "one", content(), OURS)

    use(work)


def test_the_operator_may_do_its_work_on_them_and_nothing_else(control_plane: ControlPlane, namespace: str) -> None:
    install(control_plane)
    account = f"--as=system:serviceaccount:{NAMESPACE}:serviceidentity-operator"

    def can(verb: str) -> bool:
        asked = ("auth", "can-i", verb, "configmaps", f"--namespace={namespace}", account)
        return control_plane.kubectl(*asked, check=False).returncode == 0

    assert all(can(verb) for verb in ("get", "list", "watch", "create", "update", "delete"))
    assert not can("patch") and not can("deletecollection")
