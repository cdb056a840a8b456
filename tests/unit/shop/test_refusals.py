"""Each layer refuses on its own: a request with everything but one credential gets in nowhere."""

import asyncio

import httpx
import pytest

from sdk.python.tests.ca import Pki, spiffe_id
from serviceidentity_sdk.jwt import Fixed, TokenSigner, TokenVerifier
from serviceidentity_sdk.jwt.jose import read_key_set
from tests.unit.shop.world import EVENING

CHARGE = {"order": "7f3c9a8e-4f0e-4a39-9d6c-0d6a5a0f4a11", "customer": "alice", "amount": 40}
WANTED = {"order": "7f3c9a8e-4f0e-4a39-9d6c-0d6a5a0f4a11", "item": "teapot", "quantity": 1}
# A good request to each service behind mutual TLS: who calls, what, with which body.
GOOD = {
    "order-service": ("storefront", "POST", "/orders", {"item": "teapot", "quantity": 1}),
    "payment-service": ("order-service", "POST", "/payments", CHARGE),
    "inventory-service": ("order-service", "POST", "/reservations", WANTED),
}
BEHIND = sorted(GOOD)


def narrowed(world, subject="alice", *, service="order-service", audience="payment-service", **changes):
    """Return a token as order-service makes it for a payment."""
    keys = read_key_set(world.issuers["auth-service"][1])

    async def made():
        verifier = TokenVerifier(Known(keys))
        caller = await verifier.verify(world.token(subject))
        signer = TokenSigner(Fixed(world.issuers["order-service"][0]), issuer="order-service")
        return signer.narrow(caller, service=service, audience=audience, permissions=["payments:create"], **changes)

    return asyncio.run(made())


class Known:
    def __init__(self, keys):
        self._keys = keys

    async def keys(self, _key_id):
        return self._keys


def good_token(world, service):
    return narrowed(world) if service == "payment-service" else world.token()


def send(world, service, caller="", token="", body=None, **options):
    """Send a service's good request, with what is given instead."""
    usual, method, path, good = GOOD[service]
    headers = {"Idempotency-Key": "k1"}
    token = good_token(world, service) if token == "" else token
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"

    async def sent():
        async with world.client(service, usual if caller == "" else caller, **options) as client:
            return await client.request(method, path, json=body or good, headers=headers)

    return asyncio.run(sent())


@pytest.fixture(autouse=True)
def filled(world):
    world.fill()


@pytest.mark.parametrize("service", BEHIND)
def test_the_good_request_is_good(world, service):
    assert send(world, service).status_code == 201


@pytest.mark.parametrize("service", BEHIND)
def test_without_a_certificate(world, service):
    answer = send(world, service, caller=None)
    assert (answer.status_code, answer.json()) == (401, {"error": "Client certificate required"})
    assert world.line(service)["reason"] == "Client certificate required"
    assert not {"caller", "subject", "signature"} & world.line(service).keys()


@pytest.mark.parametrize("service", BEHIND)
def test_with_a_certificate_of_another_authority(world, service):
    usual = GOOD[service][0]
    answer = send(world, service, leaf=Pki("Other").leaf(usual, uris=[spiffe_id(usual)]))
    assert (answer.status_code, answer.json()) == (401, {"error": "Client certificate not trusted"})


@pytest.mark.parametrize("service", BEHIND)
def test_as_a_service_that_may_not_call(world, service):
    answer = send(world, service, leaf=world.pki.leaf("report-service"))
    assert (answer.status_code, answer.json()) == (403, {"error": "Caller not allowed"})
    assert world.line(service)["caller"] == "report-service"


@pytest.mark.parametrize("service", BEHIND)
def test_unsigned(world, service):
    answer = send(world, service, sign=False)
    assert (answer.status_code, answer.json()) == (401, {"error": "Missing service authentication"})


@pytest.mark.parametrize("service", BEHIND)
def test_signed_with_another_key(world, service):
    world.keys[GOOD[service][0]] = b"another key of thirty-two bytes!"
    answer = send(world, service)
    assert (answer.status_code, answer.json()) == (401, {"error": "Invalid signature"})


