"""What a container's manifest means on this machine: its command and environment. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.controlplane.node.api import Object

_VARIABLE: Final = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")
_LABEL: Final = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_SERVICE: Final = re.compile(
    rf"(?<![\w.-])(?P<name>{_LABEL})\.(?P<namespace>{_LABEL})\.svc(?:\.cluster\.local)?(?![\w-])(?!\.\w)"
)
_MAP_KEY: Final = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")
_FIELDS: Final[dict[str, Callable[[Object], str]]] = {
    "metadata.name": lambda pod: str(pod["metadata"]["name"]),
    "metadata.namespace": lambda pod: str(pod["metadata"]["namespace"]),
    "metadata.uid": lambda pod: str(pod["metadata"]["uid"]),
    "spec.nodeName": lambda pod: str(pod["spec"]["nodeName"]),
    "spec.serviceAccountName": lambda pod: str(pod["spec"].get("serviceAccountName", "default")),
    "status.podIP": lambda pod: str(pod["status"]["podIP"]),
    "status.podIPs": lambda pod: str(pod["status"]["podIP"]),
    "status.hostIP": lambda pod: str(pod["status"]["hostIP"]),
}

# Returns the content of a Secret or ConfigMap, by kind and name; None when it is not there.
Contents = Callable[[str, str], Mapping[str, bytes] | None]


class NotSupportedError(Exception):
    """The manifest asks for what a node without containers does not have."""


@dataclass(frozen=True)
class Surroundings:
    """What is elsewhere here than in a container: directories by mount path, and how Services are found."""

    mounts: Mapping[str, Path]
    host: Callable[[str, str], str | None]

    def here(self, text: str) -> str:
        """Return the text with mount paths and names of Services (`web.shop.svc`) as they are on this machine."""
        for mount in sorted(self.mounts, key=len, reverse=True):
            pattern = rf"(?<![\w./-]){re.escape(mount.rstrip('/'))}(?![\w.-])"
            text = re.sub(pattern, str(self.mounts[mount]).replace("\\", r"\\"), text)
        return _SERVICE.sub(self._address, text)

    def _address(self, found: "re.Match[str]") -> str:
        return self.host(found["name"], found["namespace"]) or found.group()


def entrypoint(image: str, images: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Return the command that stands for an image: by its name without tag and digest, else by that name's last part."""
    name = re.sub(r":[^/:]+$", "", image.partition("@")[0])
    found = images.get(name, images.get(name.rpartition("/")[2]))
    return None if found is None else list(found)


def command(container: Object, entry: Sequence[str], variables: Mapping[str, str], around: Surroundings) -> list[str]:
    """Return the arguments to run: the manifest's command or else the image's, and the manifest's args."""

    def here(parts: Sequence[str] | None) -> list[str]:
        return [around.here(expand(part, variables)) for part in parts or []]

    return [*(here(container.get("command")) or entry), *here(container.get("args"))]


def environment(container: Object, pod: Object, lookup: Contents, around: Surroundings) -> dict[str, str]:
    """Return a container's variables. `lookup` gives the content of a Secret or ConfigMap by kind and name.

    Raises LookupError, with what is missing, and NotSupportedError.
    """
    found: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        kind = "Secret" if "secretRef" in source else "ConfigMap"
        reference = source["secretRef" if kind == "Secret" else "configMapRef"]
        content = lookup(kind, reference["name"])
        if content is None and not reference.get("optional"):
            raise LookupError(f"{kind} {reference['name']} not found")
        found |= {source.get("prefix", "") + key: value.decode() for key, value in (content or {}).items()}
    for variable in container.get("env") or []:
        if "valueFrom" not in variable:
            found[variable["name"]] = expand(variable.get("value", ""), found)
        elif (value := _value_from(variable["valueFrom"], pod, lookup)) is not None:
            found[variable["name"]] = value
    return {name: around.here(value) for name, value in found.items()}


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return the text with each $(NAME) replaced, as the kubelet does: $$ is a $, what is unknown stays as it is."""
    return _VARIABLE.sub(lambda m: "$" if m.group() == "$$" else variables.get(m[1], m.group()), text)


def field_of(pod: Object, path: str) -> str:
    """Return a field of the Pod for the downward API. Raises NotSupportedError."""
    if path in _FIELDS:
        return _FIELDS[path](pod)
    if key := _MAP_KEY.fullmatch(path):
        return str((pod["metadata"].get(key[1]) or {}).get(key[2], ""))
    raise NotSupportedError(f"fieldRef {path}")


def _value_from(source: Object, pod: Object, lookup: Contents) -> str | None:
    if "fieldRef" in source:
        return field_of(pod, source["fieldRef"]["fieldPath"])
    for kind, word in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
        if reference := source.get(word):
            content = lookup(kind, reference["name"])
            if content is not None and reference["key"] in content:
                return content[reference["key"]].decode()
            if reference.get("optional"):
                return None
            missing = "not found" if content is None else f"has no key {reference['key']}"
            raise LookupError(f"{kind} {reference['name']} {missing}")
    raise NotSupportedError(f"valueFrom {', '.join(sorted(source))}")
