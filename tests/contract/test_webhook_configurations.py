"""caBundle on a real API server, with the rights that deploy/admission grants: one object, of the version that was read."""

import asyncio
import json
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace

import pytest
import yaml

from serviceidentity.adapters.kube.client import KubeClient
from serviceidentity.adapters.kube.webhooks import KubeWebhookConfigurations
from serviceidentity.app.webhook.trusted import NAME
from serviceidentity.errors import ConflictError, ForbiddenError, RejectedError
from tests.contract.test_https import FIRST, SECOND
from tests.controlplane import ControlPlane
from tests.controlplane.binaries import ROOT
from tests.controlplane.operator import NAMESPACE, install

pytestmark = pytest.mark.contract
OURS = "admission.serviceidentity.dev"


@pytest.fixture
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The shipped object, with a webhook of somebody else's in it. It is asked about nothing that other tests write."""
    body = yaml.safe_load((ROOT / "deploy/admission/webhook.yaml").read_text())
    body["webhooks"][0]["rules"][0]["apiGroups"] = ["nobody.example"]
    body["webhooks"].append(body["webhooks"][0] | {"name": "other.example.org"})
    install(control_plane)
    control_plane.kubectl("apply", "-f", str(ROOT / "deploy/admission/rbac.yaml"))
    control_plane.kubectl("apply", "-f=-", input=json.dumps(body))
    yield control_plane
    control_plane.kubectl("delete", "validatingwebhookconfiguration", NAME)
    control_plane.kubectl("delete", "-f", str(ROOT / "deploy/admission/rbac.yaml"))


def test_only_the_bundle_of_our_webhook_is_written_and_only_of_the_version_that_was_read(plane: ControlPlane):
    before = plane.get("validatingwebhookconfiguration", NAME)["webhooks"]

    async def work() -> None:
        client = await KubeClient.connect(str(plane.kubeconfig_for(NAMESPACE, "serviceidentity-operator")))
        store = KubeWebhookConfigurations(client)
        try:
            found = await store.read(NAME)
            assert found is not None
            assert found.authorities == {OURS: b""}
            await store.trust(found, FIRST[0])
            again = await store.read(NAME)
            assert again is not None
            assert again.authorities == {OURS: FIRST[0]}
            with pytest.raises(ConflictError):
                await store.trust(found, SECOND[0])
            with pytest.raises(RejectedError):
                await store.trust(replace(again, uid="another"), SECOND[0])
            with pytest.raises(ForbiddenError):
                await store.read("another")
            with pytest.raises(ForbiddenError):
                await client.request(
                    "DELETE", f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{NAME}"
                )
        finally:
            await client.close()

    asyncio.run(work())
    ours, other = plane.get("validatingwebhookconfiguration", NAME)["webhooks"]
    assert b64decode(ours["clientConfig"].pop("caBundle")) == FIRST[0]
    assert [ours, other] == before
