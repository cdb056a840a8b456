"""PEM with a file's name, because OpenSSL loads keys from nothing else: in memory where there is a way."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def readable(pem: bytes) -> Iterator[str]:
    """Give the text the name of a file for the length of the block."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory() as directory:  # only its owner may enter it
        file = Path(directory, "file.pem")
        file.write_bytes(pem)
        yield str(file)


def no_password() -> str:
    """Refuse a key with a password: otherwise OpenSSL asks for it at the terminal."""
    raise ValueError("a key with a password")
