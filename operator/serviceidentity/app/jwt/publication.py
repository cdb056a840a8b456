"""The ConfigMap with the JWK Sets of all trust domains: `serviceidentity-jwks` in the operator's namespace.

One for all, because its name is fixed: that is what RBAC can grant everybody to read.
"""

import asyncio
import base64
from collections.abc import Mapping

from serviceidentity.app.inventory import Inventory
from serviceidentity.app.jwt.issuers import is_owned
from serviceidentity.app.ports import Secrets
from serviceidentity.domain import ownership
from serviceidentity.domain.jwt.authority import CONFIG_MAP, document_key
from serviceidentity.domain.material import SecretContent, SecretView
from serviceidentity.domain.ownership import Metadata
from serviceidentity.errors import AlreadyExistsError, ConflictError, MissingError, ServiceIdentityError

_METADATA = Metadata({ownership.MANAGED_BY_LABEL: ownership.MANAGED_BY}, {}, ())


class ForeignConfigMapError(ServiceIdentityError):
    """The ConfigMap belongs to someone else."""


class JwksConfigMap:
    """Writes one trust domain's entry at a time. Nobody owns the ConfigMap: it outlives each of them."""

    def __init__(self, inventory: Inventory, config_maps: Secrets) -> None:
        self._inventory = inventory
        self._config_maps = config_maps
        self._writing = asyncio.Lock()

    async def put(self, domain: str, document: bytes | None) -> bool:
        """Publish a trust domain's JWK Set, or with None remove it; say whether anything was written.

        Raises ForeignConfigMapError, and PortError; ConflictError means that somebody else wrote meanwhile.
        """
        async with self._writing:
            found, key = self._inventory.token_keys, document_key(domain)
            data = dict(found.data) if found is not None else {}
            data.pop(key, None)
            if document is not None:
                data[key] = base64.b64encode(document).decode()
            if data == (dict(found.data) if found is not None else {}):
                return False
            self._inventory.put_config_map(await self._write(found, data))
            return True

    async def _write(self, found: SecretView | None, data: Mapping[str, str]) -> SecretView:
        content = SecretContent("", data)
        try:
            if found is None:
                return await self._config_maps.create(
                    self._inventory.authority_namespace, CONFIG_MAP, content, _METADATA
                )
            return await self._config_maps.replace(found, content, _METADATA)
        except (AlreadyExistsError, ConflictError, MissingError):
            await self._look_again(found)
            raise ConflictError("the ConfigMap of the JWK Sets changed meanwhile") from None

    async def _look_again(self, before: SecretView | None) -> None:
        view = await self._config_maps.read(self._inventory.authority_namespace, CONFIG_MAP)
        if view is None:
            if before is not None:
                self._inventory.drop_config_map(before.namespace, before.name, before.uid)
        elif is_owned(view):
            self._inventory.put_config_map(view)
        else:
            raise ForeignConfigMapError(f"ConfigMap {CONFIG_MAP} belongs to someone else and is left alone")
