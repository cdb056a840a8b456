"""Writing Secrets: the one place that creates, replaces and deletes them, for identities and authorities alike.

And the ConfigMaps that identities own, by the same rules.
"""

from collections.abc import Mapping
from typing import Protocol

from serviceidentity.app.inventory import Inventory, Location
from serviceidentity.app.ports import Secrets, Wake
from serviceidentity.domain.material import SecretContent, SecretView
from serviceidentity.domain.model import Key, Kind, Meta
from serviceidentity.domain.ownership import Metadata
from serviceidentity.errors import AlreadyExistsError, ConflictError, MissingError, ServiceIdentityError


class ForeignSecretError(ServiceIdentityError):
    """A Secret or ConfigMap of that name belongs to someone else."""


class Known(Protocol):
    """What is known of the objects of one kind, Secrets or ConfigMaps, and whose they are."""

    what: str
    writing: dict[Location, Mapping[str, str]]

    def at(self, location: Location) -> SecretView | None:
        """Return what is there."""
        ...

    def owns(self, view: SecretView, kind: Kind, meta: Meta) -> bool:
        """Say whether it is the object's."""
        ...

    def put(self, view: SecretView) -> set[Key]:
        """Take in what is there; return whom that concerns."""
        ...

    def drop(self, location: Location) -> set[Key]:
        """Take note that nothing is there; return whom that concerns."""
        ...

    def remember(self, view: SecretView) -> None:
        """Take note that this is what is to be there."""
        ...

    def forget(self, location: Location) -> None:
        """It was removed on purpose."""
        ...

    def concerned(self, view: SecretView) -> set[Key]:
        """Return whom a change of it concerns."""
        ...

    def sharing(self, view: SecretView) -> set[Key]:
        """Return whom a change concerns besides the one who made it."""
        ...


class KnownSecrets:
    """The Secrets of the inventory."""

    what = "Secret"

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self.writing = inventory.writing
        self.owns, self.put, self.drop = inventory.owns, inventory.put_secret, self._drop
        self.remember, self.forget = inventory.remember, inventory.forget_secret
        self.concerned, self.sharing = inventory.concerned, inventory.sharing

    def at(self, location: Location) -> SecretView | None:
        return self._inventory.secrets.get(location)

    def _drop(self, location: Location) -> set[Key]:
        return self._inventory.drop_secret(*location)


class Writer:
    """Stores content under a name, if the name is free or what is there is the object's own."""

    def __init__(self, port: Secrets, known: Known, wake: Wake) -> None:
        self._port = port
        self._known = known
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
        """Create the Secret or ConfigMap, or replace what was `seen` there, and remember what it holds.

        Raises ForeignSecretError, and PortError as the server answers; ConflictError means that what was observed is
        out of date: look again.
        """
        known = self._checked(kind, meta, location, seen)
        self._known.writing[location] = content.data
        try:
            view = await self._write(known, location, content, metadata)
        except AlreadyExistsError:
            await self._look_closer(kind, meta, location)
            raise
        except (ConflictError, MissingError) as error:
            if known is None:
                raise  # nothing to replace, so it is the namespace that is missing
            await self._refresh(location)
            raise ConflictError(f"the {self._known.what} changed meanwhile") from error
        finally:
            self._known.writing.pop(location, None)
        self._known.put(view)
        self._known.remember(view)
        # Its echo in the watch wakes nobody; who shares its keys has to be told here.
        self._wake(self._known.sharing(view))
        return view

    async def check(self, kind: Kind, meta: Meta, location: Location, seen: SecretView | None) -> None:
        """Say beforehand what `store` would say, for who has to do something else first that can't be taken back."""
        if self._checked(kind, meta, location, seen) is None and await self._port.read(*location) is not None:
            await self._look_closer(kind, meta, location)
            raise ConflictError(f"the {self._known.what} is there already")

    async def remove(self, view: SecretView) -> None:
        """Delete what is ours."""
        await self._port.delete(view)
        self._known.forget((view.namespace, view.name))
        self._wake(self._known.concerned(view))

    def _checked(self, kind: Kind, meta: Meta, location: Location, seen: SecretView | None) -> SecretView | None:
        """Return what is there, if it is the object's own and what was seen."""
        known = self._known.at(location)
        if known is not None:
            self._check(known, kind, meta)
        if known != seen:
            raise ConflictError(f"the {self._known.what} changed since the decision to write it")
        return known

    def _check(self, view: SecretView, kind: Kind, meta: Meta) -> None:
        if not self._known.owns(view, kind, meta):
            raise ForeignSecretError(f"{self._known.what} {view.name} belongs to someone else and is left alone")

    async def _write(
        self, known: SecretView | None, location: tuple[str, str], content: SecretContent, metadata: Metadata
    ) -> SecretView:
        if known is None:
            return await self._port.create(*location, content, metadata)
        if known.immutable or known.type != content.type:
            # Neither can be changed in place; the content is at hand, so the gap is a moment.
            await self._port.delete(known)
            return await self._port.create(*location, content, metadata)
        return await self._port.replace(known, content, metadata)

    async def _look_closer(self, kind: Kind, meta: Meta, location: tuple[str, str]) -> None:
        """Something that no watch told us of: without our label, or newer than the watch. Find out whose."""
        view = await self._port.read(*location)
        if view is None:
            return
        self._check(view, kind, meta)
        self._wake(self._known.put(view))

    async def _refresh(self, location: tuple[str, str]) -> None:
        view = await self._port.read(*location)
        if view is None:
            self._wake(self._known.drop(location))
        else:
            self._wake(self._known.put(view))


class SecretWriter(Writer):
    """Writes Secrets."""

    def __init__(self, secrets: Secrets, inventory: Inventory, wake: Wake) -> None:
        super().__init__(secrets, KnownSecrets(inventory), wake)
