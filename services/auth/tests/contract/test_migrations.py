"""Migrations, and the rights of the service's users."""

import threading

import psycopg
import pytest

from auth_service.__main__ import main
from auth_service.adapters import migrations
from serviceidentity_sdk.credentials import KeyMaterial
from serviceidentity_sdk.postgres import Login, MigrationError
from services.auth.tests.contract.servers import Bed


@pytest.fixture
def empty(postgres):
    return Bed(postgres)


def test_each_runs_once(empty):
    assert empty.migrate() == ["0001_accounts.sql", "0002_rights.sql"]
    assert empty.migrate() == []


def test_two_that_start_at_once_share_the_work(empty):
    found = []
    threads = [threading.Thread(target=lambda: found.append(empty.migrate())) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(map(len, found)) == [0, 0, 0, 2]


def test_one_that_fails_leaves_nothing(empty, monkeypatch):
    broken = migrations.migrations_in(migrations.__name__) | {
        "0003_broken.sql": "CREATE TABLE more (id int); SELECT 1/0"
    }
    monkeypatch.setattr(migrations, "migrations_in", lambda _: broken)
    with pytest.raises(Exception, match="DivisionByZero"):
        empty.migrate()
    monkeypatch.undo()
    assert len(empty.migrate()) == 2


def test_one_that_changed_after_it_ran_is_told(empty, monkeypatch):
    empty.migrate()
    changed = migrations.migrations_in(migrations.__name__) | {"0001_accounts.sql": "SELECT 1"}
    monkeypatch.setattr(migrations, "migrations_in", lambda _: changed)
    with pytest.raises(MigrationError, match=r"0001_accounts\.sql has run, and is another file now"):
        empty.migrate()
    monkeypatch.setattr(migrations, "migrations_in", lambda _: {})
    with pytest.raises(MigrationError, match="newer than this version"):
        empty.migrate()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE auth.mine (id int)",
        "INSERT INTO auth.users (name, password_hash) VALUES ('x', 'x')",
        "UPDATE auth.users SET disabled = false",
        "INSERT INTO auth.user_roles SELECT id, 'admin' FROM auth.users",
        "DELETE FROM auth.users",
        "UPDATE auth.sessions SET ends_at = now()",
        "UPDATE auth.refresh_tokens SET expires_at = now()",
    ],
)
def test_a_user_of_the_service_may_not_more_than_it_does(bed, statement):
    files = bed.new_user()
    user, password = files["username"].decode(), files["password"].decode()
    with psycopg.connect(bed.conninfo, user=user, password=password) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


def test_only_the_owner_migrates(empty):
    files = empty.new_user()
    with pytest.raises(MigrationError, match="as the owner"):
        migrations.migrate(empty.conninfo, Login(files["username"].decode(), KeyMaterial(files["password"])))


def test_the_command_line(empty, tmp_path, monkeypatch, capsys):
    empty.administered(monkeypatch, tmp_path)
    assert main(["migrate"]) == 0
    assert capsys.readouterr().out.split() == ["0001_accounts.sql", "0002_rights.sql"]

    def typed(text):
        monkeypatch.setattr("sys.stdin", __import__("io").StringIO(text))

    assert main(["add-role", "customer", "orders:read"]) == 0
    typed("correct horse battery\n")
    assert main(["add-user", "Dora", "--role", "customer"]) == 0
    typed("short\n")
    assert main(["add-user", "eve"]) == 1
    typed("correct horse battery\n")
    assert main(["add-user", "dora"]) == 1
    typed("correct horse battery\n")
    assert main(["add-user", "frank", "--role", "unknown"]) == 1
    said = capsys.readouterr().err
    assert "15 to 1024 characters" in said
    assert "an account of this name" in said
    assert "add-role" in said
    assert "horse" not in said
    with empty.connect() as connection:
        found = connection.execute("SELECT name, left(password_hash, 26) FROM users").fetchall()
    assert found == [("dora", "$argon2id$v=19$m=19456,t=2")]