@pytest.mark.parametrize("service", BEHIND)
def test_replayed(world, service):
    usual, method, path, _ = GOOD[service]
    kept = []

    async def twice():
        async with world.client(service, usual) as client:
            client.headers.update({"Authorization": f"Bearer {token}", "Idempotency-Key": "k1"})
            request = client.build_request(method, path, json=GOOD[service][3])
            kept.append(await client.send(request))
            again = httpx.Request(method, request.url, headers=request.headers, content=request.content)
            return await client.send(again, auth=None)

    token = good_token(world, service)
    answer = asyncio.run(twice())
    assert kept[0].status_code == 201
    assert (answer.status_code, answer.json()) == (401, {"error": "Request replayed"})


@pytest.mark.parametrize("service", BEHIND)
def test_without_a_token(world, service):
    answer = send(world, service, token=None)
    assert (answer.status_code, answer.json()) == (401, {"error": "Missing authorization header"})


def test_the_customers_own_token_is_no_good_at_payment(world):
    answer = send(world, "payment-service", token=world.token())
    assert (answer.status_code, answer.json()) == (401, {"error": "Invalid token"})


def test_a_narrowed_token_of_a_session_that_is_over(world):
    token = narrowed(world)
    world.redis.revoke("session-of-alice")
    answer = send(world, "payment-service", token=token)
    assert (answer.status_code, answer.json()) == (401, {"error": "Token revoked"})


def test_a_token_of_order_service_for_somebody_else_is_no_good_at_payment(world):
    answer = send(world, "payment-service", token=narrowed(world, audience="microservices"))
    assert (answer.status_code, answer.json()) == (401, {"error": "Invalid token"})


def test_a_token_of_order_service_is_no_good_elsewhere(world):
    answer = send(world, "inventory-service", token=narrowed(world, audience="microservices"))
    assert (answer.status_code, answer.json()) == (401, {"error": "Invalid token"})


def test_a_token_that_says_that_another_service_acts(world):
    answer = send(world, "payment-service", token=narrowed(world, service="report-service"))
    assert answer.status_code == 403
    assert answer.json()["reason"] == "only order-service pays for customers"


def test_paying_for_somebody_else(world):
    answer = send(world, "payment-service", token=narrowed(world, "bob"))
    assert answer.json() == {"error": "Denied by policy", "reason": "only the owner of an order pays"}


def test_paying_outside_of_office_hours(world):
    world.now = EVENING
    answer = send(world, "payment-service")
    assert (answer.status_code, answer.json()["reason"]) == (403, "no payments outside of 9 to 17")


def test_what_was_paid_is_not_paid_otherwise(world):
    assert send(world, "payment-service").status_code == 201
    assert send(world, "payment-service").status_code == 200
    answer = send(world, "payment-service", body=CHARGE | {"amount": 41})
    assert (answer.status_code, answer.json()) == (409, {"error": "This order was paid otherwise"})


def customer(world, method, path, token, **options):
    async def sent():
        async with world.customer(token, **options.pop("of", {})) as client:
            return await client.request(method, path, **options)

    return asyncio.run(sent())


def ordered(world):
    wanted = {"item": "teapot", "quantity": 1}
    return customer(world, "POST", "/orders", world.token(), json=wanted, headers={"Idempotency-Key": "k"})


def placed(world):
    return f"/orders/{ordered(world).json()['id']}"


def test_another_customers_order(world):
    path = placed(world)
    answer = customer(world, "GET", path, world.token("bob"))
    assert (answer.status_code, answer.json()) == (403, {"error": "Denied by policy", "reason": "No matching policy"})
    assert customer(world, "GET", path, world.admin()).status_code == 200
    assert customer(world, "GET", path, world.token()).status_code == 200


def test_an_order_that_is_not_there_looks_like_somebody_elses(world):
    path = "/orders/7f3c9a8e-4f0e-4a39-9d6c-0d6a5a0f4a11"
    assert customer(world, "GET", path, world.token()).status_code == 403
    assert customer(world, "GET", path, world.admin()).status_code == 404


