"""What can't be understood is refused when it is written, by whichever replica is asked; and never more than that."""

import json
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from cryptography import x509

from tests.controlplane import ControlPlane, start_control_plane
from tests.controlplane.binaries import ROOT
from tests.controlplane.operator import NAMESPACE, OperatorProcess, install
from tests.controlplane.processes import free_port
from tests.e2e.support import Space, eventually, new_space, settled, trust_domain

pytestmark = pytest.mark.e2e
WEBHOOK = "serviceidentity-admission"
ADDRESS = "127.0.0.1"
SAID = (
    "spec.rules[0].expression: rule late: there is no variable principle, "
    "only principal, action, resource, context and now"
)
KINDS = ("AccessPolicy", "ServiceIdentity", "TrustDomain", "VaultConnection")
BAD = {
    "AccessPolicy": {"timeZone": "Europe/Atlantis"},
    "ServiceIdentity": {"vault": {"secrets": [{"name": "a", "kv": {"path": "p"}, "templates": {"A": "{{ a"}}]}},
    "TrustDomain": {"policy": {"rules": [{"name": "r", "expression": "objekt.a", "message": "no"}]}},
}


def manifest(kind: str, name: str = "p", **spec: Any) -> str:
    valid: dict[str, Any] = {
        "AccessPolicy": {
            "services": [{"name": "orders"}],
            "rules": [{"name": "late", "effect": "Allow", "expression": "principal.permitted"}],
        },
        "ServiceIdentity": {"certificate": {}},
        "TrustDomain": {"trustDomain": "p.example"},
        "VaultConnection": {
            "address": "https://a.example",
            "auth": {"kubernetes": {}},
            "allowedNamespaces": {"names": ["*"]},
        },
    }
    body = {"apiVersion": "serviceidentity.dev/v1alpha1", "kind": kind, "metadata": {"name": name}}
    return json.dumps(body | {"spec": valid[kind] | spec})


def broken(name: str = "p", **spec: Any) -> str:
    rules = [{"name": "late", "effect": "Deny", "expression": "principle.roles == []"}]
    return manifest("AccessPolicy", name, **{"rules": rules} | spec)


BROKEN = broken()


