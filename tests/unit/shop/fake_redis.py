"""As much of Redis as the SDK asks for: SET NX, EXISTS, pipelines of SET, and the one script of the rate limit."""

from redis.exceptions import ConnectionError as AwayError


class FakeRedis:
    def __init__(self):
        self.keys, self.taken, self.away = set(), {}, False

    async def set(self, key, _value, *, nx=False, px=None, pxat=None):
        self._there()
        if nx and key in self.keys:
            return None
        self.keys.add(key)
        return True

    async def exists(self, *keys):
        self._there()
        return sum(key in self.keys for key in keys)

    def register_script(self, _text):
        async def take(keys, args):
            self._there()
            quota, window, ticket, _now = args
            tickets = self.taken.setdefault(keys[0], set())
            allowed = len(tickets) < quota
            if allowed:
                tickets.add(ticket)
            return [int(allowed), quota - len(tickets), window]

        return take

    async def aclose(self):
        pass

    def revoke(self, session):
        self.keys.add(f"serviceidentity:revoked:sid:{session}")

    def _there(self):
        if self.away:
            raise AwayError("away")
