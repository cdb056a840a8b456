"""`kubectl sid ca` at night: no answer promises what does not happen, and nothing makes a taint weaker by mistake."""

import asyncio
import copy
from typing import Any

import pytest

from serviceidentity.cli import commands
from serviceidentity.errors import ConflictError, MissingError

ROOT, INTERMEDIATE = "a" * 64, "b" * 64


class Server:
    """An API server with one trust domain. `conflicts` writes of its spec come too late."""

    def __init__(self, *, conflicts: int = 0, state: str = "Active", tainted: tuple[dict[str, str], ...] = ()) -> None:
        self.conflicts = conflicts
        self.body: dict[str, Any] = {
            "metadata": {"name": "default", "resourceVersion": "7"},
            "spec": {"taintedAuthorities": list(tainted)},
            "status": {
                "authorities": [
                    {
                        "role": role,
                        "secretName": f"default-{role.lower()}-1",
                        "state": state,
                        "fingerprint": fingerprint,
                    }
                    for role, fingerprint in (("Root", ROOT), ("Intermediate", INTERMEDIATE))
                ]
            },
        }

    async def request(self, method: str, _path: str, body: Any = None, _type: str = "") -> Any:
        if method == "GET":
            return copy.deepcopy(self.body)
        if "spec" in body and self.conflicts:
            self.conflicts -= 1
            raise ConflictError("the object changed meanwhile")
        for part, value in body.items():
            self.body[part] |= value
        return self.body

    async def list_all(self, _path: str) -> Any:
        raise MissingError("the object or its namespace does not exist")

    def tainted(self) -> dict[str, str]:
        return {item["fingerprint"]: item["removeFromBundle"] for item in self.body["spec"]["taintedAuthorities"]}


def taint(server, authority, *, at_once=False):
    return asyncio.run(commands.taint(server, "default", authority, at_once=at_once))


def test_a_taint_that_is_said_again_does_not_bring_a_revoked_root_back():
    server = Server(tainted=({"fingerprint": ROOT, "removeFromBundle": "Immediately"},))
    assert "Immediately" in taint(server, "default-root-1")
    assert server.tainted() == {ROOT: "Immediately"}


def test_an_intermediate_is_refused_at_once_by_the_list_of_its_root():
    server = Server()
    taint(server, "default-intermediate-1")
    assert server.tainted() == {INTERMEDIATE: "WhenUnused"}
    taint(server, "default-intermediate-1", at_once=True)
    assert server.tainted() == {INTERMEDIATE: "Immediately"}


def test_a_taint_does_not_fail_because_the_operator_wrote_a_status_meanwhile():
    server = Server(conflicts=3)
    taint(server, "default-root-1")
    assert server.tainted() == {ROOT: "WhenUnused"}
    with pytest.raises(ConflictError):
        taint(Server(conflicts=100), "default-root-1")


def test_activation_is_refused_while_there_is_nothing_to_activate():
    server = Server()
    with pytest.raises(commands.UsageError, match="nothing is prepared"):
        asyncio.run(commands.ask(server, "default", "activate"))
    assert "annotations" not in server.body["metadata"]
    server = Server(state="Prepared")
    asyncio.run(commands.ask(server, "default", "activate"))
    assert "serviceidentity.dev/activate" in server.body["metadata"]["annotations"]


def test_a_cluster_without_the_operator_is_told_apart_from_one_without_identities():
    with pytest.raises(commands.UsageError, match="is the operator installed"):
        asyncio.run(commands.status(Server(), "shop", None))


def test_a_root_is_not_asked_for_twice_by_a_second_try():
    with pytest.raises(commands.UsageError, match="default-root-1 is prepared already"):
        asyncio.run(commands.ask(Server(state="Prepared"), "default", "prepare"))
    server = Server()
    asyncio.run(commands.ask(server, "default", "prepare"))
    assert "serviceidentity.dev/rotate-root" in server.body["metadata"]["annotations"]


def test_a_revocation_without_a_reason_does_not_repeat_the_reason_of_the_one_before():
    server = Server()
    server.body["spec"] = {"certificate": {}}
    for reason in ("keyCompromise", None):
        asyncio.run(commands.revoke(server, "shop", "order-service", reason))
        annotations = server.body["metadata"]["annotations"]
        assert annotations["serviceidentity.dev/revoke-reason"] == reason
    assert annotations["serviceidentity.dev/revoke"]


