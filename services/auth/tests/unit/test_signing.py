"""The operator's Secret, read as one whole."""

import pytest

from auth_service.adapters.signing import read_signing, watch_signing
from sdk.python.tests.jwt.tokens import Pair
from serviceidentity.domain.jwt import ring as jwt_ring
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity_sdk.credentials import CredentialError, Directory
from services.auth.tests.conftest import signing_files
from tests.unit.sdk.test_operator_secrets import stages


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_what_the_operator_writes_is_read_at_each_stage_of_a_rotation(signing, algorithm):
    for ring in stages(jwt_ring.maker(algorithm)):
        signing.swap({"keys.json": jwt_ring.to_json(ring), "jwks.json": jwt_ring.jwks(ring)})
        found = read_signing(Directory(signing.path).read())
        assert found.key.key_id == ring.active.key_id
        assert found.keys.knows(found.key.key_id)


def test_a_key_that_is_not_published_is_not_used(signing):
    watch = watch_signing(str(signing.path))
    other = signing_files(Pair("ES256"))
    signing.swap(signing_files(signing.pair) | {"keys.json": other["keys.json"]})
    assert not watch.check()
    assert watch.state.error is not None
    assert watch.current.key.key_id == signing.pair.kid
    with pytest.raises(CredentialError, match=r"not in jwks\.json"):
        watch_signing(str(signing.path))
