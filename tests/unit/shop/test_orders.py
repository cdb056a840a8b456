"""An order on its way through all four services, and everything that can come between."""

import asyncio
import json

import httpx
import pytest

from tests.unit.shop.world import EVENING, SERVICES

ORDER = {"item": "teapot", "quantity": 2}


async def buy(world, token=None, key="k1", **wanted):
    async with world.customer(token or world.token()) as customer:
        return await customer.post("/orders", json=ORDER | wanted, headers={"Idempotency-Key": key})


def bought(world, token=None, key="k1", **wanted):
    return asyncio.run(buy(world, token, key, **wanted))


def test_a_customer_logs_in_orders_and_reads_the_order(world):
    world.fill(quantity=10, price=20)

    async def story():
        async with world.customer() as customer:
            login = await customer.post("/login", json={"username": "alice", "password": "right"})
            customer.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
            order = await customer.post("/orders", json=ORDER, headers={"Idempotency-Key": "k1"})
            return order, await customer.get(f"/orders/{order.json()['id']}"), await customer.get("/stock")

    order, read, stock = asyncio.run(story())
    assert order.status_code == 201, order.text
    assert read.json() == order.json() and read.status_code == 200
    assert {**order.json(), "id": ""} == {**ORDER, "id": "", "customer": "alice", "amount": 40}
    assert stock.json() == [{"item": "teapot", "quantity": 8, "price": 20}]
    (paid,) = world.payments.payments.values()
    assert (str(paid.order), paid.customer, paid.amount) == (order.json()["id"], "alice", 40)


def test_each_request_has_one_line_with_who_asked_whom_with_what(world):
    world.fill()
    bought(world)
    lines = {line["service"]: line for line in world.lines}
    assert len(world.lines) == 4 and set(lines) == set(SERVICES)
    payment, front = lines["payment-service"], lines["storefront"]
    assert payment["caller"] == "order-service" and payment["subject"] == "alice"
    assert payment["certificate"] == world.leaves["order-service"].serial[:8]
    assert payment["signature"] == "key-of-order-service"[:8]
    assert payment["token"] == world.issuers["order-service"][0].key_id[:8]
    assert (payment["action"], payment["rule"], payment["status"]) == ("payments:create", "payments/owner", 201)
    assert lines["inventory-service"]["token"] == world.issuers["auth-service"][0].key_id[:8]
    assert lines["order-service"]["caller"] == "storefront"
    assert (front["action"], front["status"]) == ("POST /orders", 201) and "caller" not in front
    assert json.dumps(world.lines)


def test_no_line_holds_a_token_a_signature_or_a_key(world):
    world.fill()
    token = world.token()
    bought(world, token)
    written = json.dumps(world.lines)
    assert token.split(".")[2] not in written
    assert not any(key.hex() in written for key in world.keys.values())


def test_a_repeated_order_is_the_same_order_and_is_paid_once(world):
    world.fill(quantity=10)
    first, again = bought(world), bought(world)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert world.left() == 8 and len(world.payments.payments) == 1


def test_the_same_key_of_another_customer_is_another_order(world):
    world.fill(quantity=10)
    assert bought(world).json()["id"] != bought(world, world.token("bob")).json()["id"]
    assert world.left() == 6


def test_the_same_key_for_something_else_is_refused(world):
    world.fill()
    assert bought(world).status_code == 201
    again = bought(world, quantity=3)
    assert (again.status_code, again.json()) == (422, {"error": "This Idempotency-Key is that of another order"})


def test_more_than_there_is_is_refused_and_nothing_is_paid(world):
    world.fill(quantity=1)
    answer = bought(world)
    assert (answer.status_code, answer.json()) == (409, {"error": "Out of stock"})
    assert world.left() == 1 and not world.payments.payments
    world.fill(quantity=2)
    assert bought(world).status_code == 201  # the key was not used up


def test_what_there_is_not_is_not_found(world):
    answer = bought(world, item="samovar")
    assert (answer.status_code, answer.json()) == (404, {"error": "No such item"})


def test_a_payment_outside_office_hours_is_refused_with_the_reason_and_the_goods_go_back(world):
    world.fill(quantity=10)
    world.now = EVENING
    answer = bought(world)
    assert answer.status_code == 403
    assert answer.json() == {"error": "Denied by policy", "reason": "no payments outside of 9 to 17"}
    assert world.left() == 10 and not world.stock.reservations
    assert world.line("payment-service")["rule"] == "payments/office-hours"


