"""The API server takes the shop's manifests as they are committed: every schema, every rule, no warning."""

import secrets
from pathlib import Path

import pytest
import yaml

from tests.controlplane import ControlPlane

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]


def test_the_api_server_takes_the_manifests(control_plane: ControlPlane) -> None:
    crds = sorted(str(file) for file in (ROOT / "crds").glob("*.serviceidentity.dev.yaml"))
    control_plane.kubectl("apply", "--server-side", "--kustomize", str(ROOT / "crds"))
    names = [yaml.safe_load(Path(file).read_text())["metadata"]["name"] for file in crds]
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", *names)

    built = control_plane.kubectl("kustomize", str(ROOT / "examples" / "shop" / "manifests")).stdout
    namespace = f"shop-{secrets.token_hex(4)}"
    objects = [one for one in yaml.safe_load_all(built) if one["kind"] not in ("TrustDomain", "VaultConnection")]
    shared = [one for one in yaml.safe_load_all(built) if one["kind"] in ("TrustDomain", "VaultConnection")]
    for one in objects:
        one["metadata"] |= {"name": namespace} if one["kind"] == "Namespace" else {"namespace": namespace}
    for one in shared:
        one["metadata"]["name"] = namespace  # so that nothing of another test is changed
    (own,) = (one for one in objects if one["kind"] == "Namespace")
    control_plane.kubectl("apply", "--filename=-", input=yaml.safe_dump(own))
    try:
        rest = yaml.safe_dump_all([one for one in objects if one is not own] + shared)
        done = control_plane.kubectl("apply", "--dry-run=server", "--filename=-", input=rest)
    finally:
        control_plane.kubectl("delete", "namespace", namespace, "--wait=false")
    assert len(done.stdout.splitlines()) == len(objects) - 1 + len(shared)
    assert "arning" not in done.stderr  # of Pod Security, or a field that is not known
    kinds = {one["kind"] for one in objects}
    assert {"ServiceIdentity", "AccessPolicy", "Deployment", "Service", "ServiceAccount", "NetworkPolicy"} <= kinds


def test_auth_service_is_the_one_of_its_own_manifests_with_the_shops_settings(control_plane: ControlPlane) -> None:
    built = control_plane.kubectl("kustomize", str(ROOT / "examples" / "shop" / "manifests")).stdout
    found = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(built)}
    pod = found["Deployment", "auth-service"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert env["AUTH_CALLERS"] == "spiffe://shop.example/ns/shop/sa/storefront"
    assert (env["AUTH_TRUSTED_HOPS"], env["AUTH_TRUST"]) == ("1", "/identity/trust")
    assert env["AUTH_JWT"] and container["args"] == ["serve", "--host=$(POD_IP)", "--port=8443"]
    assert {one["name"] for one in container["volumeMounts"]} <= {one["name"] for one in pod["volumes"]}
    assert [one["port"] for one in found["Service", "auth-service"]["spec"]["ports"]] == [8443]
