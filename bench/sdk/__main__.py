"""python -m bench.sdk: what the SDK costs a request, beside the bare cryptography in the same run.

Every case is run in several ways, taking turns: `floor` is what can't be left out (the signature, the HMAC, the rules),
`sdk` is the SDK, and others are what a service without it does. Prints a table on stderr and JSON on stdout.
"""

import argparse
import json
import logging
import os
import platform
import ssl
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import cryptography
from joserfc.errors import SecurityWarning

from bench.sdk import connections, policies, services, signatures, tokens
from bench.sdk.measure import Case, Json, measured
from bench.sdk.pki import Pki


def measure(count: int, only: list[str]) -> Json:
    """Run the cases whose names begin with one of `only`, or all; return the figures."""
    results: Json = {"unit": "microseconds a call", "samples": count, "machine": _machine(), "cases": {}}
    with tempfile.TemporaryDirectory() as room:
        for case in _cases(Path(room)):
            if not only or case.name.startswith(tuple(only)):
                tell(f"{case.name} ...")
                results["cases"][case.name] = measured(case, count)
    results["machine"]["load_after"] = os.getloadavg()[0]
    return results


def _cases(room: Path) -> Iterator[Case]:
    pki = Pki()
    yield from tokens.cases()
    yield from signatures.cases()
    yield from policies.cases()
    yield from services.cases(pki, room)
    yield from connections.cases(pki, room)


def _machine() -> Json:
    return {
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "cryptography": cryptography.__version__,
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
    }


def tell(text: str) -> None:
    """Say what is going on."""
    print(text, file=sys.stderr, flush=True)


def table(results: Json) -> str:
    """Return the figures for people."""
    rows = [("", "", "p50 us", "p99 us", "least us", "x floor")]
    for name, case in results["cases"].items():
        for at, (variant, found) in enumerate(case["variants"].items()):
            figures = (f"{found[key]:.2f}" for key in ("p50_us", "p99_us", "least_us"))
            rows.append(("" if at else name, variant, *figures, f"{found['x_floor']:.2f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)  # noqa: PLR2004
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.sdk", description=__doc__)
    parser.add_argument("--samples", type=int, default=1000, help="of each way of each case")
    parser.add_argument("--only", action="append", default=[], help="cases whose names begin so; may be given again")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    warnings.simplefilter("ignore", SecurityWarning)  # joserfc: EdDSA has a new name
    results = measure(given.samples, given.only)
    tell(table(results))
    print(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
