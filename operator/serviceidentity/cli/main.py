"""The command `kubectl-sid`: on the PATH, kubectl finds it as `kubectl sid`."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from serviceidentity.adapters.kube.client import KubeClient
from serviceidentity.cli import commands
from serviceidentity.errors import PortError


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    top = argparse.ArgumentParser(prog="kubectl sid", description="Service identities and their authorities.")
    top.add_argument("--kubeconfig", help="default: $KUBECONFIG, else ~/.kube/config")
    top.add_argument("--context")
    top.add_argument("-n", "--namespace", help="default: that of the context")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="command")

    status = verbs.add_parser("status", help="what each credential is, and what happens next")
    status.add_argument("name", nargs="?", help="of a ServiceIdentity; default: all of the namespace")
    status.add_argument("-A", "--all-namespaces", action="store_true")

    rotate = verbs.add_parser("rotate", help="new credentials now")
    rotate.add_argument("name", help="of a ServiceIdentity")

    ca = verbs.add_parser("ca", help="the authorities of a TrustDomain")
    steps = ca.add_subparsers(dest="step", required=True, metavar="step")
    for name, text in (
        ("status", "every authority with its state, dates and fingerprint"),
        ("prepare", "make a new root; it signs when everyone has had it for the propagation time"),
        ("rotate", "make a new intermediate; it signs after the propagation time"),
        ("activate", "let what is prepared and published sign now"),
        ("taint", "replace everything under an authority, then remove it"),
        ("untaint", "take a taint back"),
    ):
        step = steps.add_parser(name, help=text)
        step.add_argument("trust_domain", metavar="trust-domain")
        if name in ("taint", "untaint"):
            step.add_argument("authority", help="name of its Secret, or its fingerprint, as `ca status` shows them")
        if name == "taint":
            step.add_argument("--revoke", action="store_true", help="out of the trust bundle at once: whoever still "
                              "has a certificate under it is refused")  # fmt: skip
    return top


def kubeconfig(given: str | None) -> str:
    """Return the path of the kubeconfig to use. Raises UsageError when it is not there."""
    path = (given or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")).split(os.pathsep)[0]
    if not Path(path).is_file():
        raise commands.UsageError(f"no usable kubeconfig: {path} does not exist")
    return path


async def run(arguments: argparse.Namespace) -> str:
    """Carry the command out and return what to print. Raises PortError and commands.UsageError."""
    path = kubeconfig(arguments.kubeconfig)
    client = await KubeClient.connect(path, arguments.context)
    try:
        namespace = arguments.namespace or commands.context_namespace(path, arguments.context)
        match arguments.verb:
            case "status":
                return await commands.status(client, None if arguments.all_namespaces else namespace, arguments.name)
            case "rotate":
                return await commands.rotate(client, namespace, arguments.name)
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
    arguments = parser().parse_args(argv)
    try:
        print(asyncio.run(run(arguments)))  # noqa: T201  # this is what a command is for
    except (PortError, commands.UsageError) as error:
        sys.exit(f"kubectl sid: {error}")


if __name__ == "__main__":
    main()
