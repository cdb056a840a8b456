"""Writing Secrets: the one place that creates, replaces and deletes them, for identities and authorities alike."""

from serviceidentity.app.inventory import Inventory
from serviceidentity.app.ports import Secrets, Wake
from serviceidentity.domain.material import SecretContent, SecretView
from serviceidentity.domain.model import Kind, Meta
from serviceidentity.domain.ownership import Metadata
from serviceidentity.errors import AlreadyExistsError, ConflictError, MissingError, ServiceIdentityError


class ForeignSecretError(ServiceIdentityError):
    """A Secret of that name belongs to someone else."""


class SecretWriter:
    """Stores content under a name, if the name is free or the Secret there is the object's own."""

    def __init__(self, secrets: Secrets, inventory: Inventory, wake: Wake) -> None:
        self._secrets = secrets
        self._inventory = inventory
        self._wake = wake

    async def store(
        self,
        kind: Kind,
        meta: Meta,
        location: tuple[str, str],
        content: SecretContent,
        metadata: Metadata,
        seen: SecretView | None,
    ) -> SecretView:
        """Create the Secret, or replace what was `seen` there, and remember what it holds.

        Raises ForeignSecretError, and PortError as the server answers; ConflictError means that what was observed is
        out of date: look again.
        """
        known = self._inventory.secrets.get(location)
        if known is not None and not self._inventory.owns(known, kind, meta):
            raise ForeignSecretError(f"Secret {location[1]} belongs to someone else and is left alone")
        if known != seen:
            raise ConflictError("the Secret changed since the decision to write it")
        self._inventory.writing[location] = content.data
        try:
            view = await self._write(known, location, content, metadata)
        except AlreadyExistsError:
            await self._look_closer(kind, meta, location)
            raise
        except (ConflictError, MissingError) as error:
            if known is None:
                raise  # nothing to replace, so it is the namespace that is missing
            await self._refresh(location)
            raise ConflictError("the Secret changed meanwhile") from error
        finally:
            self._inventory.writing.pop(location, None)
        self._inventory.put_secret(view)
        self._inventory.remember(view)
        # Its echo in the watch wakes nobody; who shares its keys has to be told here.
        self._wake(self._inventory.sharing(view))
        return view

    async def remove(self, view: SecretView) -> None:
        """Delete a Secret of ours."""
        await self._secrets.delete(view)
        self._inventory.forget_secret((view.namespace, view.name))
        self._wake(self._inventory.concerned(view))

    async def _write(
        self, known: SecretView | None, location: tuple[str, str], content: SecretContent, metadata: Metadata
    ) -> SecretView:
        if known is None:
            return await self._secrets.create(*location, content, metadata)
        if known.immutable or known.type != content.type:
            # Neither can be changed in place; the content is at hand, so the gap is a moment.
            await self._secrets.delete(known)
            return await self._secrets.create(*location, content, metadata)
        return await self._secrets.replace(known, content, metadata)

    async def _look_closer(self, kind: Kind, meta: Meta, location: tuple[str, str]) -> None:
        """A Secret that no watch told us of: without our label, or newer than the watch. Find out whose."""
        view = await self._secrets.read(*location)
        if view is None:
            return
        if not self._inventory.owns(view, kind, meta):
            raise ForeignSecretError(f"Secret {location[1]} belongs to someone else and is left alone")
        self._wake(self._inventory.put_secret(view))

    async def _refresh(self, location: tuple[str, str]) -> None:
        view = await self._secrets.read(*location)
        if view is None:
            self._wake(self._inventory.drop_secret(*location))
        else:
            self._wake(self._inventory.put_secret(view))
