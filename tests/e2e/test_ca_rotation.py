"""Roots change under traffic and nobody notices; a tainted one is refused afterwards."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from examples.demo import mtls
from tests.controlplane import ControlPlane
from tests.controlplane.operator import OperatorProcess
from tests.e2e.support import API, Space, chain, eventually, new_space, serial, settled, trust_domain, writes
from tests.e2e.traffic import Pod, Traffic

pytestmark = pytest.mark.e2e
QUICK: dict[str, Any] = {
    "root": {"duration": "60s", "renewBefore": "42s"},
    "intermediate": {"duration": "50s"},
    "maxLeafDuration": "10s",
    "propagation": "4s",
    "backdate": "0s",
}
CALM = {"maxLeafDuration": "1h", "propagation": "2s"}


def authorities(plane: ControlPlane, name: str) -> dict[str, dict[str, Any]]:
    found = plane.get("td", name).get("status", {}).get("authorities", [])
    return {item["secretName"].removeprefix(f"{name}-"): item for item in found}


def states(plane: ControlPlane, name: str) -> dict[str, str]:
    return {key: item["state"] for key, item in authorities(plane, name).items()}


def annotate(plane: ControlPlane, name: str, **annotations: str) -> None:
    pairs = (f"serviceidentity.dev/{key.replace('_', '-')}={value}" for key, value in annotations.items())
    plane.kubectl("annotate", "--overwrite", "td", name, *pairs)


def two_services(space: Space, domain: str, duration: str, **options: str) -> tuple[Pod, Pod]:
    for name in ("a", "b"):
        names = [name, f"{name}.{space.name}.svc"]
        certificate = {"dnsNames": names, "duration": duration, **options}
        space.apply(name, {"trustDomainRef": {"name": domain}, "certificate": certificate})
    space.ready()
    return Pod(space, "a"), Pod(space, "b")


def test_no_handshake_fails_through_three_root_rotations_and_a_forced_one(space: Space, control_plane: ControlPlane):
    name = space.name
    trust_domain(control_plane, name, **QUICK)
    a, b = two_services(space, name, "10s", renewBefore="6s")
    seen: set[str] = set()

    def active_root() -> str:
        now = states(control_plane, name)
        found = next((key for key, state in now.items() if key.startswith("root") and state == "Active"), "")
        seen.add(found)
        return found

    with Traffic(a, b) as traffic:
        _until(lambda: active_root() == "root-4", 120)
        old = authorities(control_plane, name)["root-4"]
        _until(lambda: _root_of(control_plane, name, a.files) == old["fingerprint"], 40)
        kept = dict(a.files)  # stolen before the taint
        annotate(control_plane, name, rotate_root="now")
        _until(lambda: active_root() not in ("root-4", ""), 40)
        new = active_root()
        control_plane.kubectl(
            "patch", "td", name, "--type=merge",
            "--patch", yaml.safe_dump({"spec": {"taintedAuthorities": [{"fingerprint": old["fingerprint"]}]}}),
        )  # fmt: skip
        _until(lambda: "root-4" not in states(control_plane, name), 40)
        time.sleep(2)
    assert traffic.failures == []
    assert {"root-1", "root-2", "root-3", "root-4", new} <= seen
    assert traffic.connections > 500
    assert traffic.openssl_connections > 100
    late = mtls.connect(b.files, kept, b.server_name, roots=b.files["ca.crt"])
    assert "issuer" in late.server_refused, "what the tainted root signed is refused, whether or not it has expired"


def test_a_tainted_root_is_replaced_at_the_configured_rate_and_nothing_else_is_written(own_plane: ControlPlane):
    trust_domain(own_plane, "mass", **CALM, reissuesPerSecond=40)
    space, count = new_space(own_plane), 200
    operator = OperatorProcess(own_plane, events=False)
    operator.start()
    documents = (
        f"apiVersion: {API}\nkind: ServiceIdentity\nmetadata: {{name: s{n}, namespace: {space.name}}}\n"
        "spec: {trustDomainRef: {name: mass}, certificate: {duration: 1h}}\n"
        for n in range(count)
    )
    space.kubectl("apply", "-f", "-", input="---\n".join(documents))
    space.ready(timeout=60)
    annotate(own_plane, "mass", rotate_root="1")
    eventually(lambda: states(own_plane, "mass").get("root-2") == "Active", 40)
    before, first = settled(own_plane), {n: serial(space.data(f"s{n}-tls")) for n in (0, 99, 199)}
    old = authorities(own_plane, "mass")["root-1"]["fingerprint"]
    own_plane.kubectl(
        "patch", "td", "mass", "--type=merge",
        "--patch", yaml.safe_dump({"spec": {"taintedAuthorities": [{"fingerprint": old}]}}),
    )  # fmt: skip
    done: list[tuple[float, int]] = []

    def all_replaced() -> bool:
        annotations = [s["metadata"]["annotations"] for s in space.secrets().values()]
        done.append((time.monotonic(), sum(one["serviceidentity.dev/revision"] == "2" for one in annotations)))
        return done[-1][1] == count

    eventually(all_replaced, 60)
    some = [(at, number) for at, number in done if 0 < number < count]
    assert some, "it takes its time"
    rate = (some[-1][1] - some[0][1]) / max(some[-1][0] - some[0][0], 1)
    assert rate < 60, f"{rate:.0f} a second where 40 were allowed"
    eventually(lambda: "root-1" not in states(own_plane, "mass"), 40)
    after = settled(own_plane) - before
    assert after["PUT", "secrets", ""] <= 2 * count + 4, "each certificate, each bundle after it, and the authorities"
    assert after["PATCH", "serviceidentities", "status"] == count
    assert after["POST", "secrets", ""] == 0
    assert all(serial(space.data(f"s{n}-tls")) != old_serial for n, old_serial in first.items())
    operator.stop()


def test_an_operator_that_is_killed_in_every_state_goes_on_to_the_right_end(own_plane: ControlPlane):
    trust_domain(own_plane, "fragile", **CALM)
    space = new_space(own_plane)
    operator = OperatorProcess(own_plane, events=False)
    operator.start()
    two_services(space, "fragile", "1h")
    reached: list[str] = []
    for state in ("Prepared", "Active"):
        if state == "Prepared":
            annotate(own_plane, "fragile", rotate_root="1")
        eventually(lambda state=state: states(own_plane, "fragile").get("root-2") == state, 20)
        operator.kill()
        reached.append(state)
        operator.start()
    old = authorities(own_plane, "fragile")["root-1"]["fingerprint"]
    operator.kill()
    own_plane.kubectl(
        "patch", "td", "fragile", "--type=merge",
        "--patch", yaml.safe_dump({"spec": {"taintedAuthorities": [{"fingerprint": old}]}}),
    )  # fmt: skip
    operator.start()
    for _ in range(4):
        time.sleep(0.4)
        operator.kill()
        operator.start()
    eventually(lambda: states(own_plane, "fragile") == {"root-2": "Active", "intermediate-2": "Active"}, 30)
    space.ready()
    assert reached == ["Prepared", "Active"]
    for pod in (Pod(space, "a"), Pod(space, "b")):
        issuer = chain(pod.files)[1]
        wanted = authorities(own_plane, "fragile")["intermediate-2"]["serialNumber"]
        assert f"{issuer.serial_number:x}".lstrip("0") == wanted.lstrip("0")
    one, other = Pod(space, "a"), Pod(space, "b")
    assert mtls.connect(one.files, other.files, one.server_name, roots=other.files["ca.crt"]).established
    before = writes(own_plane)
    operator.kill()
    operator.start()
    time.sleep(2)
    assert writes(own_plane) == before, "at rest again"
    operator.stop()


def _root_of(plane: ControlPlane, domain: str, files: dict[str, bytes]) -> str:
    """Return the fingerprint of the root that the files' chain leads to, as the status has it."""
    issuer = f"{chain(files)[1].serial_number:x}"
    found = authorities(plane, domain).values()
    return next((item["issuerFingerprint"] for item in found if item["serialNumber"].lstrip("0") == issuer), "")


def _until(reached: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.3)
