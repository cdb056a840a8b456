"""The PKI engine: reading an issuer, having intermediates and leaves signed. The port `Pki`."""

from typing import Final
from urllib.parse import quote

from serviceidentity.adapters.vault.connection import NO_ANSWER, Json, data_of
from serviceidentity.adapters.vault.session import Session
from serviceidentity.app.ports import PkiIssuer
from serviceidentity.domain.authority.upstream import SigningRequest
from serviceidentity.domain.credentials.remote_leaf import LeafRequest
from serviceidentity.errors import PortError, RejectedError, RetryableError


class VaultPki:
    """PKI engines of one server, as one login may use them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def issuer(self, mount: str, name: str) -> PkiIssuer:
        answer = await self._session.request("get", f"{quote(mount)}/issuer/{quote(name, safe='')}/json")
        found = data_of(answer)
        own, above = found.get("certificate"), found.get("ca_chain") or []
        issuer_id = found.get("issuer_id")
        if not isinstance(issuer_id, str) or not issuer_id or not _is_text(own, *above):
            raise RetryableError(NO_ANSWER)
        return PkiIssuer(issuer_id, (str(own), *above))

    async def sign_intermediate(self, mount: str, issuer_id: str, request: SigningRequest) -> str:
        body = {
            "csr": request.pem,
            "common_name": request.common_name,
            "use_csr_values": True,
            "ttl": f"{int(request.lifetime.total_seconds())}s",
            "not_before_duration": f"{int(request.backdate.total_seconds())}s",
            "max_path_length": 0,
            "format": "pem",
        }
        path = f"{quote(mount)}/issuer/{quote(issuer_id, safe='')}/sign-intermediate"
        found = data_of(await self._session.request("post", path, body))
        own, above = found.get("certificate"), found.get("ca_chain") or []
        if not _is_text(own, *above):
            raise RetryableError(NO_ANSWER)
        return "\n".join([str(own), *above])

    async def sign_leaf(self, mount: str, issuer_id: str, role: str, request: LeafRequest) -> str:
        path = f"{quote(mount)}/issuer/{quote(issuer_id, safe='')}/sign/{quote(role, safe='')}"
        found = await sign(self._session, path, request, {"remove_roots_from_chain": True})
        if not _is_text(made := found.get("certificate")):
            raise RetryableError(NO_ANSWER)
        return str(made)

    async def revoke(self, mount: str, certificate: str) -> None:
        # Not by its number: a role may keep no copies of what it signs (no_store).
        await self._session.request("post", f"{quote(mount)}/revoke", {"certificate": certificate})


async def sign(session: Session, path: str, request: LeafRequest, options: Json) -> Json:
    """Have a leaf signed at `path`; return what came back. RejectedError says what is not allowed."""
    body: Json = {
        "csr": request.pem,
        "common_name": request.common_name,
        "exclude_cn_from_sans": True,
        "alt_names": ",".join([*request.dns_names, *request.email_addresses]),
        "ip_sans": list(request.ip_addresses),
        "uri_sans": list(request.uris),
        "format": "pem",
        **options,
    }
    if request.lifetime:  # else as long as the role has it
        body["ttl"] = f"{int(request.lifetime.total_seconds())}s"
    try:
        return data_of(await session.request("post", path, body))
    except (RejectedError, RetryableError) as error:  # for an issuer that is gone OpenBao says 500
        if (refusal := _refusal(error)) is None:
            raise
        raise RejectedError(refusal) from error


# What Vault says when a role does not allow something, in its own words, and in ours: those may be shown.
_REFUSALS: Final = (
    ("unknown role", "there is no such role"),
    ("unable to find pki issuer", "its issuer is not there any more"),
    ("uri subject alternative name", "the role does not allow a URI, such as the SPIFFE ID (allowed_uri_sans)"),
    ("ip subject alternative name", "the role does not allow IP addresses (allow_ip_sans)"),
    ("email address", "the role does not allow an e-mail address"),
    (
        "subject alternate name",
        "the role does not allow a DNS name (allowed_domains, allow_any_name)",
    ),
    ("common name", "the role does not allow the common name (allowed_domains, allow_any_name, cn_validations)"),
    ("role requires keys of type", "the role requires another kind of key (key_type)"),
    ("role requires a minimum", "the role requires a longer key (key_bits)"),
    ("beyond the expiration", "the certificate would live longer than the issuer"),
)


def _refusal(error: PortError) -> str | None:
    """Return what a refusal means, if it is a known one. What the server wrote is compared, never shown."""
    said = str(error.__cause__).lower()
    return next((ours for theirs, ours in _REFUSALS if theirs in said), None)


def _is_text(*values: object) -> bool:
    return all(isinstance(value, str) and value for value in values)
