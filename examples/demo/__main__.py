"""python -m examples.demo [--keep]: the operator at work on a real control plane. Exits non-zero if a step fails."""

import argparse
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from typing import Final

import psycopg

from examples.demo.screen import Screen
from examples.demo.shop import Shop
from examples.demo.steps import PARTS
from tests.controlplane import (
    ControlPlane,
    KubectlError,
    MissingProgramError,
    NotReadyError,
    UnnamedContextError,
    start_control_plane,
)
from tests.controlplane.binaries import beside_python
from tests.controlplane.openbao import ACTIVE
from tests.controlplane.operator import NAMESPACE, SERVICE_ACCOUNT, install

# What a part may end with when the cluster or the operator does not do as it should.
BROKEN: Final = (
    *(KubectlError, NotReadyError, MissingProgramError, psycopg.Error),
    *(OSError, LookupError, ValueError, subprocess.SubprocessError),
)


def main() -> int:
    """Run the demo. Return 0 when every step went as it should, 1 when one failed, 130 when it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave it running at the end, until Ctrl-C")
    given = parser.parse_args()
    screen, started = Screen(), time.monotonic()
    try:
        with ExitStack() as stack:
            screen.head("A control plane")
            screen.say("starting etcd, kube-apiserver, kube-controller-manager and OpenBao ...")
            plane = stack.enter_context(start_control_plane(openbao=True))
            shop = install_in(plane, screen)
            stack.callback(shop.operator.stop)
            shop.operator.start()
            screen.step("operator is at work", True, f"as service account {NAMESPACE}/{SERVICE_ACCOUNT}")
            screen.play(PARTS, shop, BROKEN)
            screen.table()
            screen.say(f"in {time.monotonic() - started:.0f} s")
            if given.keep:
                keep(plane, screen)
    except KeyboardInterrupt:
        print("\ninterrupted; everything is stopped", flush=True)
        return 130
    except (*BROKEN, UnnamedContextError) as error:
        print(f"\nthe demo could not start: {error}", file=sys.stderr)
        return 1
    return 0 if screen.all_ok else 1


def install_in(plane: ControlPlane, screen: Screen) -> Shop:
    """Install the CRDs and the operator's rights. Raises KubectlError when that is not possible."""
    screen.step("control plane is up", plane.ready(), ", ".join(plane.pids()))
    bao = plane.openbao is not None and plane.openbao.health() == ACTIVE
    screen.step("OpenBao is up", bao, "initialised and unsealed")
    install(plane)
    screen.step("CRDs and rights are installed", True, "from crds/ and deploy/")
    return Shop(plane)


def keep(plane: ControlPlane, screen: Screen) -> None:
    """Say how to play with it, and wait for Ctrl-C, which is no failure here."""
    screen.head("It goes on running; Ctrl-C ends it. In another terminal:")
    screen.say(f"export KUBECONFIG={plane.admin_kubeconfig}")
    if shutil.which("kubectl") is None:
        screen.say(f"export PATH=$PATH:{beside_python('kubectl').parent}")
    screen.say(
        "kubectl get trustdomains,serviceidentities,secrets -n shop\n"
        "kubectl describe sid order-service -n shop\n"
        "kubectl get vaultconnections\n"
        "kubectl explain sid.spec.certificate\n"
        "kubectl get secret order-service-payments-token -n shop -o jsonpath='{.data.token}'"
        " | base64 -d | kubectl sid verify token\n"
        "kubectl annotate --overwrite sid order-service -n shop serviceidentity.dev/rotate=again\n"
        "kubectl delete secret order-service-tls -n shop && kubectl get secret order-service-tls -n shop"
    )
    with suppress(KeyboardInterrupt):
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
