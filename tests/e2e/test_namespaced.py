import pytest

from tests.controlplane import start_control_plane
from tests.controlplane.binaries import ROOT
from tests.controlplane.operator import NAMESPACE, SERVICE_ACCOUNT, OperatorProcess, install
from tests.e2e.support import eventually, new_space, trust_domain

pytestmark = pytest.mark.e2e


def test_without_cluster_wide_rights_only_namespaces_that_opt_in_are_served():
    with start_control_plane() as plane:
        install(plane, cluster_wide=False)
        trust_domain(plane, "default", bundle={"target": {"namespaceSelector": {}}})
        served, other = new_space(plane), new_space(plane)
        served.kubectl("apply", "-f", str(ROOT / "deploy/namespaced/namespace-access.yaml"))
        operator = OperatorProcess(plane, f"--namespaces={served.name}")
        operator.start()
        for space in (served, other):
            space.apply("a", {"certificate": {}, "hmac": {}})
        served.ready()
        assert other.secrets() == {}
        eventually(lambda: plane.get("td", "default")["status"]["bundle"]["published"] == 2)
        bundles = plane.get("configmaps", "--all-namespaces", "--selector=serviceidentity.dev/trust-bundle")["items"]
        assert {item["metadata"]["namespace"] for item in bundles} == {served.name, NAMESPACE}, "and nowhere else"
        assert "conditions" not in other.status("a")
        account = f"--as=system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
        for resource in ("secrets", "configmaps"):
            asked = ("auth", "can-i", "list", resource, f"-n={other.name}", account)
            assert plane.kubectl(*asked, check=False).returncode == 1
        before = served.data("a-tls")
        served.kubectl("delete", "secret", "a-tls")
        eventually(lambda: served.secret("a-tls") is not None, 3)
        assert served.data("a-tls") == before
        operator.stop()
