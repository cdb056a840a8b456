"""The trust bundle is in every namespace that is to have it, and nowhere else, whatever happens to it."""

import json
import secrets
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.certificates import Subject, Validity
from tests.controlplane import ControlPlane
from tests.controlplane.operator import NAMESPACE, OperatorProcess
from tests.e2e.support import Space, chain, eventually, new_space, settled, trust_domain, writes
from tests.unit.domain.builders import DAY, T0

pytestmark = pytest.mark.e2e
FORMATS = ["PEM", "JKS", "PKCS12", "SPIFFE"]


@dataclass
class Domain:
    """A trust domain that publishes to the namespaces with its label."""

    plane: ControlPlane
    name: str

    @property
    def bundle_name(self) -> str:
        return f"{self.name}-trust-bundle"

    def publish(self, *, extra: list[dict[str, Any]] | None = None, target: dict[str, Any] | None = None) -> None:
        selector = {"namespaceSelector": {"matchLabels": {"trust": self.name}}}
        bundle = {"target": selector | (target or {}), "extraRoots": extra or []}
        trust_domain(
            self.plane, self.name, bundle=bundle, maxLeafDuration="1h", propagation="2s", deletionPolicy="Delete"
        )

    def select(self, space: Space, *, yes: bool = True) -> None:
        space.plane.kubectl("label", "--overwrite", "namespace", space.name, f"trust={self.name}" if yes else "trust-")

    def found(self, space: Space, kind: str = "configmap") -> dict[str, Any] | None:
        found: dict[str, Any] | None = space.plane.find(kind, self.bundle_name, f"--namespace={space.name}")
        return found

    def files(self, space: Space) -> dict[str, bytes]:
        found = self.found(space) or {}
        text = {key: value.encode() for key, value in (found.get("data") or {}).items()}
        return text | {key: b64decode(value) for key, value in (found.get("binaryData") or {}).items()}

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.plane.get("td", self.name).get("status") or {})

    def condition(self) -> dict[str, Any]:
        return next((c for c in self.status.get("conditions", []) if c["type"] == "BundleReady"), {})

    def states(self) -> dict[str, str]:
        return {a["secretName"].removeprefix(f"{self.name}-"): a["state"] for a in self.status.get("authorities", [])}


@pytest.fixture
def domain(control_plane: ControlPlane, operator: OperatorProcess) -> Iterator[Domain]:
    found = Domain(control_plane, f"td-{secrets.token_hex(3)}")
    yield found
    control_plane.kubectl("delete", "td", found.name, "--ignore-not-found", "--wait=false")


def company_root(name: str = "Company root") -> tuple[x509.Certificate, str]:
    key = keys.generate(keys.KeyProfile())
    root = certificates.issue_root(Subject(common_name=name), key, Validity(T0 - DAY, T0 + 3650 * DAY))
    return root, certificates.encode_chain(root).decode()


def pkcs12_roots(store: bytes) -> frozenset[x509.Certificate] | None:
    try:
        return frozenset(entry.certificate for entry in pkcs12.load_pkcs12(store, b"changeit").additional_certs)
    except ValueError:
        return None


def within_a_second(read: Any) -> Any:
    """Poll as `eventually` does; kubectl alone takes a tenth of a second on a busy machine."""
    return eventually(read, 4)


def test_a_namespace_gets_the_bundle_and_loses_it_with_its_label(domain: Domain, space: Space):
    domain.publish()
    domain.select(space)
    within_a_second(lambda: domain.found(space))
    late = new_space(space.plane)
    domain.select(late)
    within_a_second(lambda: domain.found(late))
    assert domain.files(late) == domain.files(space)
    root = domain.plane.get("secret", f"{domain.name}-root-1", f"--namespace={NAMESPACE}")
    assert domain.files(space) == {"ca.crt": b64decode(root["data"]["tls.crt"])}
    eventually(lambda: domain.status["bundle"]["published"] == 2)
    assert domain.condition()["reason"] == "Published"
    domain.select(late, yes=False)
    within_a_second(lambda: domain.found(late) is None)
    assert domain.found(space)
    domain.plane.kubectl("delete", "namespace", late.name, "--wait=false")
    eventually(lambda: domain.status["bundle"]["namespaces"] == 1)


