import json
import time
from base64 import urlsafe_b64decode
from datetime import datetime

import pytest

from examples.demo import signing
from tests.controlplane import ControlPlane
from tests.e2e.support import Space, chain, eventually, fits, serial, trust_domain

pytestmark = pytest.mark.e2e
FAST = {"rotateEvery": "10s", "overlap": "4s", "publishBefore": "2s"}


def test_a_certificate_is_renewed_before_it_ends_and_always_fits_its_key(space: Space):
    space.apply("a", {"certificate": {"duration": "12s"}})
    space.ready()
    serials: list[str] = []
    deadline = time.monotonic() + 30
    while len(serials) < 3 and time.monotonic() < deadline:
        data = space.data("a-tls")
        assert fits(data)
        left = chain(data)[0].not_valid_after_utc.timestamp() - time.time()
        assert left > 0
        if serial(data) not in serials:
            serials.append(serial(data))
    assert len(serials) == 3


def test_a_leaf_never_outlives_its_issuer_and_the_issuer_is_replaced_in_time(space: Space, control_plane: ControlPlane):
    trust_domain(control_plane, space.name, intermediate={"duration": "20s"}, maxLeafDuration="10s", backdate="0s")
    space.apply("a", {"trustDomainRef": {"name": space.name}, "certificate": {"duration": "10s"}})
    space.ready()
    issuers: set[int] = set()
    deadline = time.monotonic() + 60
    while len(issuers) < 3 and time.monotonic() < deadline:
        leaf, issuer = chain(space.data("a-tls"))
        assert leaf.not_valid_after_utc <= issuer.not_valid_after_utc
        assert leaf.not_valid_after_utc.timestamp() > time.time()
        issuers.add(issuer.serial_number)
        time.sleep(0.2)
    assert len(issuers) == 3
    states = [a["state"] for a in control_plane.get("td", space.name)["status"]["authorities"]]
    assert states.count("Active") == 2  # one root, one intermediate


def test_a_key_is_prepared_then_active_then_retiring_then_gone(space: Space):
    space.apply("a", {"hmac": FAST})
    space.ready()
    (first,) = space.ring("a")
    seen: list[dict[str, str]] = []
    deadline = time.monotonic() + 25
    while time.monotonic() < deadline and first in (ring := space.ring("a")):
        assert list(ring.values()).count("Active") == 1
        if not seen or seen[-1] != ring:
            seen.append(ring)
    states = [sorted(ring.values()) for ring in seen]
    assert states == [["Active"], ["Active", "Prepared"], ["Active", "Retiring"]]
    assert seen[2][first] == "Retiring"
    data = space.data("a-hmac")
    assert "previous-key" not in data
    assert data["key-id"].decode() in space.ring("a")


def test_the_previous_key_is_kept_until_its_deadline(space: Space):
    space.apply("a", {"hmac": FAST})
    space.ready()
    data = eventually(lambda: d if "previous-key" in (d := space.data("a-hmac")) else None, 20)
    until = datetime.fromisoformat(data["previous-key-until"].decode()).timestamp()
    while time.time() < until - 0.3:
        assert "previous-key" in space.data("a-hmac")
        time.sleep(0.2)
    eventually(lambda: "previous-key" not in space.data("a-hmac"), 4)


def test_keys_are_delivered_by_consent_of_both_sides(space: Space):
    space.apply("named", {"hmac": {"verifiers": [{"name": "verifier"}]}})
    space.apply("stranger", {"hmac": {"verifiers": [{"name": "verifier"}]}})
    space.apply("silent", {"hmac": {}})
    space.apply("verifier", {"callers": [{"name": "named"}, {"name": "silent"}]})
    space.ready()
    keyring = eventually(lambda: _services(space, "verifier"))
    assert keyring.keys() == {"named"}
    assert [key["kid"] for key in keyring["named"]["keys"]] == list(space.ring("named"))
    space.apply("verifier", {"callers": [{"name": "*"}]})
    eventually(lambda: _services(space, "verifier").keys() == {"named", "stranger"})
    space.apply("named", {"hmac": {}})
    eventually(lambda: _services(space, "verifier").keys() == {"stranger"})
    space.kubectl("delete", "sid", "stranger")
    eventually(lambda: _services(space, "verifier") == {})


def test_no_request_is_refused_through_ten_rotations(space: Space):
    quick = {"rotateEvery": "10s", "overlap": "4s", "publishBefore": "1s", "verifiers": [{"name": "verifier"}]}
    space.apply("signer", {"hmac": quick})
    space.apply("verifier", {"callers": [{"name": "signer"}]})
    space.ready()
    keys: list[str] = []
    requests, token = 0, 0
    deadline = time.monotonic() + 60
    while len(keys) < 11 and time.monotonic() < deadline:
        # The signer reads first: a verifier that is behind by one read must still accept it.
        signer = space.data("signer-hmac")
        keyring = space.data("verifier-hmac-keyring")["keyring.json"]
        now = int(time.time() * 1000)
        headers = signing.sign("signer", bytes.fromhex(signer["key"].decode()), {"n": requests}, now)
        assert signing.verdict(keyring, headers, {"n": requests}, now) == "from signer"
        requests += 1
        key_id = signer["key-id"].decode()
        if key_id not in keys:
            keys.append(key_id)
            token += 1
            space.kubectl("annotate", "--overwrite", "sid", "signer", f"serviceidentity.dev/rotate={token}")
    assert len(keys) == 11


def _services(space: Space, verifier: str) -> dict[str, dict]:
    data = space.data(f"{verifier}-hmac-keyring")
    services = json.loads(data["keyring.json"])["services"]
    for service in services.values():
        assert all(len(urlsafe_b64decode(key["k"] + "=")) == 32 for key in service["keys"])
    return services
