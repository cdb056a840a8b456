"""What needs an extra says which; the rest does without."""

import subprocess
import sys

import pytest

BLOCK = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"starlette", "fastapi", "httpx", "redis", "http_message_signatures", "uvicorn"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
"""


def imported(module):
    return subprocess.run(
        [sys.executable, "-c", f"{BLOCK}\nimport {module}"], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", ["requests", "jwt", "asgi", "principal"])
def test_middlewares_signers_and_verifiers_need_no_extra(module):
    assert imported(f"serviceidentity_sdk.{module}").returncode == 0


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("requests.client", "httpx"),
        ("requests.replay_redis", "redis"),
        ("requests.message_signatures", "http-signatures"),
        ("jwt.exchange", "httpx"),
    ],
)
def test_what_needs_an_extra_names_it(module, extra):
    found = imported(f"serviceidentity_sdk.{module}").stderr
    assert "pip install 'serviceidentity-sdk[" in found and extra in found.rsplit("[", 1)[1]
