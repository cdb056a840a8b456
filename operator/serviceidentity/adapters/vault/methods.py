"""From the auth block of a connection to the way to log in."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from serviceidentity.adapters.vault.connection import Json
from serviceidentity.adapters.vault.logins import GivenToken, LoginMethod, MethodLogin, from_file
from serviceidentity.adapters.vault.reading import OwnSecrets
from serviceidentity.adapters.vault.settings import SERVICE_ACCOUNT_TOKEN
from serviceidentity.app.ports import TokenRequests
from serviceidentity.app.vault.ports import Login
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.vault.spec import (
    AppRoleAuth,
    Auth,
    CertificateAuth,
    JwtAuth,
    KubernetesAuth,
    LoginAs,
    TokenAuth,
)
from serviceidentity.errors import RejectedError

TOKEN_LIFETIME: Final = timedelta(minutes=10)  # of a service account's token: the shortest that there is


class Methods:
    """Ways to log in through one connection."""

    def __init__(self, auth: Auth, secrets: OwnSecrets, tokens: TokenRequests) -> None:
        self._auth = auth
        self._secrets = secrets
        self._tokens = tokens

    def login(self, login: Login) -> Login:
        """Return a login with only that by which it differs from others of this connection, and its role."""
        match self._auth:
            case TokenAuth() | AppRoleAuth():
                return Login(login.connection)
            case KubernetesAuth(role=role, login_as=LoginAs.IDENTITY):
                return replace(login, role=login.role or role or login.service_account or None)
            case auth:
                return Login(login.connection, login.role or auth.role)

    def method(self, login: Login) -> LoginMethod:
        """Return how `login`, as `login()` returns it, logs in. Raises RejectedError when something is missing."""
        match self._auth:
            case KubernetesAuth() as auth:
                return self._kubernetes(auth, login)
            case JwtAuth() as auth:
                return self._jwt(auth, login)
            case TokenAuth() as auth:
                return self._token(auth)
            case AppRoleAuth() as auth:
                return self._approle(auth)
            case CertificateAuth() as auth:
                return self._certificate(auth, login)

    def _kubernetes(self, auth: KubernetesAuth, login: Login) -> LoginMethod:
        if login.role is None:
            raise RejectedError("no role is named to log in to")
        if auth.login_as is LoginAs.IDENTITY and not (login.namespace and login.service_account):
            raise RejectedError("only identities log in through this connection")

        async def proof() -> Json:
            return {"role": login.role, "jwt": (await self._service_account(auth, login)).reveal().decode()}

        who = f"service account {login.namespace}/{login.service_account}" if login.namespace else "the operator"
        refusal = f"Vault refuses to log in {who} to role {login.role} at auth/{auth.mount}"
        return MethodLogin(auth.mount, proof, refusal)

    async def _service_account(self, auth: KubernetesAuth, login: Login) -> KeyMaterial:
        if login.service_account:
            return await self._tokens.of(login.namespace, login.service_account, auth.audiences, TOKEN_LIFETIME)
        if not auth.audiences and SERVICE_ACCOUNT_TOKEN.exists():
            return await from_file(SERVICE_ACCOUNT_TOKEN, "the operator's service account token")
        return await self._tokens.own(auth.audiences, TOKEN_LIFETIME)

    def _jwt(self, auth: JwtAuth, login: Login) -> LoginMethod:
        async def proof() -> Json:
            token = await from_file(Path(auth.file), "the JWT for Vault")
            return {"jwt": token.reveal().decode()} | ({"role": login.role} if login.role else {})

        return MethodLogin(auth.mount, proof, f"Vault refuses to log in with the JWT at auth/{auth.mount}")

    def _token(self, auth: TokenAuth) -> LoginMethod:
        async def read() -> KeyMaterial:
            if auth.given is not None:
                return auth.given
            if auth.secret is not None:
                return await self._secrets.token(auth.secret, "a token for Vault")
            return await from_file(Path(auth.file or ""), "the token for Vault")

        return GivenToken(read)

    def _approle(self, auth: AppRoleAuth) -> LoginMethod:
        async def proof() -> Json:
            secret_id = await self._secrets.token(auth.secret_id, "a secret ID")
            return {"role_id": auth.role_id, "secret_id": secret_id.reveal().decode()}

        refusal = f"Vault refuses to log in with role ID and secret ID at auth/{auth.mount}"
        return MethodLogin(auth.mount, proof, refusal)

    def _certificate(self, auth: CertificateAuth, login: Login) -> LoginMethod:
        async def proof() -> Json:
            return {"name": login.role} if login.role else {}

        refusal = f"Vault refuses to log in with the client certificate of Secret {auth.secret_name}"
        return MethodLogin(auth.mount, proof, refusal)
