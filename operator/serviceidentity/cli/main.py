"""The command `kubectl-sid`: on the PATH, kubectl finds it as `kubectl sid`."""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from serviceidentity.adapters.kube.client import KubeClient
from serviceidentity.cli import commands, encryption, policy, verify
from serviceidentity.config import DEFAULT_NAMESPACE
from serviceidentity.domain.encryption.parse import is_secret_key
from serviceidentity.domain.encryption.ring import KeyRing
from serviceidentity.domain.encryption.values import Scope
from serviceidentity.domain.pki.crl import REASONS
from serviceidentity.errors import PortError

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of an object")
    return text


def _where(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add what every command takes: which cluster and namespace."""
    parser.add_argument("--kubeconfig", default=default, help="default: $KUBECONFIG, else ~/.kube/config")
    parser.add_argument("--context", default=default, help="of the kubeconfig; default: its current one")
    parser.add_argument("-n", "--namespace", type=_name, default=default, help="default: that of the context")


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    top = argparse.ArgumentParser(prog="kubectl sid", description="Service identities and their authorities.")
    _where(top, default=None)
    # As with kubectl they may also stand after the command; there nothing is the default, or it would hide these.
    common = argparse.ArgumentParser(add_help=False)
    _where(common, default=argparse.SUPPRESS)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="command")

    text = "what each credential is, and what happens next"
    status = verbs.add_parser("status", help=text, description=text, parents=[common])
    status.add_argument("name", nargs="?", type=_name, help="of a ServiceIdentity; default: all of the namespace")
    status.add_argument("-A", "--all-namespaces", action="store_true", help="the identities of all namespaces")

    text = "new credentials now"
    rotate = verbs.add_parser("rotate", help=text, description=text, parents=[common])
    rotate.add_argument("name", type=_name, help="of a ServiceIdentity")

    text = "a new certificate with a new key now, the old ones on the revocation list; or --jwt"
    revoke = verbs.add_parser("revoke", help=text, description=text, parents=[common])
    revoke.add_argument("name", type=_name, help="of a ServiceIdentity")
    reasons = ", ".join(sorted(REASONS))
    what = revoke.add_mutually_exclusive_group()
    what.add_argument(
        "--reason", choices=sorted(REASONS), metavar="REASON", help=f"as RFC 5280 names it: {reasons}; default: none"
    )
    what.add_argument(
        "--jwt",
        action="store_true",
        help="a new signing key for its own tokens instead, the old ones out of its JWK Set; the certificate stays",
    )

    _encryption(verbs, common)
    verify.add_commands(verbs, common, _name, os.environ.get("SIO_AUTHORITY_NAMESPACE") or DEFAULT_NAMESPACE)

    policy.add_commands(verbs, common)

    ca = verbs.add_parser("ca", help="the authorities of a TrustDomain", parents=[common])
    steps = ca.add_subparsers(dest="step", required=True, metavar="step")
    for name, text in (
        ("status", "every authority with its state, dates and fingerprint, and every condition"),
        ("prepare", "make a new root; it signs when everyone has had it for the propagation time"),
        ("rotate", "make a new intermediate; it signs after the propagation time"),
        ("activate", "let what is prepared and published sign now"),
        ("rewrap", "encrypt the private keys anew, with the newest key-encryption key; nothing is re-issued"),
        ("rotate-jwt", "make a new token key; it signs when everyone has had it for its lead"),
        ("revoke-jwt", "make a new token key that signs at once; whatever the earlier ones signed is refused"),
        ("taint", "replace everything under an authority, then remove it"),
        ("untaint", "take a taint back"),
    ):
        step = steps.add_parser(name, help=text, description=text, parents=[common])
        step.add_argument("trust_domain", type=_name, metavar="trust-domain", help="name of a TrustDomain")
        if name in ("taint", "untaint"):
            step.add_argument("authority", help="name of its Secret, or its fingerprint, as `ca status` shows them")
        if name == "taint":
            step.add_argument("--revoke", action="store_true", help="refuse whoever still has a certificate under it: "
                              "a root leaves the trust bundle at once, an intermediate goes on its root's revocation "
                              "list")  # fmt: skip
    return top


def _encryption(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    """Add the commands about encrypted values."""
    where = argparse.ArgumentParser(add_help=False, parents=[common])
    where.add_argument(
        "--operator-namespace",
        type=_name,
        default=os.environ.get("SIO_AUTHORITY_NAMESPACE") or DEFAULT_NAMESPACE,
        help=f"where the operator runs; default: $SIO_AUTHORITY_NAMESPACE, else {DEFAULT_NAMESPACE}",
    )
    text = "encrypt a value, read from standard input as it is, for spec.encrypted of one ServiceIdentity"
    encrypt = verbs.add_parser("encrypt", help=text, description=text, parents=[where])
    encrypt.add_argument("identity", type=_identity, metavar="NAMESPACE/NAME", help="the ServiceIdentity")
    encrypt.add_argument("key", type=_key, metavar="KEY", help="the key of the value in the Secret")
    way = encrypt.add_mutually_exclusive_group()
    way.add_argument("--public-key", type=Path, metavar="FILE", help="PEM, from `encryption-key show`; default: ask")
    way.add_argument(
        "--master-key-file", type=Path, metavar="FILE", help="encrypt in the symmetric form, bound to nothing"
    )

    text = "encrypt the values in manifests with the newest key, in place; needs the private keys"
    rekey = verbs.add_parser("rekey", help=text, description=text, parents=[where])
    rekey.add_argument("files", type=Path, nargs="+", metavar="FILE", help="manifests in YAML")
    rekey.add_argument("--keys", type=Path, metavar="FILE", help="keys.json of the operator's Secret; default: read it")
    rekey.add_argument(
        "--master-key-file", type=Path, metavar="FILE", help="for symmetric values, which are left alone without"
    )
    rekey.add_argument("--convert", action="store_true", help="make symmetric values asymmetric ones")

    text = "the key that values are encrypted with"
    key = verbs.add_parser("encryption-key", help=text, description=text, parents=[where])
    key.add_argument("step", choices=("show", "rotate"), help="show: print it in PEM; rotate: ask for a new one")


def _identity(text: str) -> tuple[str | None, str]:
    namespace, slash, name = text.rpartition("/")
    return (_name(namespace) if slash else None), _name(name)


def _key(text: str) -> str:
    if not is_secret_key(text):
        raise argparse.ArgumentTypeError(f"{text!r} can't be a key of a Secret")
    return text


def kubeconfig(given: str | None) -> str:
    """Return the path of the kubeconfig to use, several as $KUBECONFIG has them. Raises UsageError without any."""
    paths = given or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    found = [path for path in paths.split(os.pathsep) if path and Path(path).is_file()]
    if not found:
        raise commands.UsageError(f"no usable kubeconfig: {paths} does not exist")
    return os.pathsep.join(found)


@asynccontextmanager
async def connected(arguments: argparse.Namespace) -> AsyncIterator[tuple[KubeClient, str]]:
    """Connect to the cluster that is asked for; yields the client and the namespace. Raises UsageError, PortError."""
    path = kubeconfig(arguments.kubeconfig)
    context, own_namespace = commands.context_of(path, arguments.context)
    client = await KubeClient.connect(path, context)
    try:
        yield client, arguments.namespace or own_namespace
    finally:
        await client.close()


async def run(arguments: argparse.Namespace) -> str:
    """Carry the command out and return what to print. Raises PortError and commands.UsageError."""
    if (answer := _offline(arguments)) is not None:
        return answer
    async with connected(arguments) as (client, namespace):
        match arguments.verb:
            case "status":
                return await commands.status(client, None if arguments.all_namespaces else namespace, arguments.name)
            case "rotate":
                return await commands.rotate(client, namespace, arguments.name)
            case "revoke":
                return await _revoke(client, namespace, arguments)
            case "encrypt" | "rekey" | "encryption-key":
                return await _about_encryption(client, arguments, namespace)
            case _:
                return await _authority(client, arguments)


def _offline(arguments: argparse.Namespace) -> str | None:
    """Do what needs no cluster; None when one is needed."""
    if arguments.verb == "encrypt" and (arguments.public_key or arguments.master_key_file):
        namespace = arguments.identity[0] or arguments.namespace
        if namespace is not None:
            return _encrypt(arguments, namespace, None)
    if arguments.verb == "rekey" and arguments.keys:
        return _rekey(arguments, encryption.read_ring(arguments.keys), arguments.namespace)
    return None


def _encrypt(arguments: argparse.Namespace, namespace: str, published: bytes | None) -> str:
    if sys.stdin.isatty():
        print("type the value, then Ctrl-D", file=sys.stderr)  # noqa: T201
    value = sys.stdin.buffer.read()
    if value.endswith(b"\n"):
        print("note: the value ends with a line end, which is encrypted too", file=sys.stderr)  # noqa: T201
    if arguments.master_key_file:
        return encryption.encrypt_symmetric(value, arguments.master_key_file)
    scope = Scope(namespace, arguments.identity[1], arguments.key)
    return encryption.encrypt(value, scope, published or encryption.read_file(arguments.public_key))


def _rekey(arguments: argparse.Namespace, ring: KeyRing, namespace: str | None) -> str:
    if arguments.convert and not arguments.master_key_file:
        raise commands.UsageError("--convert needs --master-key-file")
    masters = encryption.read_master_keys(arguments.master_key_file) if arguments.master_key_file else ()
    done = encryption.rekey(arguments.files, ring, masters, namespace, convert=arguments.convert)
    if done.problems:
        raise commands.UsageError("\n".join(done.problems))
    return "\n".join(done.told)


async def _revoke(client: KubeClient, namespace: str, arguments: argparse.Namespace) -> str:
    if arguments.jwt:
        return await commands.revoke_signing_key(client, namespace, arguments.name)
    return await commands.revoke(client, namespace, arguments.name, arguments.reason)


async def _about_encryption(client: KubeClient, arguments: argparse.Namespace, namespace: str) -> str:
    system = arguments.operator_namespace
    match arguments.verb:
        case "rekey":
            return _rekey(arguments, await encryption.key_ring(client, system), namespace)
        case "encrypt":
            given = arguments.public_key or arguments.master_key_file
            published = None if given else await encryption.public_key(client, system)
            return _encrypt(arguments, arguments.identity[0] or namespace, published)
    if arguments.step == "rotate":
        return await encryption.rotate(client, system)
    return (await encryption.public_key(client, system)).decode().strip()


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


def _verify(arguments: argparse.Namespace) -> int:
    """Print what came out of it. The exit code tells a refusal from what could not be found out."""
    try:
        answer, accepted = asyncio.run(verify.run(arguments, partial(connected, arguments)))
        print(answer, flush=True)  # noqa: T201
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except (PortError, commands.UsageError) as error:
        print(f"kubectl sid: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0 if accepted else 1


def _test_policy(arguments: argparse.Namespace) -> int:
    """Print the cases. The exit code tells a case that differs from files that can't be used."""
    try:
        answer, passed = policy.run(arguments)
    except commands.UsageError as error:
        print(f"kubectl sid: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(answer, flush=True)  # noqa: T201
    return 0 if passed else 1


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: prints the answer, or one line on stderr and exit code 1."""
    grammar = parser()
    arguments = grammar.parse_args(argv)
    if arguments.verb == "status" and arguments.name is not None and arguments.all_namespaces:
        grammar.error("a name is one in one namespace: leave out --all-namespaces")
    if arguments.verb == "verify":
        sys.exit(_verify(arguments))
    if arguments.verb == "policy":
        sys.exit(_test_policy(arguments))
    try:
        print(asyncio.run(run(arguments)), flush=True)  # noqa: T201  # this is what a command is for
    except BrokenPipeError:  # `| head` has seen enough; nothing is left to be written when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (PortError, commands.UsageError) as error:
        sys.exit(f"kubectl sid: {error}")


if __name__ == "__main__":
    main()
