"""`kubectl sid` as people use it: found by kubectl on the PATH, with a kubeconfig."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.controlplane import ControlPlane
from tests.controlplane.binaries import beside_python
from tests.e2e.support import Space, eventually, trust_domain

pytestmark = pytest.mark.e2e


def sid(plane: ControlPlane, *arguments: str, fails: bool = False) -> str:
    programs = Path(sys.executable).parent
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "KUBECONFIG": str(plane.admin_kubeconfig), "HOME": "/"}
    command = [str(beside_python("kubectl")), "sid", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode != 0) is fails, done.stderr
    assert "Traceback" not in done.stderr
    return (done.stderr if fails else done.stdout).strip()


def states(plane: ControlPlane, name: str) -> dict[str, str]:
    rows = [line.split() for line in sid(plane, "ca", "status", name).split("\n\n")[0].splitlines()[1:]]
    return {row[0].removeprefix(f"{name}-"): row[1] for row in rows}


def test_identities_are_shown_and_rotated(space: Space, control_plane: ControlPlane):
    assert sid(control_plane, "-n", space.name, "status") == "no identities"
    space.apply("a", {"certificate": {}, "hmac": {}})
    space.ready()
    table = sid(control_plane, "-n", space.name, "status").splitlines()
    assert table[1].split()[:4] == [space.name, "a", "True", "Ready"]
    assert "HMACReady" in (details := sid(control_plane, "-n", space.name, "status", "a"))
    assert "serialNumber" in details
    before = space.status("a")["certificate"]["serialNumber"]
    sid(control_plane, "-n", space.name, "rotate", "a")
    eventually(lambda: space.status("a")["certificate"]["serialNumber"] != before)
    assert space.name in sid(control_plane, "status", "--all-namespaces")


def test_an_authority_is_prepared_activated_and_tainted(space: Space, control_plane: ControlPlane):
    name = space.name
    trust_domain(control_plane, name, propagation="8760h", root={"duration": "87600h"})
    eventually(lambda: states(control_plane, name).get("intermediate-1") == "Active")
    sid(control_plane, "ca", "prepare", name)
    eventually(lambda: states(control_plane, name).get("root-2") == "Prepared")
    sid(control_plane, "ca", "activate", name)
    eventually(lambda: states(control_plane, name).get("intermediate-2") == "Active")
    assert "root-1" in sid(control_plane, "ca", "taint", name, "nothing", fails=True)
    assert "taintedAuthorities" in sid(control_plane, "ca", "taint", name, f"{name}-root-1")
    eventually(lambda: states(control_plane, name).get("root-1") == "Tainted")
    sid(control_plane, "ca", "untaint", name, f"{name}-root-1")
    eventually(lambda: states(control_plane, name).get("root-1") == "Retiring")
    sid(control_plane, "ca", "rotate", name)
    eventually(lambda: states(control_plane, name).get("intermediate-3") == "Prepared")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status", "nobody"), "ServiceIdentity default/nobody does not exist"),
        (("rotate", "nobody"), "ServiceIdentity default/nobody does not exist"),
        (("revoke", "nobody"), "ServiceIdentity default/nobody does not exist"),
        (("ca", "status", "nowhere"), "TrustDomain nowhere does not exist"),
        (("ca", "prepare", "nowhere"), "TrustDomain nowhere does not exist"),
        (("--kubeconfig=/nowhere", "status"), "no usable kubeconfig"),
    ],
)
def test_what_does_not_exist_is_said_in_one_line(control_plane: ControlPlane, arguments, message):
    answer = sid(control_plane, *arguments, fails=True)
    assert message in answer
    assert len(answer.splitlines()) == 1
