"""A trust domain's authorities as an operator would drive them, without an API server: the plan carried out in memory."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from serviceidentity.domain import authority
from serviceidentity.domain.authority import (
    Authority,
    Hierarchy,
    ImportAuthority,
    MakeAuthority,
    MarkAuthority,
    RetireAuthority,
    Role,
    Trust,
    Usage,
)
from serviceidentity.domain.material import SecretView
from serviceidentity.domain.model import TrustDomain
from serviceidentity.domain.schedule import format_time
from tests.unit.domain.builders import T0, make_authority, stored_authority

_known: dict[tuple[object, ...], object] = {}


def _read(brought: SecretView | None, now: datetime, domain: TrustDomain) -> Any:
    """Read what people put into the Secret, once for each moment."""
    key = (brought and tuple(brought.data.values()), now, authority.brought_role(domain), domain.brought_secret)
    if key not in _known:
        _known[key] = authority.read_brought(domain, brought, now)
    return _known[key]


@dataclass
class Works:
    """One trust domain. `bundle_held` is what consumers have; `leaves` are certificates in use, by their signer."""

    domain: TrustDomain
    now: datetime = T0
    found: tuple[Authority, ...] = ()
    bundle_held: bytes = b""
    leaves: dict[str, datetime] = field(default_factory=dict)
    steps: list[object] = field(default_factory=list)
    brought: SecretView | None = None  # what people put into the Secret that the domain names

    @property
    def seen(self) -> Hierarchy:
        trust = authority.trust_of(Hierarchy(self.domain, self.found), self.now)
        held = not isinstance(trust, Trust) or trust.bundle == self.bundle_held
        alive = {name: end for name, end in self.leaves.items() if end > self.now}
        read = _read(self.brought, self.now, self.domain)
        source = authority.judged(read, self.found, self.domain.tainted)
        return Hierarchy(self.domain, self.found, Usage(published=held, leaves=alive), source=source)

    @property
    def trust(self) -> Trust:
        trust = authority.trust_of(self.seen, self.now)
        assert isinstance(trust, Trust)
        return trust

    def work(self, limit: int = 50) -> None:
        """Carry out what is planned until nothing is."""
        for _ in range(limit):
            step = authority.plan(self.seen, self.now)
            if not isinstance(step, MakeAuthority | ImportAuthority | MarkAuthority | RetireAuthority):
                return
            self.steps.append(step)
            self._carry_out(step)
        raise AssertionError(f"no end of steps: {self.steps[-4:]}")

    def _carry_out(self, step: MakeAuthority | ImportAuthority | MarkAuthority | RetireAuthority) -> None:
        by_name = {a.view.name: a for a in self.found}
        match step:
            case MakeAuthority():
                assert step.secret_name not in by_name, "a number is used once"
                root = by_name.get(step.signer or "")
                made = make_authority(self.domain, step.role, step.generation, root, self.now, activate=step.activate)
                self.found = (*self.found, made)
            case ImportAuthority():
                assert step.secret_name not in by_name, "a number is used once"
                root = by_name.get(step.signer or "")
                content = authority.copy_of(step.source, self.domain, step.role, self.now, root, activate=step.activate)
                self.found = (*self.found, stored_authority(content, self.domain, step.role, step.generation))
            case MarkAuthority():
                old = by_name[step.secret_name]
                annotations = {**old.view.annotations, step.annotation: format_time(self.now)}
                new = authority.read_authority(replace(old.view, annotations=annotations))
                self.found = tuple(new if a is old else a for a in self.found)
            case RetireAuthority():
                self.found = tuple(a for a in self.found if a.view.name != step.secret_name)

    def publish(self) -> None:
        """Let every consumer have the bundle, and the operator see that."""
        trust = authority.trust_of(self.seen, self.now)
        if isinstance(trust, Trust):
            self.bundle_held = trust.bundle
        self.work()

    def states(self) -> dict[str, str]:
        """Return the state of each authority by the last two parts of its Secret's name."""
        seen = self.seen
        return {a.view.name.removeprefix("default-"): authority.state_of(seen, a, self.now).value for a in self.found}

    def go(self, at: datetime) -> None:
        """Move the clock to that moment and work."""
        assert at >= self.now
        self.now = at
        self.work()

    def next(self) -> datetime:
        due = authority.deadline(self.seen, self.now)
        assert due is not None
        return due

    def named(self, name: str) -> Authority:
        (one,) = (a for a in self.found if a.view.name == f"default-{name}")
        return one

    def signs(self) -> str:
        """Name of the intermediate that signs now."""
        signer = self.trust.signer
        return next((a.view.name.removeprefix("default-") for a in self.found if a.key is signer), "nobody")

    def roots(self) -> list[str]:
        trusted = self.trust.roots
        return [
            a.view.name.removeprefix("default-") for a in self.found if a.role is Role.ROOT and a.certificate in trusted
        ]
