"""The PKI engine: reading an issuer and having intermediates signed. The port `Pki`."""

from typing import Final
from urllib.parse import quote

from serviceidentity.adapters.vault.connection import Json
from serviceidentity.adapters.vault.session import VaultSession
from serviceidentity.app.ports import PkiIssuer
from serviceidentity.domain.authority.upstream import SigningRequest
from serviceidentity.errors import RetryableError

_NO_ANSWER: Final = "Vault's answer can't be understood"


class VaultPki:
    """PKI engines of one server, as one login may use them."""

    def __init__(self, session: VaultSession) -> None:
        self._session = session

    async def issuer(self, mount: str, name: str) -> PkiIssuer:
        answer = await self._session.request("get", f"{quote(mount)}/issuer/{quote(name, safe='')}/json")
        found = _data(answer)
        own, above = found.get("certificate"), found.get("ca_chain") or []
        issuer_id = found.get("issuer_id")
        if not isinstance(issuer_id, str) or not issuer_id or not _is_text(own, *above):
            raise RetryableError(_NO_ANSWER)
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
        found = _data(await self._session.request("post", path, body))
        own, above = found.get("certificate"), found.get("ca_chain") or []
        if not _is_text(own, *above):
            raise RetryableError(_NO_ANSWER)
        return "\n".join([str(own), *above])


def _data(answer: Json) -> Json:
    data = answer.get("data")
    return data if isinstance(data, dict) else {}


def _is_text(*values: object) -> bool:
    return all(isinstance(value, str) and value for value in values)
