"""Whatever JSON can say, with the field names that matter at the places where they matter."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

SCALARS = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=6)


def json_values(fields: Sequence[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        SCALARS | st.sampled_from(fields),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(fields), inner, max_size=4),
        max_leaves=12,
    )


def of_schema(schema: dict[str, Any], junk: bool = True) -> st.SearchStrategy[Any]:
    """Values with the shape of an OpenAPI schema; with junk, any place may also hold something else."""
    match schema.get("type"):
        case "object" if "properties" in schema:
            fields = {name: of_schema(field, junk) for name, field in schema["properties"].items()}
            shaped: st.SearchStrategy[Any] = st.fixed_dictionaries({}, optional=fields)
        case "object":
            shaped = st.dictionaries(st.sampled_from(["team", "a/b"]), st.text(max_size=3), max_size=2)
        case "array":
            shaped = st.lists(of_schema(schema["items"], junk), max_size=3)
        case "boolean":
            shaped = st.booleans()
        case "integer":
            shaped = st.sampled_from([0, 1, 50, 99, 100, 256, 384, 521, 1024, 2048, -1])
        case _ if "enum" in schema:
            shaped = st.sampled_from(schema["enum"])
        case _:
            shaped = st.sampled_from(
                [
                    "",
                    "a",
                    "orders",
                    "*",
                    "a.example",
                    "10.0.0.1",
                    "https://a.example/b",
                    "NL",
                    "0s",
                    "1s",
                    "10m",
                    "1h",
                    "24h",
                    "720h",
                    "9000h",
                    "900000h",
                    "1d",
                    "-1h",
                    "1.5h",
                    "\n",
                ]
            )
    return shaped | SCALARS if junk else shaped
