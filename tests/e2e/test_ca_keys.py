"""CA keys at rest: encrypted where they lie, wrapped anew, out of reach and back."""

import contextlib
import json
import os
import secrets
from base64 import b64decode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from serviceidentity.domain.pki import certificates, keys
from tests.controlplane import ControlPlane, start_control_plane
from tests.controlplane.binaries import ROOT
from tests.controlplane.operator import NAMESPACE, OperatorProcess, install
from tests.e2e.support import Space, chain, eventually, new_space, settled, trust_domain, writes
from tests.e2e.test_cli import sid

pytestmark = pytest.mark.e2e
Run = Callable[..., OperatorProcess]
soon = partial(eventually, timeout=30)


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with start_control_plane(openbao=True) as plane:
        install(plane)
        yield plane


@pytest.fixture
def kek(plane: ControlPlane) -> Iterator[Path]:
    """A file with one key-encryption key, and an empty cluster around it."""
    file = plane.directory / "keks"
    write(file, "one: " + secrets.token_hex(32))
    yield file
    plane.kubectl("delete", "sid,td", "--all", "--all-namespaces")
    plane.kubectl("delete", "secrets", "--all", f"--namespace={NAMESPACE}")


@pytest.fixture
def run(plane: ControlPlane) -> Iterator[Run]:
    """Make operators that end with the test."""
    made: list[OperatorProcess] = []

    def new(encryption: str = "none", **options: Any) -> OperatorProcess:
        made.append(OperatorProcess(plane, f"--ca-key-encryption={encryption}", **options))
        return made[-1]

    yield new
    for operator in made:
        operator.kill()


def write(file: Path, *lines: str) -> None:
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text("\n".join(lines))
    new.rename(file)


def authorities(plane: ControlPlane) -> dict[str, dict[str, Any]]:
    found = plane.get("secrets", f"--namespace={NAMESPACE}", "--selector=serviceidentity.dev/trust-domain")
    return {item["metadata"]["name"]: item for item in found["items"]}


def parts(item: dict[str, Any], *names: str) -> dict[str, bytes]:
    return {name: b64decode(item["data"][name]) for name in names or item["data"]}


def envelope(item: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(parts(item)["tls.key"]))


def condition(plane: ControlPlane, type_: str = "Ready", domain: str = "default") -> dict[str, Any]:
    conditions = plane.get("td", domain).get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == type_), {})


def encrypted_with(plane: ControlPlane, domain: str = "default") -> set[str | None]:
    listed = plane.get("td", domain).get("status", {}).get("authorities", [])
    return {one.get("keyEncryptionKey") for one in listed}


def versions(space: Space) -> dict[str, str]:
    return {name: item["metadata"]["resourceVersion"] for name, item in space.secrets().items()}


def occurs(private: bytes, item: dict[str, Any]) -> bool:
    """Whether a private key occurs in a Secret: as it was, as DER, or as its bare number, in whatever layer."""
    key = keys.load(private)
    number = key.private_numbers().private_value.to_bytes(32)  # type: ignore[union-attr]
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    layers = [json.dumps(item).encode(), *parts(item).values()]
    for layer in list(layers):
        with contextlib.suppress(ValueError, AttributeError):
            layers += [b64decode(value) for value in json.loads(layer).values() if isinstance(value, str)]
    needles = [number, number.hex().encode(), der, private, b"".join(private.splitlines()[1:-1])]
    return any(needle in layer for needle in needles for layer in layers)


