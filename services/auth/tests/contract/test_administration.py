"""What an administrator does to accounts, on the command line, while the service runs."""

import io

import pytest
import redis

from auth_service.__main__ import main
from auth_service.domain.passwords import Cost, Passwords
from services.auth.tests.contract.servers import CHEAP, PASSWORD

NEW = "another horse battery"


@pytest.fixture
def run(bed, tmp_path, redis_server, monkeypatch, capsys):
    """Run a command as the owner; return its exit code and what it said."""
    bed.administered(monkeypatch, tmp_path)
    monkeypatch.setenv("AUTH_REDIS", f"unix://{redis_server.path}")

    def found(*arguments, stdin=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = main(list(arguments))
        return code, "".join(capsys.readouterr())

    return found


def test_a_disabled_account_is_out_at_once_and_comes_back(bed, client, run):
    bed.add("dora")
    tokens, other = client.login("dora").json(), client.login("alice").json()
    code, said = run("disable-user", "Dora")
    assert (code, "revoked" in said) == (0, True)
    assert client.me(tokens["access_token"]).json() == {"error": "Token revoked"}
    assert client.refresh(tokens["refresh_token"]).status_code == 401
    assert client.login("dora").status_code == 401
    assert client.me(other["access_token"]).status_code == 200
    assert run("enable-user", "dora") == (0, "")
    assert client.login("dora").status_code == 200
    assert client.refresh(tokens["refresh_token"]).status_code == 401


def test_another_password_ends_what_was_opened_with_the_one_before(bed, client, run):
    bed.add("emil")
    tokens = client.login("emil").json()
    assert run("set-password", "emil", stdin=f"{NEW}\n")[0] == 0
    assert client.me(tokens["access_token"]).json() == {"error": "Token revoked"}
    assert client.refresh(tokens["refresh_token"]).status_code == 401
    assert client.login("emil", PASSWORD).status_code == 401
    assert client.login("emil", NEW).status_code == 200


def test_a_password_that_is_too_short_changes_nothing(bed, client, run):
    bed.add("fritz")
    code, said = run("set-password", "fritz", stdin="short\n")
    assert code == 1 and "short\n" not in said
    assert client.login("fritz").status_code == 200


def test_roles_are_exactly_those_from_the_next_refresh_on(bed, client, run):
    bed.add("gerda", "customer")
    tokens = client.login("gerda").json()
    assert run("set-roles", "gerda", "admin", "admin") == (0, "")
    assert client.me(client.refresh(tokens["refresh_token"]).json()["access_token"]).json()["roles"] == ["admin"]
    assert run("set-roles", "gerda")[0] == 0
    assert client.me(client.login("gerda").json()["access_token"]).json()["roles"] == []
    code, said = run("set-roles", "gerda", "customer", "emperor")
    assert code == 1 and "add-role" in said
    assert client.me(client.login("gerda").json()["access_token"]).json()["roles"] == []  # all or nothing


@pytest.mark.parametrize("command", ["disable-user", "enable-user", "set-roles", "set-password"])
def test_an_account_that_is_not_there_is_told(run, command):
    code, said = run(command, "nobody", stdin=f"{NEW}\n")
    assert code == 1 and "there is no account of this name" in said


def test_without_redis_it_is_said_that_access_tokens_live_on(bed, client, run, monkeypatch):
    bed.add("hanna")
    tokens = client.login("hanna").json()
    monkeypatch.delenv("AUTH_REDIS")
    code, said = run("disable-user", "hanna")
    assert code == 0 and "15 minutes more" in said
    assert client.me(tokens["access_token"]).status_code == 200
    assert client.refresh(tokens["refresh_token"]).status_code == 401


def test_while_redis_is_away_it_is_said_and_doing_it_again_revokes(bed, client, run, monkeypatch, redis_server):
    bed.add("ida")
    tokens = client.login("ida").json()
    monkeypatch.setenv("AUTH_REDIS", "unix:///nowhere/redis.sock")
    code, said = run("disable-user", "ida")
    assert code == 1 and "run it again" in said
    assert client.login("ida").status_code == 401
    monkeypatch.setenv("AUTH_REDIS", f"unix://{redis_server.path}")
    assert run("disable-user", "ida")[0] == 0
    with redis.Redis(unix_socket_path=redis_server.path) as found:
        assert found.keys("serviceidentity:revoked:sid:*")
    assert client.me(tokens["access_token"]).json() == {"error": "Token revoked"}


@pytest.mark.parametrize("cost", [CHEAP, Cost(memory=128, passes=1)], ids=["as now", "outdated"])
@pytest.mark.parametrize("command", ["disable-user", "set-password"])
def test_a_login_under_way_does_not_get_past_it(bed, client, run, monkeypatch, command, cost):
    with bed.connect() as connection:
        connection.execute("DELETE FROM users WHERE name = %s", (command,))
    bed.add(command, cost=cost)
    changed = []

    def verified(self, stored, password):
        right = plain(self, stored, password)
        if not changed:
            changed.append(
                run(command, command, stdin=f"{NEW}\n")[0]
            )  # between the look at the account and its session
        return right

    plain = Passwords.verify
    monkeypatch.setattr(Passwords, "verify", verified)
    assert client.login(command).status_code == 401
    assert changed == [0]
