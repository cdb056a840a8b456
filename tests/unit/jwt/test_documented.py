"""The lines that docs/jwt.md gives to a service work as they are there."""

import re
from pathlib import Path
from typing import Any

import pytest
from joserfc.errors import JoseError

from tests.unit.domain.builders import issued

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    text = (ROOT / "docs" / "jwt.md").read_text().split("## A key of its own")[1].split("\n## ")[0]
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)  # our own text
    return names


def test_a_token_of_the_documented_lines_is_accepted_by_those_of_a_verifier(documented, tmp_path):
    view = issued({"jwt": {}}).contents["order-service-jwt"]
    file = tmp_path / "key.jwk"
    file.write_bytes(view.value("key.jwk"))
    jwks = view.value("jwks.json").decode()
    assert documented["claims_of"](documented["token"]("payment-service", file), jwks)["sub"] == "order-service"
    with pytest.raises(JoseError):
        documented["claims_of"](documented["token"]("another-service", file), jwks)
    others = issued({"jwt": {}}).contents["order-service-jwt"].value("jwks.json").decode()
    with pytest.raises((JoseError, ValueError)):
        documented["claims_of"](documented["token"]("payment-service", file), others)