@pytest.mark.parametrize(
    "patch",
    [{"data": {"ca.crt": "junk"}}, {"data": {"extra": "x"}}, {"data": None},
     {"metadata": {"labels": {"serviceidentity.dev/trust-bundle": None}}},
     {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}, {"metadata": {"ownerReferences": None}}],
    ids=["content", "another key", "empty", "label", "managed-by label", "owner"],
)  # fmt: skip
def test_an_edited_copy_is_put_right(domain: Domain, space: Space, patch: dict[str, Any]):
    domain.publish()
    domain.select(space)
    before = within_a_second(lambda: domain.found(space))
    space.kubectl("patch", "configmap", domain.bundle_name, "--type=merge", "--patch", json.dumps(patch))

    def restored() -> bool:
        now = domain.found(space)
        assert now is not None
        same = all(now["metadata"].get(part) == before["metadata"][part] for part in ("labels", "ownerReferences"))
        return now.get("data") == before["data"] and same

    within_a_second(restored)


def test_a_strangers_config_map_is_left_alone_and_others_are_served(domain: Domain, space: Space):
    other = new_space(space.plane)
    space.kubectl("create", "configmap", domain.bundle_name, "--from-literal=mine=1")
    for one in (space, other):
        domain.select(one)
    domain.publish()
    eventually(lambda: domain.condition().get("reason") == "Conflict")
    assert space.name in domain.condition()["message"]
    assert domain.status["bundle"]["conflicts"] == [space.name]
    assert domain.files(space) == {"mine": b"1"}
    assert domain.found(other)
    assert domain.status["conditions"][0]["status"] == "True", "the trust domain can sign all the same"
    before = domain.plane.get("td", domain.name)["metadata"]["resourceVersion"]
    time.sleep(2)
    assert domain.plane.get("td", domain.name)["metadata"]["resourceVersion"] == before, "no loop"
    domain.plane.kubectl("annotate", "td", domain.name, "serviceidentity.dev/rotate-root=1")
    eventually(lambda: domain.states().get("root-2") == "Active", 20)
    space.kubectl("annotate", "configmap", domain.bundle_name, f"serviceidentity.dev/adopt={domain.name}")
    domain.publish(target={"template": {"labels": {"team": "platform"}}})
    eventually(lambda: domain.condition()["reason"] == "Published")
    assert domain.files(space) == domain.files(other)


def test_all_forms_are_read_by_those_whom_they_are_for(domain: Domain, space: Space, tmp_path: Path):
    company, pem = company_root()
    domain.publish(extra=[{"pem": pem}], target={"formats": FORMATS})
    domain.select(space)
    files = within_a_second(lambda: domain.files(space))
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert set(files) == {"ca.crt", "truststore.jks", "truststore.p12", "bundle.spiffe.json"}
    roots = certificates.load_chain(files["ca.crt"])
    assert company in roots
    assert len(roots) == 2
    document = json.loads(files["bundle.spiffe.json"])
    assert (len(document["keys"]), document["spiffe_sequence"]) == (1, domain.status["bundle"]["sequence"])
    assert x509.load_der_x509_certificate(b64decode(document["keys"][0]["x5c"][0])) in roots
    if which("openssl"):
        command = ["openssl", "pkcs12", "-in", "truststore.p12", "-nokeys", "-passin", "pass:changeit"]
        shown = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
        assert set(certificates.load_chain(shown)) == set(roots)
    for store in ("truststore.jks", "truststore.p12") if which("keytool") else ():
        command = ["keytool", "-list", "-keystore", store, "-storepass", "changeit"]
        shown = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True).stdout
        assert shown.count("trustedCertEntry") == 2


def test_a_source_that_breaks_keeps_what_was_published_and_is_named(domain: Domain, space: Space):
    _, pem = company_root()
    name = f"cas-{domain.name}"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE}}
    domain.plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(body | {"data": {"ca.crt": pem}}))
    domain.publish(extra=[{"configMapRef": {"name": name}}])
    domain.select(space)
    before = within_a_second(lambda: domain.files(space))
    assert len(certificates.load_chain(before["ca.crt"])) == 2
    broken = pem + "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n"
    domain.plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(body | {"data": {"ca.crt": broken}}))
    domain.publish(extra=[{"configMapRef": {"name": name}}], target={"template": {"labels": {"look": "again"}}})
    eventually(lambda: domain.condition()["reason"] == "SourceInvalid")
    assert f"ConfigMap {name}, key ca.crt: entry 2" in domain.condition()["message"]
    eventually(lambda: (domain.found(space) or {})["metadata"]["labels"].get("look") == "again")
    assert domain.files(space) == before
    domain.plane.kubectl("delete", "configmap", name, f"--namespace={NAMESPACE}")