class Installed:
    """Two replicas and the webhook, which asks the one that stands by; the other one keeps its caBundle."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.space = new_space(plane)
        ports = [free_port() for _ in range(2)]
        self.leader, self.standby = (
            OperatorProcess(plane, "--leader-elect=on", f"--jwks-address={ADDRESS}:{port}", events=False)
            for port in ports
        )
        identity = yaml.safe_load((ROOT / "deploy/jwks/service-identity.yaml").read_text())
        identity["spec"]["certificate"]["ipAddresses"] = [ADDRESS]
        webhook = yaml.safe_load((ROOT / "deploy/admission/webhook.yaml").read_text())
        webhook["webhooks"][0]["clientConfig"] = {
            "url": f"https://{ADDRESS}:{ports[1]}/admission"
        }  # there is no Service
        for body in (identity, webhook):
            plane.kubectl("apply", "-f=-", input=json.dumps(body))
        plane.kubectl("apply", "-f", str(ROOT / "deploy/admission/rbac.yaml"))

    def start(self) -> None:
        self.leader.start()
        self.standby.start(wait=False)

    def stop(self) -> None:
        self.standby.stop()
        self.leader.stop()

    def tried(self, text: str) -> str:
        """Say what a dry run is told; nothing when it may be written."""
        return str(
            self.space.plane.kubectl(
                "apply", "-f=-", f"-n={self.space.name}", "--dry-run=server", input=text, check=False
            ).stderr
        )

    def roots(self) -> list[str]:
        """Return the roots that the API server trusts, by their common names."""
        (webhook,) = self.plane.get("validatingwebhookconfiguration", WEBHOOK)["webhooks"]
        pem = b64decode(webhook["clientConfig"].get("caBundle", ""))
        return [f"{one.serial_number:x}" for one in x509.load_pem_x509_certificates(pem)] if pem else []

    def at_rest(self) -> Counter[tuple[str, str, str]]:
        settled(self.plane)
        found = self.plane.api_writes(failed_too=True)
        return Counter({key: n for key, n in found.items() if key[1] not in ("leases", "accesspolicies")})

    def ready(self, name: str) -> tuple[str, str]:
        conditions = (
            json.loads(self.space.kubectl("get", "ap", name, "-o=json")).get("status", {}).get("conditions", [])
        )
        return next(((one["reason"], one["message"]) for one in conditions if one["type"] == "Ready"), ("", ""))


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with start_control_plane() as plane:
        install(plane)
        trust_domain(plane, "default", propagation="2s")
        found = Installed(plane)
        found.start()
        try:
            eventually(found.roots)
            eventually(lambda: SAID in found.tried(BROKEN))
            yield found
            assert "Traceback" not in found.leader.log + found.standby.log
            assert "principle" not in found.leader.log + found.standby.log
        finally:
            found.stop()


def test_what_can_not_be_understood_is_refused_and_nothing_else(installed: Installed):
    space: Space = installed.space
    refused = space.plane.kubectl("apply", "-f=-", f"-n={space.name}", input=BROKEN, check=False)
    assert refused.returncode != 0
    assert f'The AccessPolicy "p" is invalid: {SAID}' in refused.stderr.replace("\n", " ")
    for kind, spec in BAD.items():
        assert f'The {kind} "p" is invalid: spec.' in installed.tried(manifest(kind, **spec))
    for kind in KINDS:
        assert installed.tried(manifest(kind)) == "", kind

    before = installed.at_rest()
    installed.stop()
    for name in ("p", "q"):
        space.kubectl("apply", "-f=-", input=broken(name))  # nobody is there to say no
    installed.start()
    eventually(lambda: installed.ready("p") == installed.ready("q") == ("InvalidSpec", SAID))
    eventually(lambda: SAID in installed.tried(broken(timeZone="Europe/Berlin")))

    space.kubectl("annotate", "ap/p", "example.org/a=b")
    space.kubectl("patch", "ap/p", "--type=merge", "--patch", '{"metadata": {"finalizers": ["example.org/held"]}}')
    space.kubectl("delete", "ap/p", "--wait=false")
    space.kubectl("patch", "ap/p", "--type=merge", "--patch", '{"metadata": {"finalizers": null}}')
    eventually(lambda: space.kubectl("get", "ap", "-o=name").split() == ["accesspolicy.serviceidentity.dev/q"])
    space.kubectl("apply", "-f=-", input=manifest("AccessPolicy", "q"))
    eventually(lambda: installed.ready("q")[0] == "NoServiceSelected")
    assert installed.at_rest() == before, "neither the restart nor what was applied here made the operator write"


def test_the_api_server_trusts_a_new_root_before_it_is_used_and_never_goes_without_an_answer(installed: Installed):
    plane, seen = installed.plane, []

    def states() -> dict[str, str]:
        seen.append(installed.roots())
        assert SAID in installed.tried(BROKEN), "the webhook is asked, whatever is served just now"
        return {one["secretName"]: one["state"] for one in plane.get("td", "default")["status"]["authorities"]}

    def serial() -> str:
        identity = plane.get("sid", "serviceidentity-jwks", f"--namespace={NAMESPACE}")
        return str(identity["status"]["certificate"]["serialNumber"])

    (old,), before = installed.roots(), serial()
    plane.kubectl("annotate", "td", "default", "serviceidentity.dev/rotate-root=1")
    eventually(lambda: states().get("default-root-2") == "Active")
    (found,) = (
        one for one in plane.get("td", "default")["status"]["authorities"] if one["secretName"] == "default-root-1"
    )
    tainted = {"spec": {"taintedAuthorities": [{"fingerprint": found["fingerprint"]}]}}
    plane.kubectl("patch", "td", "default", "--type=merge", "--patch", json.dumps(tainted))
    eventually(lambda: "default-root-1" not in states() and len(installed.roots()) == 1)
    assert serial() != before
    assert [len(roots) for roots in seen if old in roots and len(roots) > 1], "both are trusted for a while"
    assert installed.roots() != [old]
    assert SAID in installed.tried(BROKEN)


def test_the_component_goes_with_the_one_that_serves(installed: Installed, tmp_path):
    relative = "../" * len(tmp_path.parts[1:]) + str(ROOT).lstrip("/")
    parts = f"components: [{relative}/deploy/jwks, {relative}/deploy/admission]\n"
    for base in ("deploy", "deploy/namespaced"):
        (tmp_path / "kustomization.yaml").write_text(f"resources: [{relative}/{base}]\n{parts}")
        shown = list(yaml.safe_load_all(installed.plane.kubectl("kustomize", str(tmp_path)).stdout))
        found = {(one["kind"], one["metadata"]["name"]): one for one in shown}
        service = found["ValidatingWebhookConfiguration", WEBHOOK]["webhooks"][0]["clientConfig"]["service"]
        assert found["Service", service["name"]]["metadata"]["namespace"] == service["namespace"]
        (rule,) = found["ClusterRole", "serviceidentity-operator-admission"]["rules"]
        assert (rule["resourceNames"], rule["verbs"]) == ([WEBHOOK], ["get", "patch"])
