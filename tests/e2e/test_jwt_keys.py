"""A service's own signing key as its user sees it: a Secret to sign with, a ConfigMap to verify with."""

import json
import time
from typing import Any

import pytest
from joserfc import jwk, jwt

from serviceidentity.cli import main
from serviceidentity.domain import ownership
from tests.controlplane import ControlPlane
from tests.controlplane.operator import OperatorProcess
from tests.e2e.support import Space, eventually, new_space, settled, writes

pytestmark = pytest.mark.e2e

# In seconds what takes hours otherwise: lead 2 s, tail 11 s.
FAST = {"rotateEvery": "14s", "maxTokenTTL": "10s", "cacheTime": "1s", "propagation": "1s"}


def config_map(space: Space, name: str = "a-jwks") -> dict[str, Any] | None:
    found: dict[str, Any] | None = space.plane.find("configmap", name, f"--namespace={space.name}")
    return found


def public(space: Space) -> list[str]:
    found = config_map(space)
    assert found is not None
    return sorted(key["kid"] for key in json.loads(found["data"]["jwks.json"])["keys"])


def ring(space: Space) -> dict[str, str]:
    return {key["kid"]: key["state"] for key in json.loads(space.data("a-jwt")["keys.json"])["keys"]}


def accepted(space: Space) -> str:
    """Sign a token as the service does, verify it as another does that has the ConfigMap alone; return its key ID."""
    data = space.data("a-jwt")
    key_id, algorithm = data["key-id"].decode(), data["algorithm"].decode()
    claims = {"iss": "a", "aud": "b", "exp": int(time.time()) + 10}
    token = jwt.encode({"alg": algorithm, "kid": key_id}, claims, jwk.import_key(data["key.pem"].decode(), "EC"))
    found = config_map(space)
    assert found is not None
    keys = jwk.KeySet.import_key_set(json.loads(found["data"]["jwks.json"]))
    assert jwt.decode(token, keys, algorithms=["ES256"]).claims == claims
    return key_id


def test_a_key_is_published_rotated_revoked_and_cleaned_up(
    space: Space, control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]
):
    arguments = [f"--kubeconfig={control_plane.admin_kubeconfig}", f"--namespace={space.name}"]
    space.apply("a", {"jwt": FAST})
    space.ready()
    first = accepted(space)
    (key,) = jwk.KeySet.import_key_set(json.loads(space.data("a-jwt")["jwks.json"])).keys
    assert key.thumbprint() == first  # RFC 7638
    report = space.status("a")["jwt"]
    assert (report["secretName"], report["jwksConfigMapName"]) == ("a-jwt", "a-jwks")

    # The next key is public before it signs, and the one before it for longer than a token lives.
    seen = [sorted(ring(space).values())]
    main.main(["rotate", "a", *arguments])
    deadline = time.monotonic() + 15
    while "Retiring" not in (now := ring(space)).values() and time.monotonic() < deadline:
        if "Prepared" in now.values() and len(seen) == 1:
            seen.append(sorted(now.values()))
        accepted(space)
    assert [*seen, sorted(now.values())] == [["Active"], ["Active", "Prepared"], ["Active", "Retiring"]]
    assert first in public(space)
    assert accepted(space) != first

    before = ring(space).keys()
    main.main(["revoke", "a", "--jwt", *arguments])
    assert "leave the JWK Set now" in capsys.readouterr().out
    eventually(lambda: not before & ring(space).keys())
    assert not before & set(public(space))
    accepted(space)

    # With the identity gone the garbage collector removes both; what it no longer asks for, the operator.
    uid = space.sid("a")["metadata"]["uid"]
    for found in (config_map(space), space.secret("a-jwt")):
        (owner,) = (found or {})["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (uid, True)
    space.apply("a", {"certificate": {}})
    eventually(lambda: config_map(space) is None and space.secret("a-jwt") is None)


def test_what_is_somebody_elses_is_left_alone_and_damage_is_undone(space: Space):
    space.kubectl("create", "configmap", "a-jwks", "--from-literal=jwks.json=theirs")
    space.apply("a", {"jwt": {}})
    eventually(lambda: space.condition("a", "JWTReady").get("reason") == "Conflict")
    assert (config_map(space) or {})["data"] == {"jwks.json": "theirs"}
    assert space.secret("a-jwt") is None

    space.kubectl("annotate", "configmap", "a-jwks", f"{ownership.ADOPT_ANNOTATION}=a")
    space.kubectl("annotate", "sid", "a", f"{ownership.ROTATE_ANNOTATION}=now")  # it need not wait for its next try
    space.ready("a")
    key_id = accepted(space)
    version = (space.secret("a-jwt") or {})["metadata"]["resourceVersion"]
    for damage in (
        ("delete", "configmap", "a-jwks"),
        ("patch", "configmap", "a-jwks", "--type=merge", '--patch={"data":{"jwks.json":"{}"}}'),
        ("label", "configmap", "a-jwks", f"{ownership.MANAGED_BY_LABEL}-", f"{ownership.IDENTITY_LABEL}-"),
    ):
        space.kubectl(*damage)
        eventually(lambda: _is_whole(space, key_id))
    assert (space.secret("a-jwt") or {})["metadata"]["resourceVersion"] == version


def _is_whole(space: Space, key_id: str) -> bool:
    found = config_map(space) or {"data": {}, "metadata": {}}
    labels = found["metadata"].get("labels") or {}
    return key_id in found["data"].get("jwks.json", "") and labels.get(ownership.IDENTITY_LABEL) == "a"


def test_a_restart_writes_nothing_and_a_key_costs_three_writes(own_plane: ControlPlane):
    space, operator = new_space(own_plane), OperatorProcess(own_plane)
    operator.start()
    before = settled(own_plane)
    space.apply("a", {"jwt": {}})
    space.ready()
    after = settled(own_plane)
    made = {key[1]: number for key, number in (after - before).items() if key[1] in ("secrets", "configmaps")}
    assert made == {"secrets": 1, "configmaps": 1}
    operator.kill()
    operator.start()
    time.sleep(1.5)
    assert writes(own_plane) == after
    operator.stop()
