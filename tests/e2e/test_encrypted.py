"""Encrypted values as people use them: encrypted with the command, kept in a file, decrypted by the operator alone."""

import os
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from serviceidentity.domain import ownership
from serviceidentity.domain.encryption import ring as rings
from serviceidentity.domain.encryption import values
from serviceidentity.domain.material import KeyMaterial
from tests.controlplane import ControlPlane
from tests.controlplane.operator import NAMESPACE, OperatorProcess, running_operator
from tests.e2e.support import API, Space, eventually, new_space, settled

pytestmark = pytest.mark.e2e

MASTER = bytes(range(32)).hex()
PLAIN = b"sk_live_\xc3\xbc\xff\x00"


def sid(kubeconfig: Path, *arguments: str, value: bytes = b"", fails: bool = False) -> str:
    environment = {"PATH": os.environ["PATH"], "KUBECONFIG": str(kubeconfig), "HOME": "/"}
    command = [str(Path(sys.executable).parent / "kubectl-sid"), *arguments]
    done = subprocess.run(command, input=value, capture_output=True, check=False, env=environment)
    assert (done.returncode != 0) is fails, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return (done.stderr if fails else done.stdout).decode().strip()


def manifest(name: str, namespace: str, **texts: str) -> str:
    meta = {"name": name, "namespace": namespace}
    spec = {"encrypted": {"values": texts}}
    return yaml.safe_dump({"apiVersion": API, "kind": "ServiceIdentity", "metadata": meta, "spec": spec})


def public_ids(plane: ControlPlane) -> list[str]:
    found = plane.find("configmap", rings.PUBLIC_NAME, f"--namespace={NAMESPACE}")
    return found["data"][rings.KEY_IDS].split() if found else []


@pytest.fixture
def developer(control_plane: ControlPlane, space: Space) -> Path:
    """Somebody without a single right of their own, besides those of everyone who has logged in."""
    control_plane.kubectl("create", "serviceaccount", "developer", f"--namespace={space.name}")
    return control_plane.kubeconfig_for(space.name, "developer")


def test_encrypted_applied_rotated_and_rekeyed(
    space: Space, control_plane: ControlPlane, developer: Path, tmp_path: Path
):
    admin = control_plane.admin_kubeconfig
    eventually(lambda: public_ids(control_plane))
    text = sid(developer, "encrypt", f"{space.name}/a", "STRIPE_KEY", value=PLAIN)
    file = tmp_path / "a.yaml"
    file.write_text("# the shop\n" + manifest("a", space.name, STRIPE_KEY=text))
    control_plane.kubectl("apply", f"--filename={file}")
    space.ready("a")
    assert space.data("a-encrypted") == {"STRIPE_KEY": PLAIN}

    # Another key: the old value still decrypts; offline, with the file that `show` gave, the new one encrypts.
    before = public_ids(control_plane)
    assert "not allowed" in sid(developer, "rekey", str(file), fails=True)
    sid(admin, "encryption-key", "rotate")
    eventually(lambda: public_ids(control_plane)[1:] == before)
    pem = tmp_path / "key.pem"
    pem.write_text(sid(developer, "encryption-key", "show"))
    other = sid(tmp_path / "no-kubeconfig", "encrypt", f"{space.name}/a", "OTHER", f"--public-key={pem}", value=b"o")
    assert public_ids(control_plane)[0] in other
    control_plane.kubectl("apply", "--filename=-", input=manifest("a", space.name, STRIPE_KEY=text, OTHER=other))
    eventually(lambda: space.data("a-encrypted") == {"STRIPE_KEY": PLAIN, "OTHER": b"o"})

    told = sid(admin, "rekey", str(file))
    assert f"{space.name}/a STRIPE_KEY: key {before[0]} -> key {public_ids(control_plane)[0]}" in told
    assert file.read_text().startswith("# the shop\n") and text not in file.read_text()
    control_plane.kubectl("apply", f"--filename={file}")
    eventually(lambda: space.data("a-encrypted") == {"STRIPE_KEY": PLAIN})
    eventually(
        lambda: (
            space.status("a")["encrypted"]["values"] == [{"name": "STRIPE_KEY", "keyID": public_ids(control_plane)[0]}]
        )
    )
    assert "already" in sid(admin, "rekey", str(file))