def test_a_payment_that_is_too_large_is_refused_with_the_reason(world):
    world.fill(price=501)
    assert bought(world).json()["reason"] == "at most 1000 euros an order"
    assert world.left() == 10


def test_an_admin_pays_at_night_and_much(world):
    world.fill(price=5000)
    world.now = EVENING
    assert bought(world, world.admin()).status_code == 201


def test_who_may_not_pay_may_not_order(world):
    world.fill()
    answer = bought(world, world.token(permissions=["stock:read"]))
    assert answer.status_code == 403 and answer.json()["required"] == ["payments:create"]
    assert not world.stock.reservations


@pytest.mark.parametrize("when", ["payment", "after"])
def test_an_order_that_was_cut_off_is_finished_by_the_same_request(world, when):
    """The service dies while it pays, or when it has paid, before it stores the order."""
    world.fill(quantity=10)

    class Killed(BaseException):
        pass

    async def dies(request, ask):
        if when == "after":
            assert (await ask(request)).status_code == 201
        raise Killed

    world.broken = [("payment-service", dies)]
    with pytest.raises(Killed):
        bought(world)
    assert world.left() == 8 and len(world.payments.payments) == (when == "after")

    busy = bought(world)
    assert (busy.status_code, busy.json()) == (409, {"error": "This order is being placed"})
    assert busy.headers["retry-after"] == "1"

    world.orders.end_claims()
    world.now = EVENING if when == "after" else world.now  # what was paid at noon stays paid
    assert bought(world).status_code == 201
    assert world.left() == 8 and len(world.payments.payments) == 1


@pytest.mark.parametrize("called", ["inventory-service", "payment-service", "order-service"])
def test_the_next_service_is_away(world, called):
    world.fill(quantity=10)
    world.broken = [(called, httpx.ConnectError("refused"))] * 2
    answer = bought(world)
    assert (answer.status_code, answer.json()) == (503, {"error": "Service unavailable"})
    assert answer.headers["retry-after"] == "1"
    assert bought(world).status_code == 201  # with the same key, as soon as it is back
    assert world.left() == 8


def test_a_payment_whose_answer_was_lost_is_not_paid_twice_and_the_goods_stay_reserved(world):
    world.fill(quantity=10)

    async def lost(request, ask):
        await ask(request)
        raise httpx.ReadTimeout("nothing came")

    world.broken = [("payment-service", lost)]
    assert bought(world).status_code == 503
    assert world.left() == 8 and len(world.payments.payments) == 1
    assert bought(world).status_code == 201
    assert world.left() == 8 and len(world.payments.payments) == 1


def test_a_connection_that_was_closed_is_tried_once_more_and_counted(world):
    world.fill(quantity=10)
    world.broken = [
        ("payment-service", httpx.RemoteProtocolError("closed")),
        ("order-service", httpx.ReadError("reset")),
    ]
    assert bought(world).status_code == 201
    assert world.line("order-service")["retries"] == 1
    assert world.line("storefront")["retries"] == 1
    assert "retries" not in world.line("payment-service")


def test_a_timeout_is_not_tried_again(world):
    world.fill()
    world.broken = [("inventory-service", httpx.ReadTimeout("slow"))]
    assert bought(world).status_code == 503
    assert "retries" not in world.line("order-service")


def test_when_the_goods_cant_be_given_back_the_refusal_waits_for_the_next_attempt(world):
    world.fill(quantity=10)
    world.now = EVENING

    async def breaks(request, ask):
        answer = await ask(request)
        world.broken += [("inventory-service", httpx.ConnectError("gone"))] * 2
        return answer

    world.broken = [("payment-service", breaks)]
    assert bought(world).status_code == 503
    assert world.left() == 8
    assert bought(world).status_code == 403
    assert world.left() == 10


def test_nobody_is_let_in_while_redis_is_away(world):
    world.fill()
    world.redis.away = True
    answer = bought(world)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    world.redis.away = False
    assert bought(world).status_code == 201


def test_a_session_that_was_logged_out_is_over(world):
    world.fill()
    token = world.token()

    async def leave():
        async with world.customer(token) as customer:
            return await customer.post("/logout")

    assert asyncio.run(leave()).status_code == 204
    answer = bought(world, token)
    assert (answer.status_code, answer.json()) == (401, {"error": "Token revoked"})
