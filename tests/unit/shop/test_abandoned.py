"""What a customer leaves half done is finished without the customer, and nobody can hold goods by leaving."""

import asyncio

import httpx
import pytest

from examples.shop.services.errors import UnavailableError
from examples.shop.services.order.abandoned import Abandoned
from tests.unit.shop.test_orders import ORDER, bought
from tests.unit.shop.world import EVENING


def logs_out(world):
    async def leaves(request, ask):
        world.redis.revoke("session-of-alice")
        return await ask(request)

    return leaves


async def lost(request, ask):
    await ask(request)
    raise httpx.ReadTimeout("nothing came")


def test_goods_go_back_when_the_customer_logs_out_while_the_order_is_placed(world):
    world.fill(quantity=10)
    world.broken = [("payment-service", logs_out(world))]
    answer = bought(world)
    assert (answer.status_code, answer.json()) == (401, {"error": "Token revoked"})
    assert world.left() == 10 and not world.stock.reservations and not world.payments.payments


def test_a_refused_token_takes_nothing_back_that_was_paid_before(world):
    world.fill(quantity=10)
    world.broken = [("payment-service", lost)]
    assert bought(world).status_code == 503
    world.broken = [("payment-service", logs_out(world))]
    assert bought(world).status_code == 401
    assert world.left() == 8 and len(world.payments.payments) == 1
    world.redis.keys.clear()
    assert bought(world).status_code == 200  # it is placed


def test_an_order_that_was_paid_is_placed_though_nobody_asks_again(world):
    world.fill(quantity=10)
    world.broken = [("payment-service", lost)]
    assert bought(world).status_code == 503
    assert (world.tidy(), world.tidy()) == (1, 0)
    assert world.left() == 8 and len(world.payments.payments) == 1
    answer = bought(world)
    assert answer.status_code == 200 and {**answer.json(), "id": ""} == {
        **ORDER,
        "id": "",
        "customer": "alice",
        "amount": 40,
    }


def test_goods_of_an_order_that_was_not_paid_go_back_though_nobody_asks_again(world):
    world.fill(quantity=10)
    world.broken = [("payment-service", httpx.ReadTimeout("slow"))]
    assert bought(world).status_code == 503
    assert world.left() == 8
    assert (world.tidy(), world.tidy()) == (1, 0)
    assert world.left() == 10 and not world.stock.reservations
    assert bought(world).status_code == 201  # the key still is good
    assert world.left() == 8 and world.tidy() == 0


@pytest.mark.parametrize("away", ["payment-service", "inventory-service"])
def test_while_the_next_service_is_away_it_waits(world, away):
    world.fill(quantity=10)
    world.broken = [("payment-service", httpx.ReadTimeout("slow"))]
    assert bought(world).status_code == 503
    world.broken = [(away, httpx.ReadTimeout("slow"))]
    with pytest.raises(Exception, match="does not answer"):
        world.tidy()
    assert world.left() == 8
    assert world.tidy() == 1
    assert world.left() == 10


@pytest.mark.parametrize("path", ["/releases", "/paid"])
def test_what_order_service_does_for_itself_nobody_else_does(world, path):
    """Neither another caller, nor a token of a user that has its name."""
    order = {"order": "7f3c9a8e-4f0e-4a39-9d6c-0d6a5a0f4a11"}
    service = "inventory-service" if path == "/releases" else "payment-service"

    async def sent(caller, **headers):
        async with world.client(service, caller) as client:
            return (await client.post(path, json=order, headers=headers)).status_code

    assert asyncio.run(sent("order-service")) == (204 if path == "/releases" else 200)
    assert asyncio.run(sent("storefront", Authorization=f"Bearer {world.admin()}")) == 403
    assert asyncio.run(sent(None)) == 401


def test_the_evening_refusal_still_gives_the_goods_back_at_once(world):
    world.fill(quantity=10)
    world.now = EVENING
    assert bought(world).status_code == 403
    assert world.left() == 10


def test_it_goes_on_looking_after_a_failure_and_ends_with_the_service():
    looks = []

    class Orders:
        async def abandoned(self, _by):
            looks.append(1)
            if len(looks) < 3:
                raise UnavailableError("away")

    async def story():
        async with Abandoned(Orders(), None, every=0.001) as abandoned:
            async with asyncio.timeout(5):
                while len(looks) < 4:
                    await asyncio.sleep(0.001)
        assert abandoned._task.cancelled()

    asyncio.run(story())


def test_order_service_looks_while_it_runs(world):
    assert len(world.kept) == 1 and isinstance(world.kept[0], Abandoned)
