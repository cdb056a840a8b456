"""python -m examples.shop.run [--keep]: the whole shop on this machine. Exits non-zero if a step fails."""

import argparse
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Final

import httpx
import psycopg

from examples.demo.screen import Screen
from examples.shop.run.bed import SERVICES, Bed, shop
from examples.shop.run.customers import PASSWORDS, RefusedError
from examples.shop.run.platform import NAMESPACE
from examples.shop.run.steps import PARTS
from tests.controlplane import KubectlError, MissingProgramError, NotOursError, NotReadyError, UnnamedContextError
from tests.controlplane.binaries import beside_python

# What a part may end with when something does not do as it should.
BROKEN: Final = (
    *(KubectlError, NotReadyError, MissingProgramError, psycopg.Error, RefusedError, httpx.HTTPError),
    *(OSError, LookupError, ValueError, subprocess.SubprocessError),
)


def main() -> int:
    """Run the demo. Return 0 when every step went as it should, 1 when one failed, 130 when it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m examples.shop.run", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave it running at the end, until Ctrl-C")
    given = parser.parse_args()
    screen, started = Screen(), time.monotonic()
    screen.head("The shop comes up")
    try:
        with shop(screen.say) as bed:
            pods = len(bed.node.pods(namespace=NAMESPACE))
            detail = f"{pods} Pods of {', '.join(SERVICES)}, after {time.monotonic() - started:.0f} s"
            screen.step("all Deployments are available", True, detail)
            # After the last part no service works any more.
            screen.play(PARTS[:-1] if given.keep else PARTS, bed, BROKEN)
            screen.table()
            screen.say(f"in {time.monotonic() - started:.0f} s")
            if given.keep:
                keep(bed, screen)
    except KeyboardInterrupt:
        print("\ninterrupted; everything is stopped", flush=True)
        return 130
    except (*BROKEN, UnnamedContextError, NotOursError) as error:
        print(f"\nthe shop could not start: {error}", file=sys.stderr)
        return 1
    return 0 if screen.all_ok else 1


def keep(bed: Bed, screen: Screen) -> None:
    """Say how to play with it, and wait for Ctrl-C, which is no failure here."""
    storefront = bed.storefront()
    roots = bed.plane.directory / "trust.pem"
    roots.write_bytes(bed.files("storefront-tls")["ca.crt"])
    host, _, port = storefront.address.rpartition(":")
    screen.head("It goes on running, with lifetimes of seconds; Ctrl-C ends it. In another terminal:")
    screen.say(f"export KUBECONFIG={bed.plane.admin_kubeconfig}")
    if shutil.which("kubectl") is None:
        screen.say(f"export PATH=$PATH:{beside_python('kubectl').parent}")
    ask = f"curl --cacert {roots} --resolve {storefront.name}:{port}:{host} https://{storefront.name}:{port}"
    screen.say(
        "kubectl get sid,accesspolicies,deployments,pods -n shop\n"
        "kubectl sid status order-service -n shop\n"
        f"{ask}/login -H 'content-type: application/json' "
        f"""-d '{{"username": "alice", "password": "{PASSWORDS["alice"]}"}}'\n"""
        f'{ask}/stock -H "authorization: Bearer $TOKEN"   # access_token, good for 10 s\n'
        'kubectl patch accesspolicy payments -n shop --type=merge -p \'{"spec": {"timeZone": "Etc/GMT-12"}}\'\n'
        "tail -f " + " ".join(str(path) for path in bed.node.log(SERVICES[1], NAMESPACE))
    )
    with suppress(KeyboardInterrupt):
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
