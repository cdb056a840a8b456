"""What a client is told when its request is not valid."""

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serviceidentity_sdk.hardening import InvalidRequestError, body_of, query_of, validate, validation_errors


class Item(BaseModel):
    name: str = Field(min_length=1)
    price: float = Field(gt=0)


class Order(BaseModel):
    customer: str
    items: list[Item]
    password: str = Field(default="none", max_length=8)


class Page(BaseModel):
    size: int = Field(default=10, le=100)
    tags: list[str] = []


BAD = {"items": [{"name": "", "price": -1}, {"price": "geheim"}], "password": "geheimgeheim"}
DETAILS = [
    {"in": "body", "field": "customer", "code": "missing", "message": "Field required"},
    {
        "in": "body",
        "field": "items.0.name",
        "code": "string_too_short",
        "message": "String should have at least 1 character",
    },
    {"in": "body", "field": "items.0.price", "code": "greater_than", "message": "Input should be greater than 0"},
    {"in": "body", "field": "items.1.name", "code": "missing", "message": "Field required"},
    {
        "in": "body",
        "field": "items.1.price",
        "code": "float_parsing",
        "message": "Input should be a valid number, unable to parse string as a number",
    },
    {
        "in": "body",
        "field": "password",
        "code": "string_too_long",
        "message": "String should have at most 8 characters",
    },
]
GOOD = {"customer": "c", "admin": True, "items": [{"name": "n", "price": 1, "free": True}]}
STRIPPED = {"customer": "c", "items": [{"name": "n", "price": 1.0}], "password": "none"}


def starlette(**options):
    async def create(request):
        return JSONResponse((await body_of(request, Order, largest=2000)).model_dump())

    async def search(request):
        return JSONResponse(query_of(request, Page).model_dump())

    app = Starlette(routes=[Route("/", create, methods=["POST"]), Route("/", search)])
    validation_errors(app, **options)
    return TestClient(app)


def fastapi(**options):
    app = FastAPI()

    @app.post("/")
    def create(order: Order):
        return order

    @app.get("/{number}")
    def one(number: int, size: int = 1):
        return number

    validation_errors(app, **options)
    return TestClient(app)


@pytest.mark.parametrize("make", [starlette, fastapi])
def test_all_errors_at_once_in_one_form(make):
    refused = make().post("/", json=BAD)
    assert (refused.status_code, refused.json()) == (400, {"error": "Validation failed", "details": DETAILS})
    assert "geheim" not in refused.text
    assert make(status=422).post("/", json=BAD).status_code == 422


@pytest.mark.parametrize("make", [starlette, fastapi])
def test_unknown_fields_are_dropped(make):
    assert make().post("/", json=GOOD).json() == STRIPPED


@pytest.mark.parametrize("make", [starlette, fastapi])
@pytest.mark.parametrize("body", [b"", b"{", b'{"customer": "geheim', b"\xff"])
def test_a_body_that_is_no_json_is_said_in_the_same_form(make, body):
    if make is fastapi and body == b"\xff":
        pytest.skip("FastAPI answers bytes that are no text itself, with a 400 of its own form")
    refused = make().post("/", content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 400
    (detail,) = refused.json()["details"]
    assert (detail["in"], detail["field"]) == ("body", "")
    assert "geheim" not in refused.text


def test_the_deepest_json_is_an_answer_and_no_fault():
    body = b"[" * 900 + b"]" * 900
    assert starlette().post("/", content=body, headers={"content-type": "application/json"}).status_code == 400


def test_a_body_that_is_too_large_or_of_another_type():
    client = starlette()
    assert client.post("/", json={"customer": "x" * 3000}).status_code == 413
    assert client.post("/", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post("/", content=b"{}").status_code == 415
    kind = {"content-type": "application/merge-patch+json; charset=utf-8"}
    assert client.post("/", content=b"{}", headers=kind).status_code == 400


def test_query_parameters():
    client = starlette()
    assert client.get("/?size=5&tags=a&other=1").json() == {"size": 5, "tags": ["a"]}
    assert client.get("/?tags=a&tags=b").json() == {"size": 10, "tags": ["a", "b"]}
    refused = client.get("/?size=5&size=6")
    assert refused.json()["details"][0] | {"message": ""} == {
        "in": "query",
        "field": "size",
        "code": "int_type",
        "message": "",
    }


def test_path_and_query_in_fastapi():
    details = fastapi().get("/x?size=y").json()["details"]
    assert [(one["in"], one["field"], one["code"]) for one in details] == [
        ("path", "number", "int_parsing"),
        ("query", "size", "int_parsing"),
    ]


def test_many_errors_are_answered_with_a_hundred():
    with pytest.raises(InvalidRequestError) as error:
        validate(Order, {"items": [{}] * 500})
    assert len(error.value.details) == 100


def test_without_the_handler_it_is_still_a_400():
    async def create(request):
        await body_of(request, Order)

    answer = TestClient(Starlette(routes=[Route("/", create, methods=["POST"])])).post("/", json=BAD)
    assert (answer.status_code, answer.text) == (400, "Validation failed")
