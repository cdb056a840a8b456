"""A key and a certificate that don't match are never in use, whoever writes and whoever reads at the same time."""

import threading

from sdk.python.tests.ca import Pki
from sdk.python.tests.volumes import Volume
from serviceidentity_sdk.mtls import MutualTLS

READERS = 3


def test_under_swaps_without_pause_each_handshake_context_has_a_pair(tmp_path):
    """Every material is loaded into OpenSSL, which compares key and certificate; a mixed one would be an error."""
    pki = Pki()
    leaves = [pki.leaf(f"service-{number}").files() for number in range(5)]
    pairs = {files["tls.crt"]: files["tls.key"] for files in leaves}
    volume, stop = Volume(tmp_path / "v", leaves[0]), threading.Event()
    errors, mixed, seen = [], [], [set() for _ in range(READERS)]

    def follow(mine):
        tls = MutualTLS(volume.path, on_error=errors.append)
        while not stop.is_set():
            tls.check()
            if pairs[tls.current.chain] != tls.current.key.reveal():
                mixed.append(tls.current.identity)
            tls.server_context()
            mine.add(tls.current.chain)

    readers = [threading.Thread(target=follow, args=[mine]) for mine in seen]
    for reader in readers:
        reader.start()
    swaps = 0
    while (swaps < 200 or any(len(mine) < 3 for mine in seen)) and all(reader.is_alive() for reader in readers):
        swaps += 1
        volume.swap(leaves[swaps % len(leaves)])
    stop.set()
    for reader in readers:
        reader.join()
    assert errors == [] and mixed == []
    assert all(len(mine) >= 3 for mine in seen)
