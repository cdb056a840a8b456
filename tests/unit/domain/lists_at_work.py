"""A trust domain's revocation lists as an operator would issue them, without an API server."""

from dataclasses import dataclass, field
from datetime import datetime

from serviceidentity.domain.authority import crls
from serviceidentity.domain.authority.crl_records import Crl, Revocation, read_crl
from serviceidentity.domain.authority.crls import IssueCrl, Lists
from tests.unit.domain.authorities_at_work import Works
from tests.unit.domain.builders import view_of


@dataclass
class ListWorks:
    """The lists beside `works`. `asked` is what identities and the spec want on them; `issued` is all that ever was."""

    works: Works
    asked: list[Revocation] = field(default_factory=list)
    found: dict[str, Crl] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    recorded: dict[str, tuple[int, int]] = field(default_factory=dict)
    issued: list[tuple[str, Crl]] = field(default_factory=list)

    @property
    def seen(self) -> Lists:
        return Lists(self.works.seen, self.found, self.broken, tuple(self.asked), self.recorded)

    def work(self) -> None:
        """Carry out what is planned; there is nothing to plan afterwards."""
        for step in crls.plan(self.seen, self.works.now):
            if isinstance(step, IssueCrl):
                content = crls.issue(self.works.domain, step, self.works.now)
                crl = read_crl(view_of(content, step.secret_name, "system"), step.authority.certificate)
                self.found[step.authority.view.name] = crl
                self.broken -= {step.authority.view.name}
                self.recorded[step.authority.fingerprint] = (crl.number, len(crl.entries))
                self.issued.append((step.authority.fingerprint, crl))
            else:
                self.found = {name: crl for name, crl in self.found.items() if crl.view.name != step.secret_name}
        assert crls.plan(self.seen, self.works.now) == ()

    def go(self, at: datetime) -> None:
        """Move the clock; what has to be on a list is there before its authority's Secret goes."""
        self.works.now = at
        self.work()
        self.works.work()
        self.work()

    def on(self, name: str) -> set[str]:
        """Return the serial numbers on an authority's list."""
        return set(self.found[f"default-{name}"].entries)

    def numbers(self) -> dict[str, int]:
        return {name.removeprefix("default-"): crl.number for name, crl in self.found.items()}
