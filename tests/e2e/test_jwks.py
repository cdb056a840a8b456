"""The operator serves over TLS with a certificate that it issues to itself, also while another process works."""

import contextlib
import http.client
import json
import socket
import ssl
from base64 import b64decode
from dataclasses import dataclass

import pytest
from cryptography import x509

from tests.controlplane import ControlPlane
from tests.controlplane.binaries import ROOT
from tests.controlplane.operator import NAMESPACE, OperatorProcess
from tests.controlplane.processes import free_port
from tests.e2e.support import eventually, new_space, settled

pytestmark = pytest.mark.e2e
SERVICE = f"serviceidentity-jwks.{NAMESPACE}.svc"


@dataclass
class Verifier:
    """Reads what one process serves, as a Pod does that trusts the trust domain's root."""

    plane: ControlPlane
    port: int

    def get(self, path: str) -> tuple[int, bytes]:
        with self._connected() as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def serial(self) -> int:
        with self._connected() as connection:
            return x509.load_der_x509_certificate(connection.sock.getpeercert(binary_form=True)).serial_number

    def serves(self) -> bool:
        try:
            return self.get("/healthz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    @contextlib.contextmanager
    def _connected(self):
        root = self.plane.get("secret", "default-root-1", f"--namespace={NAMESPACE}")["data"]["tls.crt"]
        context = ssl.create_default_context(cadata=b64decode(root).decode())
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.sock = context.wrap_socket(
            socket.create_connection(("127.0.0.1", self.port), 5), server_hostname=SERVICE
        )
        with contextlib.closing(connection):
            yield connection


def test_leader_and_standby_serve_with_the_operators_own_certificate_and_take_its_successor_at_once(
    own_plane: ControlPlane,
):
    served = [Verifier(own_plane, free_port()) for _ in range(2)]
    leader, standby = (
        OperatorProcess(own_plane, "--leader-elect=on", f"--jwks-address=127.0.0.1:{one.port}") for one in served
    )
    try:
        leader.start()
        standby.start(wait=False)
        eventually(lambda: "there is no certificate yet" in leader.log)
        own_plane.kubectl("apply", "-f", str(ROOT / "deploy/jwks/service-identity.yaml"))
        for one in served:
            eventually(one.serves)
            status, text = one.get("/default/bundle.json")
            assert (status, [key["use"] for key in json.loads(text)["keys"]]) == (200, ["x509-svid"])
            assert [one.get(path)[0] for path in ("/default/nothing", "/other/bundle.json")] == [404, 404]
        shop = new_space(own_plane)
        shop.apply("order-service", {"jwt": {}})
        shop.ready("order-service")
        mounted = own_plane.get("configmap", "order-service-jwks", f"--namespace={shop.name}")["data"]["jwks.json"]
        path = f"/default/identities/{shop.name}/order-service/jwks.json"
        for one in served:
            eventually(lambda one=one: one.get(path)[0] == 200)
            assert json.loads(one.get(path)[1]) == json.loads(mounted)
        before = served[0].serial()
        settled(own_plane)
        assert served[1].serial() == before
        own_plane.kubectl(
            "annotate", "sid/serviceidentity-jwks", f"--namespace={NAMESPACE}", "serviceidentity.dev/rotate=1"
        )
        for one in served:
            eventually(lambda one=one: one.serial() != before)
        leader.kill()
        assert served[1].serves()
        assert served[1].get("/default/bundle.json")[0] == 200
        assert "Traceback" not in leader.log + standby.log
    finally:
        leader.stop()
        standby.stop()


def test_the_overlay_is_complete(control_plane: ControlPlane, tmp_path):
    overlay = tmp_path / "kustomization.yaml"
    relative = "../" * len(tmp_path.parts[1:]) + str(ROOT).lstrip("/")
    overlay.write_text(f"resources: [{relative}/deploy]\ncomponents: [{relative}/deploy/jwks]\n")
    shown = control_plane.kubectl("kustomize", str(tmp_path)).stdout
    for part in ("SIO_JWKS_ADDRESS", "containerPort: 8443", "scheme: HTTPS", "targetPort: jwks", "SIO_LEADER_ELECT"):
        assert part in shown
