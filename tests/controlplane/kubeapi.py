"""Talking to an API server without a client library: requests, kubeconfigs, metrics."""

import json
import os
import re
import ssl
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Final

CONTEXT: Final = "sio-local"
WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE", "APPLY"})

_OURS: Final = "/apis/serviceidentity.dev/v1alpha1"
_KINDS: Final = {
    "sid": (_OURS, "serviceidentities", True),
    "ap": (_OURS, "accesspolicies", True),
    "td": (_OURS, "trustdomains", False),
    "vc": (_OURS, "vaultconnections", False),
    "secret": ("/api/v1", "secrets", True),
    "secrets": ("/api/v1", "secrets", True),
    "configmap": ("/api/v1", "configmaps", True),
    "configmaps": ("/api/v1", "configmaps", True),
}

_SAMPLE: Final = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="(.*?)"')


def fetch(url: str, ca_file: Path, token: str, timeout: float = 10) -> str:
    """Return the body of a GET. Raises OSError (urllib.error.HTTPError is one) for anything but success."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    trust = ssl.create_default_context(cafile=str(ca_file))
    with urllib.request.urlopen(request, timeout=timeout, context=trust) as answer:
        return str(answer.read().decode())


def post_json(url: str, body: dict[str, Any], ca_file: Path | None = None, token: str = "") -> Any:
    """Return the decoded answer to a POST of `body`. Raises OSError for anything but success."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    trust = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
    with urllib.request.urlopen(request, timeout=30, context=trust) as answer:
        return json.loads(answer.read())


def path_of(kind: str, *arguments: str) -> str | None:
    """Return the path for `kubectl get KIND [NAME] [--namespace=N] [--selector=S] [--all-namespaces]`.

    None when that is no kind, or no option, of those that tests read all the time.
    """
    names = [text for text in arguments if not text.startswith("-")]
    options = dict(text.lstrip("-").partition("=")[::2] for text in arguments if text.startswith("-"))
    if kind not in _KINDS or len(names) > 1 or not options.keys() <= {"namespace", "n", "selector", "all-namespaces"}:
        return None
    prefix, plural, namespaced = _KINDS[kind]
    if namespaced and "all-namespaces" not in options:
        prefix += f"/namespaces/{options.get('namespace') or options.get('n') or 'default'}"
    query = "?" + urllib.parse.urlencode({"labelSelector": options["selector"]}) if "selector" in options else ""
    return "/".join([prefix, plural, *names]) + query


def write_private(path: Path, content: bytes) -> Path:
    """Write a file that nobody but its owner may read, from its first moment on; return its path."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    return path


def write_kubeconfig(path: Path, url: str, ca_file: Path, token: str) -> Path:
    """Write a kubeconfig with one context, named sio-local, that shows `token`; return its path."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": {"server": url, "certificate-authority": str(ca_file)}}],
        "users": [{"name": CONTEXT, "user": {"token": token}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "current-context": CONTEXT,
    }
    return write_private(path, json.dumps(config).encode())


def count_writes(metrics: str, *, failed_too: bool = False) -> Counter[tuple[str, str, str]]:
    """Return how many writes an API server's metrics tell of, by verb, resource and subresource.

    Dry runs do not count, nor, unless `failed_too`, what was not answered with a 2xx code.
    """
    writes: Counter[tuple[str, str, str]] = Counter()
    for labels, value in _SAMPLE.findall(metrics):
        of = dict(_LABEL.findall(labels))
        if of["verb"] in WRITES and not of["dry_run"] and (failed_too or of["code"].startswith("2")):
            writes[of["verb"], of["resource"], of["subresource"]] += int(float(value))
    return writes
