"""Whom to trust, from the cluster: published keys, a trust bundle, a verifier's keyring."""

from dataclasses import dataclass, field
from typing import Final

from serviceidentity.adapters.kube.client import Json, KubeClient, segment
from serviceidentity.adapters.kube.objects import KubeConfigMaps, KubeSecrets, collection
from serviceidentity.cli.commands import UsageError
from serviceidentity.domain.bundle.assembly import CRL_KEY, PEM_KEY
from serviceidentity.domain.material import MalformedError, SecretView
from serviceidentity.domain.model import Kind
from serviceidentity.errors import ForbiddenError, MissingError

JWKS_KEY: Final = "jwks.json"


@dataclass(frozen=True, slots=True)
class Published:
    """A JWK Set, the issuer whose keys it holds if there is one, and where it was found."""

    jwks: bytes
    issuer: str | None
    where: str


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The roots and revocation lists of a trust domain in PEM, and where they were found."""

    roots: bytes
    lists: bytes | None
    spiffe_domain: str
    where: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """Reads with the rights of whoever asks; `namespace` is for what names none."""

    client: KubeClient = field(repr=False)
    namespace: str

    async def token_keys(self, domain: str, system: str) -> Published:
        """Return the published keys of a trust domain's token issuer. Raises UsageError, PortError."""
        item = await self._get(Kind.TRUST_DOMAIN, "", domain)
        status: Json = (item.get("status") or {}).get("jwt") or {}
        if "jwksConfigMapName" not in status or "issuer" not in status:
            raise UsageError(f"TrustDomain {domain} signs no tokens: nobody asked for one")
        view = await self._config_map(system, status["jwksConfigMapName"], "--operator-namespace")
        # One ConfigMap has the sets of all trust domains, so that reading it can be allowed by its name.
        return Published(_value(view, f"{domain}.json", "ConfigMap"), status["issuer"], _where("ConfigMap", view))

    async def identity_keys(self, identity: str) -> Published:
        """Return the published keys that [namespace/]name signs with itself. Raises UsageError, PortError."""
        namespace, _, name = identity.rpartition("/")
        namespace = namespace or self.namespace
        item = await self._get(Kind.SERVICE_IDENTITY, namespace, name)
        spec: Json = item["spec"].get("jwt") or {}
        if not spec and "jwt" not in item["spec"]:
            raise UsageError(f"ServiceIdentity {namespace}/{name} has no signing key: it has no spec.jwt")
        view = await self._config_map(namespace, spec.get("jwksConfigMapName") or f"{name}-jwks", "")
        return Published(_value(view, JWKS_KEY, "ConfigMap"), None, _where("ConfigMap", view))

    async def trust_bundle(self, domain: str) -> TrustBundle:
        """Return the copy of a trust domain's bundle in the namespace. Raises UsageError, PortError."""
        item = await self._get(Kind.TRUST_DOMAIN, "", domain)
        target: Json = (item["spec"].get("bundle") or {}).get("target") or {}
        name, kind = target.get("name") or f"{domain}-trust-bundle", target.get("kind") or "ConfigMap"
        if kind == "Secret":
            view = await self._secret(self.namespace, name)
        else:
            view = await self._config_map(self.namespace, name, "another --namespace, or --ca")
        lists = view.value(CRL_KEY) if CRL_KEY in view.data else None
        return TrustBundle(_value(view, PEM_KEY, kind), lists, item["spec"]["trustDomain"], _where(kind, view))

    async def keyring(self, verifier: str) -> tuple[bytes, str]:
        """Return the keyring of a ServiceIdentity, and where it is. Raises UsageError, PortError."""
        view = await self._secret(self.namespace, f"{verifier}-hmac-keyring")
        return _value(view, "keyring.json", "Secret"), _where("Secret", view)

    async def _get(self, kind: Kind, namespace: str, name: str) -> Json:
        try:
            return await self.client.request("GET", f"{collection(kind, namespace)}/{segment(name)}")
        except MissingError:
            where = f"{namespace}/{name}" if namespace else name
            raise UsageError(f"{kind} {where} does not exist") from None

    async def _config_map(self, namespace: str, name: str, hint: str) -> SecretView:
        try:
            view = await KubeConfigMaps(self.client).read(namespace, name)
        except ForbiddenError:
            raise UsageError(f"not allowed to read ConfigMap {name} in namespace {namespace}") from None
        return _there(view, "ConfigMap", namespace, name, hint)

    async def _secret(self, namespace: str, name: str) -> SecretView:
        try:
            view = await KubeSecrets(self.client).read(namespace, name)
        except ForbiddenError:
            raise UsageError(f"not allowed to read Secret {name} in namespace {namespace}") from None
        return _there(view, "Secret", namespace, name, "")


def _there(view: SecretView | None, kind: str, namespace: str, name: str, hint: str) -> SecretView:
    if view is None:
        more = f"; try {hint}" if hint else ""
        raise UsageError(f"there is no {kind} {name} in namespace {namespace}{more}")
    return view


def _value(view: SecretView, key: str, kind: str) -> bytes:
    try:
        return view.value(key)
    except MalformedError as error:
        raise UsageError(f"{_where(kind, view)}: {error}") from None


def _where(kind: str, view: SecretView) -> str:
    return f"{kind} {view.namespace}/{view.name}"