def test_keys_are_encrypted_where_they_lie_and_nothing_is_issued_anew(plane: ControlPlane, kek: Path, run: Run):
    trust_domain(plane, "default")
    space = new_space(plane)
    operator = run()
    operator.start()
    space.apply("a", {"certificate": {}, "hmac": {}})
    space.ready(timeout=30)
    operator.stop()
    plain, leaves, before = authorities(plane), versions(space), writes(plane)
    assert condition(plane, "KeysEncrypted") == {}

    encrypting = run(f"file:{kek}")
    encrypting.start()
    soon(lambda: condition(plane, "KeysEncrypted").get("status") == "True")
    sealed = authorities(plane)
    assert sealed.keys() == plain.keys()
    for name, item in sealed.items():
        assert not occurs(parts(plain[name])["tls.key"], item)
        assert occurs(parts(plain[name])["tls.key"], plain[name]), "it would have been found"
        assert parts(item, "tls.crt", "ca.crt") == parts(plain[name], "tls.crt", "ca.crt")
        assert envelope(item)["kek"] == "file:one"
    assert encrypted_with(plane) == {"file:one"}
    space.apply("b", {"certificate": {}})
    space.ready(timeout=30)
    signer = certificates.load_chain(parts(sealed["default-intermediate-1"])["tls.crt"])[0]
    assert certificates.signed_by(chain(space.data("b-tls"))[0], signer)
    leaves |= {"b-tls": versions(space)["b-tls"]}

    # A new key-encryption key, and a restart that finds it: only the wrapping changes.
    encrypting.kill()
    write(kek, "two: " + secrets.token_hex(32), *kek.read_text().splitlines())
    encrypting.start()
    soon(lambda: encrypted_with(plane) == {"file:two"})
    rewrapped = authorities(plane)
    for name, item in rewrapped.items():
        old, new = envelope(sealed[name]), envelope(item)
        assert (new["iv"], new["ciphertext"]) == (old["iv"], old["ciphertext"])
        assert new["wrappedKey"] != old["wrappedKey"]

    # Asked for by annotation: new data keys, once, with what the file holds by now.
    write(kek, *kek.read_text().splitlines()[:1])
    plane.kubectl("annotate", "td", "default", "serviceidentity.dev/rewrap=1")
    for name, item in rewrapped.items():
        soon(lambda n=name, i=item: envelope(authorities(plane)[n])["ciphertext"] != envelope(i)["ciphertext"])
    encrypting.kill()
    encrypting.start()
    written = settled(plane) - before
    assert written["PUT", "secrets", ""] == 3 * 2, "each authority three times, the request served once"
    assert written["POST", "secrets", ""] == 1, "the new identity's"
    assert versions(space) == leaves


def test_without_its_key_nothing_is_made_anew_and_with_it_all_goes_on(plane: ControlPlane, kek: Path, run: Run):
    trust_domain(plane, "default")
    space = new_space(plane)
    operator = run(f"file:{kek}")
    operator.start()
    space.apply("a", {"certificate": {}})
    space.ready(timeout=30)
    operator.kill()
    kept, leaves, listed = authorities(plane), versions(space), plane.get("td", "default")["status"]["authorities"]
    another = kek.with_name("another")
    write(another, "other: " + secrets.token_hex(32))
    space.apply("b", {"certificate": {}})
    plane.kubectl("annotate", "td", "default", "serviceidentity.dev/rotate-root=1")
    for encryption, told in [
        ("none", "file:one, which this operator was not given"),
        (f"file:{another}", "file:one is not in the file"),
    ]:
        bereft = run(encryption)
        bereft.start()
        soon(lambda told=told: told in condition(plane).get("message", ""))
        assert condition(plane)["reason"] == "AuthorityUnreadable"
        soon(lambda told=told: told in space.condition("b").get("message", ""))
        assert space.condition("b")["reason"] == "TrustDomainNotReady"
        bereft.stop()
    bereft.start()
    settled(plane)
    assert space.condition("a")["status"] == "True"
    assert authorities(plane) == kept
    assert plane.get("td", "default")["status"]["authorities"] == listed
    bereft.kill()
    plane.kubectl("annotate", "td", "default", "serviceidentity.dev/rotate-root-")
    operator.start()
    space.ready(timeout=30)
    assert condition(plane)["status"] == "True"
    assert versions(space).items() >= leaves.items()
    assert authorities(plane) == kept


def test_a_kek_file_that_cannot_be_used_is_told_at_the_start(plane: ControlPlane, kek: Path, run: Run):
    kek.chmod(0o644)
    operator = run(f"file:{kek}")
    operator.start(wait=False)
    soon(lambda: operator.process.exit_code is not None)
    assert operator.process.exit_code == 1
    assert "open to others" in operator.log
    assert "Traceback" not in operator.log


