"""Tokens of service accounts, by the TokenRequest API: the port `TokenRequests`."""

import re
from datetime import timedelta
from typing import Final

from serviceidentity.adapters.kube.client import Json, KubeClient, segment
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.errors import ForbiddenError, MissingError, RejectedError, RetryableError

_SERVICE_ACCOUNT: Final = re.compile(r"system:serviceaccount:([a-z0-9.-]+):([a-z0-9.-]+)")


class KubeTokens:
    """Tokens that the API server makes and signs."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def of(self, namespace: str, name: str, audiences: tuple[str, ...], lifetime: timedelta) -> KeyMaterial:
        who = f"service account {namespace}/{name}"
        spec: Json = {"expirationSeconds": int(lifetime.total_seconds())}
        if audiences:
            spec["audiences"] = list(audiences)
        body: Json = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{segment(namespace)}/serviceaccounts/{segment(name)}/token"
        try:
            answer = await self._client.request("POST", path, body)
        except MissingError as error:
            raise RejectedError(f"{who} does not exist") from error
        except ForbiddenError as error:
            raise ForbiddenError(f"the operator may not request tokens of {who}") from error
        except RejectedError as error:
            raise RejectedError(f"the API server gives no token of {who} with these audiences") from error
        token = (answer.get("status") or {}).get("token")
        if not isinstance(token, str) or not token:
            raise RetryableError("the API server gave no token")
        return KeyMaterial(token.encode())

    async def own(self, audiences: tuple[str, ...], lifetime: timedelta) -> KeyMaterial:
        body: Json = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await self._client.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
        user = ((answer.get("status") or {}).get("userInfo") or {}).get("username")
        found = _SERVICE_ACCOUNT.fullmatch(str(user))
        if found is None:
            raise RejectedError("the operator does not run as a service account, and has no token of one")
        return await self.of(found[1], found[2], audiences, lifetime)
