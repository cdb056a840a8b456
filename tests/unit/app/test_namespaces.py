"""Namespaces: their labels wake whom they concern, and nothing else about them does."""

from serviceidentity.app.inventory import Inventory
from serviceidentity.domain.model import identity_key, trust_domain_key
from tests.unit.domain.builders import identity_body, trust_domain_body


def namespace(name, version, **labels):
    return {"metadata": {"name": name, "resourceVersion": str(version), "labels": labels}}


def filled():
    inventory = Inventory("system")
    inventory.put_trust_domain(trust_domain_body())
    for name in ("shop", "attic"):
        inventory.put_identity(identity_body({"certificate": {}}, namespace=name))
        inventory.put_namespace(namespace(name, 5))
    return inventory


def test_labels_wake_the_identities_of_the_namespace_and_the_trust_domains():
    inventory = filled()
    woken = inventory.put_namespace(namespace("shop", 6, team="orders"))
    assert woken == {identity_key("shop", "order-service"), trust_domain_key("default")}
    assert inventory.namespaces["shop"].labels == {"team": "orders"}


def test_annotations_wake_the_identities_of_the_namespace_because_rules_see_them():
    inventory = filled()
    body = namespace("shop", 6)
    body["metadata"]["annotations"] = {"example.org/owner": "orders"}
    assert inventory.put_namespace(body) == {identity_key("shop", "order-service")}
    assert inventory.namespaces["shop"].annotations == {"example.org/owner": "orders"}


def test_what_is_old_or_says_nothing_new_wakes_nobody():
    inventory = filled()
    assert inventory.put_namespace(namespace("shop", 7)) == set()
    assert inventory.put_namespace(namespace("shop", 6, team="orders")) == set(), "older than what is known"
    assert inventory.namespaces["shop"].labels == {}


def test_a_complete_list_drops_what_is_not_in_it_unless_it_is_newer():
    inventory = filled()
    inventory.put_namespace(namespace("new", 50))
    inventory.resync([namespace("shop", 5)], [], [], [], lambda _list: 20)
    assert set(inventory.namespaces) == {"shop", "new"}


def test_a_namespace_that_is_gone_wakes_the_trust_domains_once():
    inventory = filled()
    assert inventory.drop_namespace("shop") == {trust_domain_key("default")}
    assert inventory.drop_namespace("shop") == set()