def test_a_certificate_that_there_is_not_is_not_revoked():
    server = Server()
    server.body["spec"] = {"jwt": {}}
    with pytest.raises(commands.UsageError, match="has no certificate; for its signing key add --jwt"):
        asyncio.run(commands.revoke(server, "shop", "order-service", None))
    assert "annotations" not in server.body["metadata"]


@pytest.mark.parametrize("spec", [{}, {"jwt": {"signingKey": "None"}}])
def test_a_signing_key_that_there_is_not_is_not_revoked(spec):
    server = Server()
    server.body["spec"] = spec
    with pytest.raises(commands.UsageError, match="has no signing key of its own"):
        asyncio.run(commands.revoke_signing_key(server, "shop", "order-service"))
    assert "annotations" not in server.body["metadata"]


def test_a_revocation_of_the_signing_key_says_what_it_does_and_leaves_the_certificate():
    server = Server()
    server.body["spec"] = {"jwt": {}}
    told = asyncio.run(commands.revoke_signing_key(server, "shop", "order-service"))
    assert "its certificate and other keys stay" in told
    assert list(server.body["metadata"]["annotations"]) == ["serviceidentity.dev/revoke-jwt"]


def test_the_status_of_authorities_tells_every_condition():
    server = Server()
    for authority in server.body["status"]["authorities"]:
        authority["notAfter"] = "2030-01-01T00:00:00Z"
    trouble = {"type": "CRLReady", "status": "False", "reason": "Conflict", "message": "not ours"}
    server.body["status"]["conditions"] = [
        {"type": "Ready", "status": "True", "reason": "Ready", "message": "can sign"},
        trouble,
    ]
    text = asyncio.run(commands.ca_status(server, "default"))
    assert [line.split(maxsplit=3) for line in text.splitlines()[-2:]] == [
        ["Ready", "True", "Ready", "can sign"],
        list(trouble.values()),
    ]
    server.body["status"] = {}
    assert "nothing is known yet" in asyncio.run(commands.ca_status(server, "default"))


def test_a_rewrap_is_refused_where_keys_are_stored_in_plain():
    server = Server()
    with pytest.raises(commands.UsageError, match="stored in plain"):
        asyncio.run(commands.ask(server, "default", "rewrap"))
    server.body["metadata"]["annotations"] = {}
    server.body["status"]["authorities"][0]["keyEncryptionKey"] = "file:2026-11"
    assert "encrypted anew" in asyncio.run(commands.ask(server, "default", "rewrap"))


def test_an_identity_of_which_only_conditions_are_known_has_no_empty_braces():
    condition = {"type": "Ready", "status": "False", "reason": "VaultConnectionNotFound", "message": "there is none"}
    server = Server()
    server.body["status"] = {"conditions": [condition], "observedGeneration": 1}
    told = asyncio.run(commands.status(server, "shop", "default"))
    assert told.splitlines()[-1].split() == ["Ready", "False", "VaultConnectionNotFound", "there", "is", "none"]


def test_token_keys_are_shown_and_asked_for():
    server = Server()
    for authority in server.body["status"]["authorities"]:
        authority["notAfter"] = "2027-01-01T00:00:00Z"
    with pytest.raises(commands.UsageError, match="no token keys"):
        asyncio.run(commands.ask(server, "default", "rotate-jwt"))
    assert "TOKEN KEY" not in asyncio.run(commands.ca_status(server, "default"))
    server.body["status"]["jwt"] = {
        "keys": [{"keyID": "abc", "state": "Active", "activationTime": "2026-01-01T12:00:00Z"}]
    }
    text = asyncio.run(commands.ca_status(server, "default"))
    assert "abc         Active   2026-01-01T12:00:00Z   -" in text
    for step in ("rotate-jwt", "revoke-jwt"):
        assert "default: a new token key" in asyncio.run(commands.ask(server, "default", step))
        assert f"serviceidentity.dev/{step}" in server.body["metadata"]["annotations"]
