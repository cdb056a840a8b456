"""A company's own root or intermediate, made with OpenSSL as its PKI would, signs for services."""

import json
import subprocess
import tempfile
from base64 import b64encode
from pathlib import Path

import pytest

from tests.controlplane import ControlPlane
from tests.controlplane.operator import NAMESPACE
from tests.e2e.support import Space, chain, eventually, fits, trust_domain
from tests.e2e.test_ca_rotation import annotate, authorities, states, two_services
from tests.e2e.test_cli import sid
from tests.e2e.traffic import Pod, Traffic, openssl_connects

pytestmark = pytest.mark.e2e
CA = ("-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
EXTENSIONS = """
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""
NEW = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch")


class Company:
    """A company's PKI in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.directory, check=True, capture_output=True, timeout=30)

    def root(self, name: str) -> None:
        self.run(*NEW, "-x509", "-days", "400", "-subj", f"/CN={name}", *CA,
                 "-keyout", f"{name}.key", "-out", f"{name}.crt")  # fmt: skip

    def authority(self, name: str, above: str) -> None:
        self.run(*NEW, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (self.directory / "ca.ext").write_text(EXTENSIONS)
        above_it = ("-CA", f"{above}.crt", "-CAkey", f"{above}.key", "-days", "200", "-extfile", "ca.ext")
        self.run("x509", "-req", "-in", f"{name}.csr", *above_it, "-out", f"{name}.crt")

    def read(self, *files: str) -> bytes:
        return b"".join((self.directory / file).read_bytes() for file in files)


@pytest.fixture
def company(tmp_path: Path) -> Company:
    return Company(tmp_path)


def put(plane: ControlPlane, name: str, **files: bytes) -> None:
    data = {key.replace("_", "."): b64encode(value).decode() for key, value in files.items()}
    body = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": data,
            "metadata": {"name": name, "namespace": NAMESPACE}}  # fmt: skip
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(body))


def verified(pod: Pod) -> str:
    """Verify a service's chain with OpenSSL's command, up to the root in its own bundle; return what is against it."""
    with tempfile.TemporaryDirectory() as directory:
        for name, content in pod.files.items():
            Path(directory, name).write_bytes(content)
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.crt"]
        command += ["-untrusted", "tls.crt", "tls.crt"]
        return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=30, check=False).stderr


def condition(plane: ControlPlane, domain: str, type_: str) -> dict[str, str]:
    found = plane.get("td", domain).get("status", {}).get("conditions", [])
    return next((one for one in found if one["type"] == type_), {})


def test_a_root_that_is_brought_along_signs_the_intermediate(
    space: Space, control_plane: ControlPlane, company: Company
) -> None:
    name = space.name
    company.root("root")
    trust_domain(control_plane, name, root={"secretRef": {"name": name}}, maxLeafDuration="1h")
    eventually(lambda: condition(control_plane, name, "Ready").get("reason") == "SecretMissing")
    put(control_plane, name, tls_crt=company.read("root.crt"), tls_key=company.read("root.key"))
    annotate(control_plane, name, look="now")
    a, b = two_services(space, name, "1h")
    assert a.files["ca.crt"] == company.read("root.crt")
    assert verified(a) == verified(b) == ""
    assert openssl_connects(a, b) == ""
    assert states(control_plane, name) == {"root-1": "Active", "intermediate-1": "Active"}
    assert authorities(control_plane, name)["root-1"]["importedFrom"] == name
    assert "comes from Secret" in sid(control_plane, "ca", "prepare", name, fails=True)
    assert "intermediate" in sid(control_plane, "ca", "rotate", name), "that one is made here"


def test_an_intermediate_that_is_brought_along_is_followed_and_never_needed_again(
    space: Space, control_plane: ControlPlane, company: Company
) -> None:
    name = space.name
    company.root("root")
    company.authority("policy", "root")
    company.authority("issuing", "policy")
    put(control_plane, name, tls_crt=company.read("issuing.crt", "policy.crt"), tls_key=company.read("issuing.key"),
        ca_crt=company.read("root.crt"))  # fmt: skip
    trust_domain(control_plane, name, intermediate={"secretRef": {"name": name}}, maxLeafDuration="1h")
    a, b = two_services(space, name, "1h")
    assert len(chain(a.files)) == 3
    assert a.files["ca.crt"] == company.read("root.crt")
    assert verified(a) == verified(b) == ""
    assert openssl_connects(a, b) == ""
    secrets = control_plane.get("secrets", f"--namespace={NAMESPACE}", "-l", f"serviceidentity.dev/trust-domain={name}")
    root_key = b64encode(company.read("root.key")).decode()
    assert root_key not in json.dumps(secrets)
    before = states(control_plane, name)

    put(control_plane, name, tls_crt=company.read("issuing.crt"), tls_key=company.read("policy.key"), ca_crt=b"")
    eventually(lambda: condition(control_plane, name, "SourceReady").get("reason") == "IncompleteChain", 20)
    assert condition(control_plane, name, "Ready")["status"] == "True"
    control_plane.kubectl("delete", "secret", name, f"--namespace={NAMESPACE}")
    annotate(control_plane, name, look="again")
    eventually(lambda: condition(control_plane, name, "SourceReady").get("reason") == "SecretMissing")
    space.apply("late", {"trustDomainRef": {"name": name}, "certificate": {"duration": "1h"}})
    space.ready("late")
    assert fits(space.data("late-tls"))
    assert states(control_plane, name) == before


def test_a_renewed_authority_takes_over_without_a_failed_handshake(
    space: Space, control_plane: ControlPlane, company: Company
) -> None:
    name = space.name
    for number in ("1", "2"):
        company.root(f"root{number}")
        company.authority(f"issuing{number}", f"root{number}")

    def bring(number: str) -> None:
        files = {"tls_crt": company.read(f"issuing{number}.crt"), "tls_key": company.read(f"issuing{number}.key")}
        put(control_plane, name, **files, ca_crt=company.read(f"root{number}.crt"))

    bring("1")
    trust_domain(control_plane, name, intermediate={"secretRef": {"name": name}}, maxLeafDuration="10s",
                 propagation="4s", backdate="0s")  # fmt: skip
    a, b = two_services(space, name, "10s")
    seen: list[dict[str, str]] = []

    def has_moved(pod: Pod) -> bool:
        seen.append(states(control_plane, name))
        return chain(pod.files)[1].subject.rfc4514_string() == "CN=issuing2"

    with Traffic(a, b) as traffic:
        bring("2")
        annotate(control_plane, name, look="now")
        eventually(lambda: has_moved(a) and has_moved(b), 40)
    assert traffic.failures == []
    assert traffic.connections > 50
    assert any(one.get("root-2") == "Prepared" for one in seen)
    assert seen[-1]["root-2"] == seen[-1]["intermediate-2"] == "Active"
