"""The command `kubectl-sid`: on the PATH, kubectl finds it as `kubectl sid`."""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from serviceidentity.adapters.kube.client import KubeClient
from serviceidentity.cli import commands
from serviceidentity.domain.pki.crl import REASONS
from serviceidentity.errors import PortError

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of an object")
    return text


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    top = argparse.ArgumentParser(prog="kubectl sid", description="Service identities and their authorities.")
    top.add_argument("--kubeconfig", help="default: $KUBECONFIG, else ~/.kube/config")
    top.add_argument("--context")
    top.add_argument("-n", "--namespace", type=_name, help="default: that of the context")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="command")

    status = verbs.add_parser("status", help="what each credential is, and what happens next")
    status.add_argument("name", nargs="?", type=_name, help="of a ServiceIdentity; default: all of the namespace")
    status.add_argument("-A", "--all-namespaces", action="store_true")

    rotate = verbs.add_parser("rotate", help="new credentials now")
    rotate.add_argument("name", type=_name, help="of a ServiceIdentity")

    revoke = verbs.add_parser(
        "revoke", help="a new certificate with a new key now, the old ones on the revocation list"
    )
    revoke.add_argument("name", type=_name, help="of a ServiceIdentity")
    revoke.add_argument("--reason", choices=sorted(REASONS), help="as RFC 5280 names it; default: none")

    ca = verbs.add_parser("ca", help="the authorities of a TrustDomain")
    steps = ca.add_subparsers(dest="step", required=True, metavar="step")
    for name, text in (
        ("status", "every authority with its state, dates and fingerprint"),
        ("prepare", "make a new root; it signs when everyone has had it for the propagation time"),
        ("rotate", "make a new intermediate; it signs after the propagation time"),
        ("activate", "let what is prepared and published sign now"),
        ("rewrap", "encrypt the private keys anew, with the newest key-encryption key; nothing is re-issued"),
        ("taint", "replace everything under an authority, then remove it"),
        ("untaint", "take a taint back"),
    ):
        step = steps.add_parser(name, help=text)
        step.add_argument("trust_domain", type=_name, metavar="trust-domain")
        if name in ("taint", "untaint"):
            step.add_argument("authority", help="name of its Secret, or its fingerprint, as `ca status` shows them")
        if name == "taint":
            step.add_argument("--revoke", action="store_true", help="refuse whoever still has a certificate under it: "
                              "a root leaves the trust bundle at once, an intermediate goes on its root's revocation "
                              "list")  # fmt: skip
    return top


def kubeconfig(given: str | None) -> str:
    """Return the path of the kubeconfig to use, several as $KUBECONFIG has them. Raises UsageError without any."""
    paths = given or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    found = [path for path in paths.split(os.pathsep) if path and Path(path).is_file()]
    if not found:
        raise commands.UsageError(f"no usable kubeconfig: {paths} does not exist")
    return os.pathsep.join(found)


async def run(arguments: argparse.Namespace) -> str:
    """Carry the command out and return what to print. Raises PortError and commands.UsageError."""
    path = kubeconfig(arguments.kubeconfig)
    context, own_namespace = commands.context_of(path, arguments.context)
    client = await KubeClient.connect(path, context)
    try:
        namespace = arguments.namespace or own_namespace
        match arguments.verb:
            case "status":
                return await commands.status(client, None if arguments.all_namespaces else namespace, arguments.name)
            case "rotate":
                return await commands.rotate(client, namespace, arguments.name)
            case "revoke":
                return await commands.revoke(client, namespace, arguments.name, arguments.reason)
            case _:
                return await _authority(client, arguments)
    finally:
        await client.close()


async def _authority(client: KubeClient, arguments: argparse.Namespace) -> str:
    domain = arguments.trust_domain
    match arguments.step:
        case "status":
            return await commands.ca_status(client, domain)
        case "taint":
            return await commands.taint(client, domain, arguments.authority, at_once=arguments.revoke)
        case "untaint":
            return await commands.untaint(client, domain, arguments.authority)
        case step:
            return await commands.ask(client, domain, step)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: prints the answer, or one line on stderr and exit code 1."""
    grammar = parser()
    arguments = grammar.parse_args(argv)
    if arguments.verb == "status" and arguments.name is not None and arguments.all_namespaces:
        grammar.error("a name is one in one namespace: leave out --all-namespaces")
    try:
        print(asyncio.run(run(arguments)))  # noqa: T201  # this is what a command is for
    except (PortError, commands.UsageError) as error:
        sys.exit(f"kubectl sid: {error}")


if __name__ == "__main__":
    main()