def test_what_can_not_be_decrypted_is_told_and_the_last_good_secret_stays(
    space: Space, control_plane: ControlPlane, developer: Path
):
    eventually(lambda: public_ids(control_plane))
    text = sid(developer, "-n", space.name, "encrypt", "a", "STRIPE_KEY", value=b"1")
    space.apply("a", {"encrypted": {"values": {"STRIPE_KEY": text}}})
    space.ready("a")
    before = space.secret("a-encrypted")
    flipped = text[:-3] + ("A" if text[-3] != "A" else "B") + text[-2:]
    for texts, reason in (
        ({"STRIPE_KEY": flipped}, "DecryptionFailed"),
        ({"OTHER": text}, "DecryptionFailed"),
        ({"STRIPE_KEY": "ENC:v1:0011223344556677:" + "A" * 80}, "KeyUnknown"),
        ({"STRIPE_KEY": "ENC:" + "0" * 32 + ":" + "0" * 32 + ":00"}, "MasterKeyMissing"),
        ({"STRIPE_KEY": "ENC:nothing"}, "MalformedValue"),
    ):
        space.apply("a", {"encrypted": {"values": texts}})

        def told(reason: str = reason, key: str = next(iter(texts))) -> bool:
            found = space.condition("a", "EncryptedReady")
            return found.get("reason") == reason and found["message"].startswith(key)

        eventually(told)
    assert space.secret("a-encrypted") == before
    space.apply("b", {"encrypted": {"values": {"STRIPE_KEY": text}}})
    eventually(lambda: space.condition("b").get("reason") == "DecryptionFailed")
    assert space.secret("b-encrypted") is None


@pytest.fixture
def with_master_key(own_plane: ControlPlane) -> Iterator[tuple[OperatorProcess, Space]]:
    own_plane.kubectl(
        "create", "secret", "generic", "masters", f"--namespace={NAMESPACE}", f"--from-literal=keys={MASTER}"
    )
    with running_operator(own_plane, "--master-keys=secret:masters") as operator:
        yield operator, new_space(own_plane)


def test_symmetric_values_restart_and_a_lost_ring(with_master_key: tuple[OperatorProcess, Space], tmp_path: Path):
    operator, space = with_master_key
    plane = space.plane
    (tmp_path / "masters").write_text(MASTER)
    text = sid(
        tmp_path / "none", "encrypt", f"{space.name}/a", "A", f"--master-key-file={tmp_path / 'masters'}", value=PLAIN
    )
    old = values.encrypt_symmetric(KeyMaterial(b"old"), KeyMaterial(bytes.fromhex(MASTER)))
    sealed = sid(plane.admin_kubeconfig, "encrypt", f"{space.name}/a", "S", value=b"s")
    space.apply("a", {"encrypted": {"values": {"A": text, "OLD": old, "S": sealed}}})
    space.ready("a")
    assert space.data("a-encrypted") == {"A": PLAIN, "OLD": b"old", "S": b"s"}
    at_rest = settled(plane)
    operator.kill()
    operator.start()
    assert settled(plane) == at_rest

    backup = plane.get("secret", rings.SECRET_NAME, f"--namespace={NAMESPACE}")
    operator.stop()
    plane.kubectl("delete", "secret", rings.SECRET_NAME, f"--namespace={NAMESPACE}")
    operator.start()
    eventually(lambda: space.condition("a").get("reason") == "EncryptionKeysMissing")
    assert space.data("a-encrypted")["S"] == b"s"
    (tmp_path / rings.KEYS).write_bytes(b64decode(backup["data"][rings.KEYS]))
    restored = (f"--namespace={NAMESPACE}", "secret", rings.SECRET_NAME)
    plane.kubectl("create", restored[0], "secret", "generic", rings.SECRET_NAME, f"--from-file={tmp_path / rings.KEYS}")
    plane.kubectl(
        "label", *restored, f"{ownership.MANAGED_BY_LABEL}={ownership.MANAGED_BY}"
    )  # found at once, not in 30 s
    eventually(lambda: space.condition("a").get("reason") == "Ready")
    for secret in (PLAIN.decode("latin-1"), MASTER, backup["data"]["keys.json"][40:80]):
        assert secret not in operator.log
