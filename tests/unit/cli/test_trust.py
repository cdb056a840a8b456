"""Whom `verify` trusts, as an API server has it: what is published under the names that the status gives."""

import asyncio
from typing import Any

import pytest

from serviceidentity.cli.commands import UsageError
from serviceidentity.cli.trust import Cluster
from serviceidentity.errors import ForbiddenError, MissingError

OURS = "/apis/serviceidentity.dev/v1alpha1"


class Server:
    def __init__(self, **objects: Any) -> None:
        self.objects = objects

    async def request(self, method: str, path: str, *_: Any, **__: Any) -> Any:
        assert method == "GET"
        name = path.rsplit("/", 1)[1].replace("-", "_")
        found = self.objects.get(name)
        if found is None:
            raise MissingError(path)
        if isinstance(found, Exception):
            raise found
        kind = path.rsplit("/", 2)[1]
        meta = {"namespace": path.split("/")[4], "name": path.rsplit("/", 1)[1], "uid": "u", "resourceVersion": "1"}
        return found | ({"metadata": meta} if kind in ("configmaps", "secrets") else {})


def domain(**jwt: str) -> dict[str, Any]:
    return {"spec": {"trustDomain": "example.org"}, "status": {"jwt": jwt}}


PUBLISHED = {"issuer": "https://i/default", "jwksConfigMapName": "serviceidentity-jwks"}


def ask(question: str, *arguments: str, **objects: Any) -> Any:
    return asyncio.run(getattr(Cluster(Server(**objects), "shop"), question)(*arguments))  # type: ignore[arg-type]


def test_the_keys_and_the_issuer_of_a_trust_domain():
    sets = {"data": {"default.json": "{}", "other.json": "x"}}
    found = ask("token_keys", "default", "system", default=domain(**PUBLISHED), serviceidentity_jwks=sets)
    assert (found.jwks, found.issuer) == (b"{}", "https://i/default")
    assert found.where == "ConfigMap system/serviceidentity-jwks"


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ({}, "TrustDomain default does not exist"),
        ({"default": {"spec": {}}}, "signs no tokens"),
        ({"default": domain(**PUBLISHED)}, "no ConfigMap serviceidentity-jwks in namespace system"),
        (
            {"default": domain(**PUBLISHED), "serviceidentity_jwks": {"data": {"x.json": "{}"}}},
            "default.json is missing",
        ),
        (
            {"default": domain(**PUBLISHED), "serviceidentity_jwks": ForbiddenError("no")},
            "not allowed to read ConfigMap",
        ),
    ],
)
def test_what_is_not_there_is_named(objects, said):
    with pytest.raises(UsageError, match=said):
        ask("token_keys", "default", "system", **objects)


def test_the_own_keys_of_an_identity():
    sets = {"data": {"jwks.json": "{}"}}
    for name in ("a", "shop/a"):
        found = ask("identity_keys", name, a={"spec": {"jwt": {}}}, a_jwks=sets)
        assert (found.jwks, found.issuer, found.where) == (b"{}", None, "ConfigMap shop/a-jwks")
    found = ask("identity_keys", "other/a", a={"spec": {"jwt": {"jwksConfigMapName": "keys"}}}, keys=sets)
    assert found.where == "ConfigMap other/keys"
    with pytest.raises(UsageError, match="no signing key"):
        ask("identity_keys", "a", a={"spec": {}})
    with pytest.raises(UsageError, match="shop/a does not exist"):
        ask("identity_keys", "a")


def test_a_bundle_may_be_a_secret_of_another_name():
    spec = {"trustDomain": "example.org", "bundle": {"target": {"kind": "Secret", "name": "roots"}}}
    held = {"type": "Opaque", "data": {"ca.crt": "eA==", "ca.crl": "eQ=="}}
    found = ask("trust_bundle", "default", default={"spec": spec}, roots=held)
    assert (found.roots, found.lists, found.spiffe_domain) == (b"x", b"y", "example.org")
    with pytest.raises(UsageError, match="not allowed to read Secret roots"):
        ask("trust_bundle", "default", default={"spec": spec}, roots=ForbiddenError("no"))
