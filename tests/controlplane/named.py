"""A cluster that the user named, in place of our own: never guessed, never the default kubeconfig."""

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.controlplane.binaries import beside_python

KUBECONFIG: Final = "SIO_TEST_KUBECONFIG"
CONTEXT: Final = "SIO_TEST_CONTEXT"


class UnnamedContextError(RuntimeError):
    """A cluster of the user's must be named twice, its kubeconfig and its context, and be usable."""


@dataclass(frozen=True)
class NamedCluster:
    """What a kubeconfig's context says. The token is empty where the user proves who they are in another way."""

    kubeconfig: Path
    context: str
    url: str
    ca: bytes
    token: str = field(repr=False)


def named_cluster(environment: Mapping[str, str] = os.environ) -> NamedCluster | None:
    """Return the cluster that the environment names; None when it names none.

    Raises UnnamedContextError when only half of a name is there, or the kubeconfig has no such context.
    """
    path, context = environment.get(KUBECONFIG), environment.get(CONTEXT)
    if not path and not context:
        return None
    if not path or not context:
        there, missing = (KUBECONFIG, CONTEXT) if path else (CONTEXT, KUBECONFIG)
        raise UnnamedContextError(f"{there} needs {missing} beside it: no context is used that was not named")
    kubeconfig = Path(path).resolve()
    view = subprocess.run(
        [
            *(str(beside_python("kubectl")), f"--kubeconfig={kubeconfig}", f"--context={context}"),
            *("config", "view", "--raw", "--minify", "--flatten", "--output=json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if view.returncode:
        raise UnnamedContextError(f"{kubeconfig} has no usable context {context}")
    config = json.loads(view.stdout)
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    if not cluster.get("certificate-authority-data"):
        raise UnnamedContextError(f"context {context} does not say which certificate authority to trust")
    ca = base64.b64decode(cluster["certificate-authority-data"])
    return NamedCluster(kubeconfig, context, cluster["server"], ca, user.get("token", ""))
