"""What tests do to a world: restart its operator, damage a Secret behind its back, leave it alone for a while."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import wraps

from serviceidentity.app.inventory import Location
from serviceidentity.domain.material import SecretView
from tests.unit.app.fake_api import World

TLS: Location = ("shop", "order-service-tls")
HMAC: Location = ("shop", "order-service-hmac")


def scenario(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an asynchronous test with a world that has a trust domain; parameters are handed on by name."""

    async def inside(**given: object) -> None:
        world = World()
        world.trust_domain()
        await world.settle()
        world.api.writes.clear()
        await test(world, **given)

    @wraps(test)
    def run(**given: object) -> None:
        asyncio.run(inside(**given))

    # pytest asks a test for its parameters by this; the world is not a fixture.
    signature = inspect.signature(test)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[one for name, one in signature.parameters.items() if name not in ("world", "bare")]
    )
    return run


def edit(world: World, at: Location, data: dict[str, str | None] | None = None, **fields: object) -> SecretView:
    """Change a stored Secret; the operator is not told. A value of None takes the key out."""
    found = world.api.stored[at]
    changed = {name: value for name, value in {**found.data, **(data or {})}.items() if value is not None}
    world.api.version += 1
    view = replace(found, data=changed, resource_version=world.api.version, **fields)
    world.api.stored[at] = view
    return view


def tell(world: World, view: SecretView) -> None:
    """Let the watch bring the Secret."""
    world.engine.wake(world.engine.inventory.put_secret(view))


async def restarted(world: World) -> World:
    """Return a world with a new operator on the same API, at rest."""
    again = World(world.api, world.maps)
    for name, one in world.engine.inventory.namespaces.items():
        again.engine.inventory.namespaces[name] = one
    again.now = world.now
    await again.settle()
    return again


async def passes_when_left_alone(world: World, seconds: float = 0.15) -> int:
    """How often the engine looks at anything when nothing happens and the clock stands still."""
    await _work(world, 0.1)
    before = world.engine.counters.passes
    await _work(world, seconds)
    return world.engine.counters.passes - before


async def _work(world: World, seconds: float) -> None:
    world.engine.start()
    await asyncio.sleep(seconds)
    await world.engine.stop()