def test_only_an_admin_sets_the_stock(world):
    amounts = {"quantity": 3, "price": 7}
    answer = customer(world, "PUT", "/stock/samovar", world.token(), json=amounts)
    assert (answer.status_code, answer.json()["reason"]) == (403, "No matching policy")
    assert customer(world, "PUT", "/stock/samovar", world.admin(), json=amounts).status_code == 200
    assert world.left("samovar") == 3


def test_storefront_does_not_reserve(world):
    async def sent():
        async with world.client("inventory-service", "storefront") as client:
            headers = {"Authorization": f"Bearer {world.admin()}"}
            return await client.post("/reservations", json=WANTED, headers=headers)

    assert asyncio.run(sent()).json()["reason"] == "only order-service reserves and releases"


def test_a_customer_without_a_token_gets_no_further_than_the_storefront(world):
    answer = customer(world, "GET", "/stock", None)
    assert (answer.status_code, answer.json()) == (401, {"error": "Missing authorization header"})
    assert [line["service"] for line in world.lines] == ["storefront"]


def test_a_wrong_password_is_told_and_comes_from_the_customers_address(world):
    answer = customer(
        world,
        "POST",
        "/login",
        None,
        json={"username": "alice", "password": "wrong"},
        headers={"X-Forwarded-For": "203.0.113.9"},
    )
    assert (answer.status_code, answer.json()) == (401, {"error": "Invalid username or password"})
    assert answer.headers["www-authenticate"] == "Bearer"
    assert world.seen == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("body", "headers", "wrong"),
    [
        ({"item": "Tea pot", "quantity": 0}, {"Idempotency-Key": "k"}, ["item", "quantity"]),
        ({"item": "teapot", "quantity": 1}, {}, ["Idempotency-Key"]),
        ({"item": "teapot", "quantity": 1}, {"Idempotency-Key": "k" * 65}, ["Idempotency-Key"]),
        ({}, {"Idempotency-Key": "k"}, ["item", "quantity"]),
    ],
)
def test_what_is_wrong_in_a_request_is_told_at_the_edge(world, body, headers, wrong):
    answer = customer(world, "POST", "/orders", world.token(), json=body, headers=headers)
    assert answer.status_code == 400
    assert sorted(one["field"] for one in answer.json()["details"]) == sorted(wrong)
    assert [line["service"] for line in world.lines] == ["storefront"]


def test_a_large_body_and_too_many_requests_end_at_the_edge(world):
    large = customer(world, "POST", "/orders", world.token(), content=b"x" * 20_000)
    assert (large.status_code, large.json()) == (413, {"error": "Request body too large"})

    async def many():
        async with world.customer(world.token()) as client:
            return [(await client.get("/stock")).status_code for _ in range(100)]

    statuses = asyncio.run(many())
    assert statuses.count(200) == 99 and statuses[-1] == 429
    assert customer(world, "GET", "/stock", world.token(), of={"address": "192.0.2.2"}).status_code == 200


@pytest.mark.parametrize("service", [*BEHIND, "storefront"])
def test_probes_need_nothing_and_write_nothing(world, service):
    async def probed():
        async with world.client(service) as client:
            return [(await client.get(path)).status_code for path in ("/healthz", "/readyz")]

    assert asyncio.run(probed()) == [200, 200]
    assert not world.lines


def test_a_refusal_of_this_service_is_not_passed_on_to_the_customer(world):
    """401 would send the customer to the login; it is storefront whose key is not known."""
    world.volumes["order-service-keyring"].swap({"keyring.json": b'{"services": {}}'})
    world.restart("order-service")
    answer = ordered(world)
    assert (answer.status_code, answer.json()) == (503, {"error": "Service unavailable"})
    assert world.line("order-service")["reason"] == "Unknown service"


@pytest.mark.parametrize("service", [*BEHIND, "storefront"])
def test_every_answer_has_security_headers(world, service):
    answer = send(world, service, caller=None) if service in GOOD else customer(world, "GET", "/nothing", None)
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_fault_is_told_without_a_word_about_it(world, caplog):
    async def breaks():
        raise RuntimeError("password=hunter2")

    world.stock.items = breaks
    answer = customer(world, "GET", "/stock", world.token())
    assert answer.status_code == 503
    assert world.line("inventory-service")["status"] == 500
    assert "hunter2" not in caplog.text
