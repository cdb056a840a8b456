import random
import threading
import time

import pytest

from tests.controlplane import ControlPlane
from tests.controlplane.operator import OperatorProcess
from tests.e2e.support import fits, new_space, serial, writes

pytestmark = pytest.mark.e2e
COUNT, KILLS, SEED = 200, 50, 20260


def test_killed_fifty_times_while_issuing_the_end_is_the_same(own_plane: ControlPlane):
    space = new_space(own_plane)
    own_plane.kubectl("wait", "--for=jsonpath={.spec.trustDomain}=test.example", "td/default")
    chance = random.Random(SEED)
    done = threading.Event()

    def feed() -> None:
        """Identities come one by one all the time, so that each life of the operator has something to do."""
        for number in range(COUNT):
            verifier = f"s{(number + 1) % COUNT}"
            spec = {"certificate": {}, "hmac": {"verifiers": [{"name": verifier}]}, "callers": [{"name": "*"}]}
            space.create(f"s{number}", spec)
            time.sleep(0.2)
        done.set()

    feeder = threading.Thread(target=feed)
    feeder.start()
    operator = OperatorProcess(own_plane)
    for _ in range(KILLS):
        operator.start(wait=False)
        time.sleep(0.7 + chance.random() * 0.6)  # its start alone takes most of a second
        operator.kill()
    feeder.join()
    assert done.is_set()
    operator.start()
    space.ready(timeout=60)
    expected = {f"s{n}-{kind}" for n in range(COUNT) for kind in ("tls", "hmac", "hmac-keyring")}
    secrets = space.secrets()
    assert set(secrets) == expected, f"seed {SEED}"
    for item in own_plane.get("sid", f"--namespace={space.name}")["items"]:
        name, status = item["metadata"]["name"], item["status"]
        data = space.data(f"{name}-tls")
        assert fits(data)
        assert status["certificate"]["serialNumber"] == serial(data)
        assert secrets[f"{name}-tls"]["metadata"]["annotations"]["serviceidentity.dev/revision"] == "1"
        assert [key["keyID"] for key in status["hmac"]["keys"]] == list(space.ring(name))
    authorities = own_plane.get(
        "secrets", "--namespace=serviceidentity-system", "--selector=serviceidentity.dev/trust-domain"
    )["items"]
    assert [a["metadata"]["name"] for a in authorities] == ["default-intermediate-1", "default-root-1"]
    operator.stop()
    before = writes(own_plane)
    operator.start()
    time.sleep(3)
    assert writes(own_plane) == before
    operator.stop()
