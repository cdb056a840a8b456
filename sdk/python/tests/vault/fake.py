"""A Vault in memory: logins, renewals up to a maximum, leases that end with their token. It obeys the test's clock."""

import itertools
import threading

from serviceidentity_sdk.vault import VaultAwayError, VaultForbiddenError, VaultMissingError, VaultRefusedError


class FakeVault:
    def __init__(self, clock):
        self.clock = clock
        self.away = False
        self.token_ttl, self.token_max = 3600.0, 36_000.0
        self.ttl, self.max_ttl = 100.0, 1000.0
        self.renewable = True
        self.values = {"secret/data/a": {"k": "v1"}}
        self.proofs = []
        self.sent = []
        self.tokens = {}  # token -> [end, last possible end]
        self.leases = {}  # id -> [end, last possible end, token]
        self._numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.on_send = lambda: None

    def close(self):
        pass

    def living(self):
        now = self.clock()
        return {
            name: lease
            for name, lease in self.leases.items()
            if lease[0] > now and self.tokens.get(lease[2], [0])[0] > now
        }

    def send(self, method, path, body=None, token=None):
        self.on_send()
        with self.lock:
            self.sent.append((method, path))
            if self.away:
                raise VaultAwayError("Vault does not answer")
            return self._answer(path, body, token, self.clock())

    def count(self, path):
        return sum(one == path for _, one in self.sent)

    def _answer(self, path, body, token, now):  # noqa: C901, PLR0911  # an API is a list of paths
        if path == "auth/kubernetes/login":
            self.proofs.append((body["role"], body["jwt"]))
            token = f"token-{next(self._numbers)}"
            self.tokens[token] = [now + self.token_ttl, now + self.token_max]
            return {"auth": {"client_token": token, "lease_duration": self.token_ttl, "renewable": True}}
        held = self.tokens.get(token)
        if held is None or held[0] <= now:
            raise VaultForbiddenError("no")
        if path == "auth/token/renew-self":
            held[0] = min(now + self.token_ttl, held[1])
            return {"auth": {"client_token": token, "lease_duration": held[0] - now, "renewable": True}}
        if path == "auth/token/lookup-self":
            return {"data": {}}
        if path == "auth/token/revoke-self":
            del self.tokens[token]
            return {}
        if path == "sys/leases/renew":
            lease = self.living().get(body["lease_id"])
            if lease is None or not self.renewable:
                raise VaultRefusedError("no")
            lease[0] = min(now + body["increment"], lease[1])
            return {"lease_id": body["lease_id"], "lease_duration": lease[0] - now, "renewable": True}
        if path.startswith("database/creds/"):
            name = f"{path}/{next(self._numbers)}"
            self.leases[name] = [now + self.ttl, now + self.max_ttl, token]
            data = {"username": f"user-{name}", "password": "geheim"}
            return {"lease_id": name, "lease_duration": self.ttl, "renewable": self.renewable, "data": data}
        if path == "forbidden":
            raise VaultForbiddenError("no")
        if path not in self.values:
            raise VaultMissingError("nothing")
        return {"lease_id": "", "data": {"data": self.values[path], "metadata": {"version": 1}}}
