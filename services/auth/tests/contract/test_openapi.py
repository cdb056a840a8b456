"""The OpenAPI document is true: requests made of it, right and wrong, get the answers that it lists."""

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth  # it makes up tokens; ours are right

from services.auth.tests.contract.servers import PASSWORD, bearer, elsewhere

ROOT = Path(__file__).parents[4]
PATHS = ["/login", "/refresh", "/logout", "/me", "/.well-known/jwks.json", "/healthz", "/readyz", "/metrics"]
WITH_BODY = ["/login", "/refresh", "/logout"]
NEEDS_TOKEN = ("/me", "/logout")


@pytest.fixture(scope="module")
def operations(served):
    document = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    return {found.ok().path: found.ok() for found in document.get_all_operations()}


def test_every_route_is_in_the_document(operations):
    assert sorted(operations) == sorted(PATHS)


@pytest.mark.parametrize(
    ("path", "mode"),
    [(path, GenerationMode.POSITIVE) for path in PATHS] + [(path, GenerationMode.NEGATIVE) for path in WITH_BODY],
)
def test_every_answer_is_in_the_document(served, client, operations, path, mode):
    operation, seen = operations[path], set()

    @hypothesis.settings(max_examples=25, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def run(case):
        headers = elsewhere()
        if path in NEEDS_TOKEN:
            headers |= bearer(client.login().json()["access_token"])
        seen.add(case.call_and_validate(headers=headers, excluded_checks=[ignored_auth]).status_code)

    run()
    if path in NEEDS_TOKEN:
        assert seen - {401}, "nobody got past the door"


def test_right_requests_are_answered_as_the_document_says(served, client, operations):
    login = operations["/login"].Case(body={"username": "alice", "password": PASSWORD}, media_type="application/json")
    found = login.call_and_validate(headers=elsewhere())
    assert found.status_code == 200
    token = found.json()["refresh_token"]
    refresh = operations["/refresh"].Case(body={"refresh_token": token}, media_type="application/json")
    assert refresh.call_and_validate(headers=elsewhere()).status_code == 200


@pytest.mark.parametrize("authorised", [False, True])
def test_the_command_line_of_schemathesis_finds_nothing(served, client, authorised, tmp_path):
    """All its phases and checks; what is stateful in them needs links, and the document has none."""
    command = [
        Path(sys.executable).parent / "schemathesis",
        "run",
        f"{served.url}/openapi.json",
        "--continue-on-failure",
    ]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "10"]
    if authorised:
        command += ["-H", f"Authorization: Bearer {client.login().json()['access_token']}", "--exclude-path", "/logout"]
    hooks = {"SCHEMATHESIS_HOOKS": "services.auth.tests.contract.openapi_hooks", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=os.environ | hooks, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Coverage" in done.stdout
    found = client.get("/metrics").text  # the limits were not in the way
    assert 'status="429"' not in found
