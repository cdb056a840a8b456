import re
import subprocess
from base64 import b64encode

import pytest
from cryptography import x509

from tests.controlplane import ControlPlane
from tests.controlplane.operator import OperatorProcess
from tests.e2e.support import Space, chain, fits

pytestmark = pytest.mark.e2e


def test_kubectl_wait_sees_a_ready_identity_with_its_certificate(space: Space, tmp_path):
    name = f"order-service.{space.name}.svc"
    space.apply("order-service", {"certificate": {"dnsNames": [name]}})
    space.ready("order-service")
    secret, data = space.secret("order-service-tls"), space.data("order-service-tls")
    assert secret is not None and secret["type"] == "kubernetes.io/tls"
    leaf, intermediate = chain(data)
    assert fits(data)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    spiffe_id = f"spiffe://test.example/ns/{space.name}/sa/order-service"
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [spiffe_id]
    assert names.get_values_for_type(x509.DNSName) == [name]
    for name in ("tls.crt", "ca.crt"):
        (tmp_path / name).write_bytes(data[name])
    subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", "-untrusted", "tls.crt", "tls.crt"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    status = space.status("order-service")
    assert status["spiffeID"] == spiffe_id
    assert status["certificate"]["serialNumber"] == f"{leaf.serial_number:x}"
    assert status["certificate"]["notAfter"] == leaf.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert status["nextActionTime"] == status["certificate"]["renewalTime"] < status["certificate"]["notAfter"]
    assert intermediate.not_valid_after_utc >= leaf.not_valid_after_utc


@pytest.mark.parametrize(
    "private_key",
    [
        {"algorithm": "ECDSA", "size": 384},
        {"algorithm": "ECDSA", "encoding": "PKCS1"},
        {"algorithm": "RSA", "size": 3072},
        {"algorithm": "RSA", "encoding": "PKCS1"},
        {"algorithm": "Ed25519"},
    ],
    ids=lambda spec: "-".join(str(value) for value in spec.values()),
)
def test_every_kind_of_key_can_be_asked_for(space: Space, private_key):
    space.apply("keys", {"certificate": {"privateKey": private_key, "outputFormats": ["DER", "CombinedPEM"]}})
    space.ready("keys")
    data = space.data("keys-tls")
    assert fits(data)
    assert data["tls-combined.pem"] == data["tls.key"] + data["tls.crt"]
    assert data["key.der"]


def test_keystores_come_with_the_users_password_or_a_generated_one(space: Space):
    space.kubectl("create", "secret", "generic", "mine", "--from-literal=password=correct horse")
    formats = ["PKCS12", "JKS"]
    space.apply("given", {"certificate": {"outputFormats": formats, "keystorePasswordSecretRef": {"name": "mine"}}})
    space.apply("made", {"certificate": {"outputFormats": formats}})
    space.ready()
    for name in ("given", "made"):
        data = space.data(f"{name}-tls")
        password = data.get("keystore-password", b"correct horse")
        assert ("keystore-password" in data) == (name == "made")
        result = subprocess.run(
            ["openssl", "pkcs12", "-noout", "-passin", f"pass:{password.decode()}"],
            input=data["keystore.p12"], capture_output=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0
        assert data["keystore.jks"][:4] == bytes.fromhex("feedfeed")


def test_a_missing_keystore_password_is_a_clear_condition(space: Space):
    space.apply("ks", {"certificate": {"outputFormats": ["JKS"], "keystorePasswordSecretRef": {"name": "nowhere"}}})
    space.kubectl(
        "wait", "--for=jsonpath={.status.conditions[0].reason}=KeystorePasswordMissing", "sid/ks", "--timeout=10s"
    )
    assert "nowhere" in space.condition("ks")["message"]
    space.kubectl("create", "secret", "generic", "nowhere", "--from-literal=password=changeit")
    space.ready("ks", timeout=40)


def test_no_key_material_outside_of_secrets(space: Space, control_plane: ControlPlane, operator: OperatorProcess):
    space.apply("a", {"certificate": {"outputFormats": ["JKS"]}, "hmac": {"verifiers": [{"name": "b"}]}})
    space.apply("b", {"hmac": {}, "callers": [{"name": "a"}]})
    space.ready()
    space.kubectl("annotate", "sid", "a", "serviceidentity.dev/rotate=1")
    space.kubectl("wait", "--for=jsonpath={.status.certificate.revision}=2", "sid/a", "--timeout=10s")
    everything = operator.log + space.kubectl("get", "sid,events", "-o", "yaml")
    everything += "".join(str(secret["metadata"]) for secret in space.secrets().values())
    authorities = control_plane.get("secrets", "--namespace=serviceidentity-system")["items"]
    everything += "".join(str(secret["metadata"]) for secret in authorities)
    flat = re.sub(r"\s", "", everything)
    checked = 0
    for secret in [*space.secrets().values(), *authorities]:
        for key, encoded in secret["data"].items():
            if key in ("tls.crt", "ca.crt", "key-id", "previous-key-id", "previous-key-until"):
                continue
            value = space.data(secret["metadata"]["name"])[key] if secret in space.secrets().values() else b""
            forms = [encoded, encoded[:40], *_secret_parts(value)]
            assert not any(form in flat for form in forms if len(form) >= 20), f"{key} of {secret['metadata']['name']}"
            checked += 1
    assert checked >= 8


def _secret_parts(value: bytes) -> list[str]:
    """The forms in which a value could slip into a text: itself, line by line, in hex, in base64."""
    text = value.decode(errors="ignore")
    lines = [line for line in text.splitlines() if not line.startswith("-----")]
    raw = re.findall(r'"k":"([^"]+)"', text)
    return [*lines, *raw, value.hex()[:64], b64encode(value).decode()[:40]]