def test_a_new_root_is_in_every_bundle_before_anything_is_signed_under_it(domain: Domain, space: Space):
    domain.publish()
    domain.select(space)
    within_a_second(lambda: domain.found(space))
    space.apply("a", {"trustDomainRef": {"name": domain.name}, "certificate": {"duration": "1h"}})
    space.ready()
    domain.plane.kubectl("annotate", "td", domain.name, "serviceidentity.dev/rotate-root=1")
    published = eventually(
        lambda: both if len(both := certificates.load_chain(domain.files(space)["ca.crt"])) == 2 else 0
    )
    assert domain.states()["root-2"] == "Prepared"
    signer = chain(space.data("a-tls"))[1]
    assert sum(certificates.signed_by(signer, root) for root in published) == 1
    eventually(lambda: domain.states()["root-2"] == "Active")
    sequence = domain.status["bundle"]["sequence"]
    assert sequence == 2
    space.kubectl("annotate", "sid", "a", "serviceidentity.dev/rotate=1")
    eventually(lambda: chain(space.data("a-tls"))[1] != signer)
    assert any(certificates.signed_by(chain(space.data("a-tls"))[1], root) for root in published)


def test_secrets_can_hold_it_and_a_change_of_kind_leaves_nothing_behind(domain: Domain, space: Space):
    domain.publish(target={"kind": "Secret"})
    domain.select(space)
    within_a_second(lambda: domain.found(space, "secret"))
    space.kubectl("delete", "secret", domain.bundle_name)
    secret = within_a_second(lambda: domain.found(space, "secret"))
    domain.publish()
    within_a_second(lambda: domain.found(space) and domain.found(space, "secret") is None)
    assert b64decode(secret["data"]["ca.crt"]) == domain.files(space)["ca.crt"]
    trust_domain(domain.plane, domain.name, maxLeafDuration="1h", propagation="2s", deletionPolicy="Delete")
    domain.plane.kubectl("patch", "td", domain.name, "--type=merge", '--patch={"spec":{"bundle":null}}')
    within_a_second(lambda: domain.found(space) is None)
    eventually(lambda: "bundle" not in domain.status)


def test_the_copies_go_with_the_trust_domain(domain: Domain, space: Space):
    domain.publish()
    domain.select(space)
    within_a_second(lambda: domain.found(space))
    domain.plane.kubectl("delete", "td", domain.name)
    eventually(lambda: domain.found(space) is None, 60)


def test_a_restart_writes_nothing_and_what_happened_meanwhile_is_put_right(own_plane: ControlPlane):
    domain, spaces = Domain(own_plane, "published"), [new_space(own_plane) for _ in range(4)]
    _, pem = company_root()
    operator = OperatorProcess(own_plane, events=False)
    operator.start()
    spaces[3].kubectl("create", "configmap", domain.bundle_name, "--from-literal=mine=1")
    for space in spaces:
        domain.select(space)
    domain.publish(extra=[{"pem": pem}], target={"formats": FORMATS})
    eventually(lambda: domain.status.get("bundle", {}).get("published") == 3)
    before, files = settled(own_plane), domain.files(spaces[0])
    operator.kill()
    operator.start()
    time.sleep(2)
    assert writes(own_plane) == before
    operator.kill()
    spaces[1].kubectl("delete", "configmap", domain.bundle_name)
    edit = {
        "binaryData": {"truststore.p12": "MAA="},
        "metadata": {"annotations": {"serviceidentity.dev/bundle-sequence": "9999"}},
    }
    spaces[2].kubectl("patch", "configmap", domain.bundle_name, "--type=merge", "--patch", json.dumps(edit))
    domain.select(spaces[0], yes=False)
    operator.start()
    stores = {pkcs12_roots(files["truststore.p12"])}

    def right(space: Space) -> bool:
        now = domain.files(space)
        same = now.keys() == files.keys() and all(now[key] == files[key] for key in files if not key.endswith(".p12"))
        return same and {pkcs12_roots(now["truststore.p12"])} == stores

    eventually(lambda: domain.found(spaces[0]) is None and right(spaces[1]) and right(spaces[2]))
    assert domain.files(spaces[3]) == {"mine": b"1"}
    operator.stop()