def test_transit_wraps_and_its_absence_is_borne(plane: ControlPlane, kek: Path, run: Run):
    assert plane.openbao is not None
    bao = plane.openbao
    bao.request("POST", "sys/mounts/transit", {"type": "transit"})
    bao.request("POST", "transit/keys/ca", {"derived": True})
    rights = {f"transit/{path}/ca": ["update"] for path in ("encrypt", "decrypt", "rewrap")} | {
        "transit/keys/ca": ["read"]
    }
    policy = json.dumps({"path": {path: {"capabilities": verbs} for path, verbs in rights.items()}})
    bao.request("PUT", "sys/policies/acl/operator", {"policy": policy})
    token = bao.request("POST", "auth/token/create", {"policies": ["operator"]})["auth"]["client_token"]
    bao.stop()
    trust_domain(plane, "default")
    space = new_space(plane)
    space.apply("a", {"certificate": {}})
    environment = {"VAULT_ADDR": bao.address, "VAULT_TOKEN": token}
    operator = run("transit:transit/ca", environment=environment)
    operator.start()
    soon(lambda: condition(plane).get("reason") == "KeyEncryptionFailed")
    assert authorities(plane) == {}
    bao.start()
    space.ready(timeout=30)
    assert encrypted_with(plane) == {"transit:transit/ca:v1"}
    leaves = versions(space)

    bao.request("POST", "transit/keys/ca/rotate")
    sid(plane, "ca", "rewrap", "default")
    soon(lambda: encrypted_with(plane) == {"transit:transit/ca:v2"})
    bao.request("POST", "transit/keys/ca/config", {"min_decryption_version": 2})
    assert versions(space) == leaves

    bao.stop()
    space.apply("b", {"certificate": {}})
    space.ready("b", timeout=30)
    operator.kill()
    operator.start(wait=False)
    soon(lambda: condition(plane).get("reason") == "AuthorityUnreadable")
    assert "does not answer" in condition(plane)["message"]
    bao.start()
    soon(lambda: condition(plane).get("status") == "True", timeout=40)
    assert versions(space).items() >= leaves.items()
    operator.stop()
    assert token not in operator.log


def test_killed_while_it_encrypts_it_goes_on_to_the_end(plane: ControlPlane, kek: Path, run: Run):
    names = [f"td{number}" for number in range(8)]
    for name in names:
        trust_domain(plane, name)
    operator = run(events=False)
    operator.start()
    plane.kubectl("wait", "--for=condition=Ready", "td", "--all", "--timeout=60s")
    operator.stop()
    plain = authorities(plane)
    assert len(plain) == 2 * len(names)
    encrypting, left = run(f"file:{kek}", events=False), len(plain)
    while left:
        count = writes(plane)["PUT", "secrets", ""]
        encrypting.start(wait=False)
        soon(lambda count=count: writes(plane)["PUT", "secrets", ""] > count)
        encrypting.kill()
        left = sum(not parts(item)["tls.key"].startswith(b"{") for item in authorities(plane).values())
    encrypting.start()
    space = new_space(plane)
    for name in names:
        space.apply(name, {"trustDomainRef": {"name": name}, "certificate": {}})
    space.ready(timeout=60)
    now = authorities(plane)
    assert now.keys() == plain.keys()
    for name, item in now.items():
        assert parts(item, "tls.crt") == parts(plain[name], "tls.crt")
        assert not occurs(parts(plain[name])["tls.key"], item)
    for name in names:
        signer = certificates.load_chain(parts(now[f"{name}-intermediate-1"])["tls.crt"])[0]
        assert certificates.signed_by(chain(space.data(f"{name}-tls"))[0], signer)


def test_the_component_mounts_the_file_where_it_is_looked_for(plane: ControlPlane):
    directory = plane.directory / "with-ca-keys"
    directory.mkdir()
    deploy = os.path.relpath(ROOT / "deploy", directory)
    wanted = {"resources": [deploy], "components": [f"{deploy}/ca-keys"]}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
    applied = json.loads(plane.kubectl("apply", "--dry-run=server", "-o=json", f"--kustomize={directory}").stdout)
    (deployment,) = (item for item in applied["items"] if item["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (operator,) = pod["containers"]
    (mount,) = operator["volumeMounts"]
    setting = next(one["value"] for one in operator["env"] if one["name"] == "SIO_CA_KEY_ENCRYPTION")
    assert setting == f"file:{mount['mountPath']}/keys"
    assert pod["volumes"][0]["secret"]["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] == 65532
