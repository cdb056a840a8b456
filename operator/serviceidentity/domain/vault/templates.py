"""Templates that compose a value of several fields of a secret; an adapter compiles and evaluates them."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from serviceidentity.errors import ServiceIdentityError


class TemplateError(ServiceIdentityError):
    """A template can't be compiled, or not be evaluated with what Vault has. The message quotes no value."""


class Template(Protocol):
    """A compiled template; two of the same text are equal."""

    @property
    def text(self) -> str:
        """As it is written."""
        ...

    def render(self, values: Mapping[str, Any]) -> str:
        """Evaluate it with the fields of a secret. Raises TemplateError."""
        ...


CompileTemplate = Callable[[str], Template]


def no_templates(_text: str) -> Template:
    """Refuse: for programs that only read specs."""
    raise TemplateError("templates can't be evaluated here")
