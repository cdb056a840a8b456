"""Schema and parser agree on what a pattern of a policy is: nobody is told by a condition what the API server could say."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from serviceidentity.domain.policy.patterns import ClaimPattern, EmailPattern, Glob, LabelPattern, UriPattern
from tests.contract.crds.test_crds import CRD_FILES, CRDS
from tests.controlplane import ControlPlane

pytestmark = pytest.mark.contract

LABELS = [
    *("a", "*", "**", "**.a", "*.a", "a.*", "a*", "*a", "a*b", "*a*b*", "{name}", "x-{name}-*", "{name}.{namespace}"),
    *(
        "*{serviceAccount}.a",
        "a.**",
        "**a",
        "a**",
        "***",
        "**.**",
        "*.**",
        "a..b",
        ".a",
        "a.",
        "",
        "{pod}",
        "{name",
        "name}",
    ),
    *("{name}{namespace}", "{name}-{namespace}.a", "{name}*{namespace}", "{{name}}", "**.{name}.a", "**..a", "{Name}"),
]
TEXTS: dict[str, tuple[Callable[[str], object], list[str]]] = {
    "dnsNames": (LabelPattern.of, LABELS),
    "commonNames": (LabelPattern.of, [*LABELS, "Order service *", "Ördér {name}", "a\tb"]),
    "uris": (
        UriPattern.of,
        [
            *("https://example.org", "https://example.org/", "https://*.example.org/*", "https://**.example.org/a*/**"),
            *("https://**", "https://example.org/**", "https://example.org/a*/*b/**", "urn:a:*", "urn:{name}", "a:b"),
            *(
                "https://{name}.{namespace}/",
                "https://{name}.a/{namespace}/{serviceAccount}",
                "https://example.org:1/a?b=*",
            ),
            *("example.org/a", "*://a", "{name}:a", "https://a/**/b", "https://a/b**", "https://a/***", "https://**a/"),
            *("https://a/{name}{namespace}", "https://a/{name}.{namespace}", "urn:{name}.{namespace}", "https://a/{x}"),
            *(
                "https://a/ b",
                "https://a/ä",
                "https://{name}-{namespace}/",
                "https://a/{name}",
                "",
                "https:",
                "https://a//b",
            ),
        ],
    ),
    "emailAddresses": (
        EmailPattern.of,
        [
            *("a@b", "*@b", "{name}@b", "*{name}@b", "{name}*@b", "a*b*@b", "{name}@{namespace}.b", "a@**.b", "a@*.b"),
            *(
                "a",
                "@b",
                "a@",
                "a@b@c",
                "**@b",
                "{name}.{namespace}@b",
                "{name}{name}@b",
                "a@{name}{namespace}",
                "{x}@b",
            ),
            *("a b@c", "{name}@{namespace}.{serviceAccount}.b"),
        ],
    ),
    **dict.fromkeys(
        ("audiences", "permissions", "roles"),
        (
            ClaimPattern.of,
            [
                *(
                    "a",
                    "*",
                    "**",
                    "a:*",
                    "a:**",
                    "a*:**",
                    "*/**",
                    "a.b/c:d",
                    "{name}:*",
                    "{namespace}/{name}.*",
                    "a..b",
                ),
                *("x-{name}*", "https://*.example.org/**", ":", "**:a", "a**", "a:b**", "***", "a:***", "*:**:*", ""),
                *("{name}{name}", "{namespace}-{name}", "{pod}", "{name", "a}", "a b", "ä", "{na:me}", "a\tb", "|~!"),
            ],
        ),
    ),
    "names": (Glob.of, ["a", "*", "a-*", "*-a", "a*b", "**", "a**b", "{name}x{name}"]),
}

BLOCKS = {"names": "namespaces"} | dict.fromkeys(("audiences", "permissions", "roles"), "tokens")


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> ControlPlane:
    control_plane.kubectl("apply", "--server-side", "--kustomize", str(CRDS))
    names = [yaml.safe_load(file.read_text())["metadata"]["name"] for file in CRD_FILES]
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", *names)
    return control_plane


def is_read(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("field", TEXTS)
def test_what_the_schema_lets_through_the_parser_takes_and_the_other_way_round(plane: ControlPlane, field: str) -> None:
    read, texts = TEXTS[field]
    listed: dict[str, Any] = {field: texts}
    manifest = {
        "apiVersion": "serviceidentity.dev/v1alpha1",
        "kind": "TrustDomain",
        "metadata": {"name": "example"},
        "spec": {
            "trustDomain": "example.org",
            "policy": {block: listed} if (block := BLOCKS.get(field)) else listed,
        },
    }

    arguments = ("apply", "--dry-run=server", "--filename", "-")
    refused = plane.kubectl(*arguments, input=json.dumps(manifest), check=False).stderr

    indexes = {int(found) for found in re.findall(rf"{field}\[(\d+)\]: ", refused)}
    assert indexes, refused
    assert [text for index, text in enumerate(texts) if index not in indexes] == [
        text for text in texts if is_read(read, text)
    ]
