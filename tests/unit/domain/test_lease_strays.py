"""What becomes of a lease, from what there is; and its record."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from serviceidentity.domain.material import KeyMaterial, MalformedError
from serviceidentity.domain.model import identity_key
from serviceidentity.domain.ownership import CREDENTIAL_LABEL, VAULT_RECORD_ANNOTATION
from serviceidentity.domain.vault import records, strays
from serviceidentity.domain.vault.records import LeaseRecord
from serviceidentity.domain.vault.strays import Drain, Keep, Revoke, RunOut, Seen, Tend
from serviceidentity.domain.vault.views import Lease
from tests.unit.domain.builders import T0, identity, view_of

HOUR = timedelta(hours=1)
RECORD = LeaseRecord(
    "vault-lease-1", "default", "app", "shop", "default", identity_key("shop", "order-service"), "uid-1", "db",
    "order-service-db", "database/creds/orders", T0, KeyMaterial(b"hvs.secret"), "accessor",
)  # fmt: skip
LEASE = Lease("database/creds/orders/1", T0, T0, HOUR, HOUR, renewable=True)
SPEC = {"vault": {"secrets": [{"name": "db", "database": {"role": "orders"}}]}}


def secret(owned=True, name="order-service-db", **annotations):
    content = records.content_of(RECORD)
    owners = ({"controller": True, "uid": "uid-1"},) if owned else ()
    labels = {CREDENTIAL_LABEL: "vault.db"}
    return replace(view_of(content, name, labels=labels), annotations=annotations, owners=owners)


def named(**changes):
    found = secret(**changes)
    return replace(found, annotations={"serviceidentity.dev/vault-lease": records.annotation_of(RECORD.name, LEASE)})


def seen(*secrets, spec=SPEC, **changes):
    one = Seen(RECORD, True, True, identity(spec) if spec else None, secrets, False, T0 - HOUR)
    return replace(one, **changes)


def test_what_a_secret_names_is_kept():
    assert strays.decide(seen(named()), T0) == Keep()


def test_what_no_secret_names_is_revoked_when_it_was_known_for_a_while():
    assert strays.decide(seen(first_seen=T0), T0) == Keep(T0 + strays.GRACE)
    assert isinstance(strays.decide(seen(first_seen=T0), T0 + strays.GRACE), Revoke)


def test_what_is_being_made_is_left_alone_however_long_that_takes():
    assert strays.decide(seen(in_flight=True), T0 + HOUR) == Keep()


def test_of_a_namespace_that_is_not_watched_nothing_is_revoked():
    assert strays.decide(seen(served=False, present=False, spec=None), T0) == Keep()


@pytest.mark.parametrize("owned", [True, False])
def test_without_its_identity_it_goes_or_runs_out(owned):
    verdict = strays.decide(seen(named(owned=owned), present=False, spec=None), T0)
    assert isinstance(verdict, Revoke if owned else RunOut)


@pytest.mark.parametrize("owned", [True, False])
def test_without_its_entry_it_goes_or_runs_out(owned):
    found = named(owned=owned)
    assert isinstance(strays.decide(seen(found, spec={"hmac": {}}), T0), Revoke if owned else RunOut)


def test_what_is_in_use_and_nobody_works_on_is_tended():
    assert isinstance(strays.decide(seen(named(), spec=None), T0), Tend)
    other = {"vault": {"secrets": [{"name": "db", "kv": {"path": "db"}}]}}
    assert isinstance(strays.decide(seen(named(), spec=other), T0), Tend)


def test_what_was_replaced_lives_until_then():
    annotations = records.replaced_annotation([named()], T0, HOUR, "vault-lease-2")
    after = secret(**annotations)
    assert isinstance(strays.decide(seen(after), T0 + HOUR - timedelta(seconds=1)), Drain)
    assert isinstance(strays.decide(seen(after), T0 + HOUR), Revoke)
    assert records.replaced_annotation([after], T0 + HOUR, HOUR, "") == {}
    again = records.replaced_annotation([after], T0 + HOUR / 2, HOUR, "vault-lease-3")
    assert again == annotations  # another rotation does not lengthen it


def test_a_record_is_read_as_it_was_written():
    for one in (RECORD, replace(RECORD, token=None, accessor="", role=None, lease_id="x", ends=T0)):
        content = records.content_of(one)
        assert records.read_record(view_of(content, one.name, "system")) == one
        assert "hvs" not in repr(one) + str(content) + json.dumps(dict(content.annotations))


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"connection":1}', "[" * 5000])
def test_a_damaged_record_is_told_from_a_good_one(text):
    view = view_of(records.content_of(RECORD), RECORD.name, "system", annotations={VAULT_RECORD_ANNOTATION: text})
    with pytest.raises(MalformedError):
        records.read_record(view)
    broken = secret(**{"serviceidentity.dev/vault-lease": text, "serviceidentity.dev/vault-replaced-leases": text})
    assert records.bond_of(broken) is None
    assert records.replaced_of(broken) == ()
