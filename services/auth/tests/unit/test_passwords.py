"""Passwords: what is stored, and that nothing is done for one name that is not done for another."""

import argon2
import pytest

from auth_service.domain.accounts import check_new
from auth_service.domain.passwords import OWASP, Cost, Passwords
from auth_service.errors import RejectedError

CHEAP = Cost(memory=64, passes=1)


def test_the_cost_is_the_one_owasp_recommends():
    stored = Passwords(OWASP).hash("x")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_a_password_is_verified_and_salted():
    passwords = Passwords(CHEAP)
    first, second = passwords.hash("correct horse"), passwords.hash("correct horse")
    assert first != second
    assert passwords.verify(first, "correct horse")
    assert not passwords.verify(first, "correct horse ")
    assert not passwords.verify(None, "correct horse")


@pytest.mark.parametrize("stored", ["known", None, "known but wrong"])
def test_each_verification_is_one_run_of_argon2_at_the_same_cost(monkeypatch, stored):
    passwords = Passwords(CHEAP)
    known = passwords.hash("right")
    runs = []
    real = argon2.PasswordHasher.verify
    monkeypatch.setattr(
        argon2.PasswordHasher, "verify", lambda self, found, given: runs.append(found) or real(self, found, given)
    )
    passwords.verify(None if stored is None else known, "right" if stored == "known" else "wrong")
    assert len(runs) == 1
    assert argon2.extract_parameters(runs[0]) == argon2.extract_parameters(known)


def test_a_hash_that_is_none_refuses():
    assert not Passwords(CHEAP).verify("not a hash", "x")


def test_hashes_of_another_cost_are_outdated():
    assert Passwords(Cost(memory=128, passes=1)).outdated(Passwords(CHEAP).hash("x"))
    assert not Passwords(CHEAP).outdated(Passwords(CHEAP).hash("x"))


@pytest.mark.parametrize(
    ("name", "password"), [("", "x" * 15), ("a b", "x" * 15), ("a\n", "x" * 15), ("a", "x" * 14), ("a", "x" * 1025)]
)
def test_what_an_account_cant_have(name, password):
    with pytest.raises(RejectedError):
        check_new(name, password)


def test_what_it_can_have():
    check_new("Alice@example.org", "x" * 15)
