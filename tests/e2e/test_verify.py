"""`kubectl sid verify` with what a cluster has published: a certificate, a token and a signed request."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serviceidentity.domain.requests.signing import sign
from tests.controlplane import ControlPlane
from tests.controlplane.binaries import beside_python
from tests.e2e.support import Space, eventually, trust_domain

pytestmark = pytest.mark.e2e


def verify(plane: ControlPlane, *arguments: str, given: bytes = b"") -> tuple[int, str]:
    programs = Path(sys.executable).parent
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "KUBECONFIG": str(plane.admin_kubeconfig), "HOME": "/"}
    command = [str(beside_python("kubectl")), "sid", "verify", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, check=False, env=environment, timeout=60)
    assert b"Traceback" not in done.stderr
    return done.returncode, (done.stdout + done.stderr).decode()


def test_a_certificate_is_verified_with_the_published_roots_and_lists(space: Space, control_plane: ControlPlane):
    domain = space.name
    labels = {"kubernetes.io/metadata.name": space.name}
    trust_domain(control_plane, domain, bundle={"target": {"namespaceSelector": {"matchLabels": labels}}}, crl={})
    space.apply("a", {"certificate": {}, "trustDomainRef": {"name": domain}})
    space.ready()
    eventually(lambda: "ca.crl" in space.kubectl("get", "configmap", f"{domain}-trust-bundle", "-o", "json"))
    asked = ("certificate", "-n", space.name, "--trust-domain", domain)
    chain = space.data("a-tls")["tls.crt"]
    code, said = verify(control_plane, *asked, given=chain)
    assert code == 0, said
    assert f"/ns/{space.name}/sa/a" in said
    assert "note:" not in said
    code, said = verify(control_plane, *asked, "--at", "2100-01-01T00:00:00Z", given=chain)
    assert code == 1
    assert said.startswith("refused: Expired")
    code, said = verify(control_plane, "certificate", "-n", "kube-public", "--trust-domain", domain, given=chain)
    assert code == 2
    assert "there is no ConfigMap" in said
    code, said = verify(control_plane, "token", "--trust-domain", domain, given=b"x.y.z")
    assert code in (1, 2)
    assert "Malformed" in said or "signs no tokens" in said


def test_a_signed_request_is_verified_with_the_keyring(space: Space, control_plane: ControlPlane):
    space.apply("signer", {"hmac": {"verifiers": [{"name": "verifier"}]}})
    space.apply("verifier", {"callers": [{"name": "signer"}]})
    space.ready()
    eventually(lambda: "signer" in json.loads(space.data("verifier-hmac-keyring")["keyring.json"])["services"])
    key = bytes.fromhex(space.data("signer-hmac")["key"].decode())
    headers = sign("signer", key, {"n": 1}, int(time.time() * 1000))
    text = "POST / HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + '\r\n{"n": 1}'
    asked = ("request", "-n", space.name, "--verifier", "verifier")
    code, said = verify(control_plane, *asked, given=text.encode())
    assert code == 0, said
    assert f"{space.name}/signer" in said
    code, said = verify(control_plane, *asked, "-o", "json", given=text.replace("1}", "2}").encode())
    assert (code, json.loads(said)["reasons"][0]["reason"]) == (1, "BadSignature")
    assert key.hex() not in said


def test_a_token_is_verified_with_the_keys_of_its_trust_domain(space: Space, control_plane: ControlPlane):
    domain = space.name
    trust_domain(control_plane, domain, jwt={})
    token = {"name": "api", "audiences": ["payment-service"]}
    space.apply("a", {"trustDomainRef": {"name": domain}, "jwt": {"tokens": [token]}})
    space.ready()
    given = space.data("a-api-token")["token"]
    asked = ("token", "--trust-domain", domain)
    code, said = verify(control_plane, *asked, "--audience", "payment-service", given=given)
    assert code == 0, said
    assert f"{space.name}/a" in said
    assert given.decode().rpartition(".")[2] not in said
    code, said = verify(control_plane, *asked, "--audience", "order-service", given=given)
    assert (code, said.split("\n")[0].split(":")[:2]) == (1, ["refused", " WrongAudience"])
    # The key of a service is not one of its trust domain's, whatever it signs.
    code, said = verify(control_plane, "token", "-n", space.name, "--identity", "a", given=given)
    assert code == 1
    assert "UnknownKey" in said
