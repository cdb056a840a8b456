"""Templates over the fields of a secret: the port `CompileTemplate`. The library is loaded with the first template."""

from functools import lru_cache
from typing import TYPE_CHECKING

from serviceidentity.domain.vault.templates import Template, TemplateError

if TYPE_CHECKING:
    from serviceidentity.adapters.jinja_sandbox import Sandbox

LONGEST = 4096


class JinjaTemplates:
    """Compiles templates, each text once: a thousand identities may have the same."""

    def __init__(self) -> None:
        self._sandbox: Sandbox | None = None
        self._compiled = lru_cache(maxsize=1024)(self._compile)

    def __call__(self, text: str) -> Template:
        """Compile a template. Raises TemplateError with what is wrong."""
        if len(text) > LONGEST:
            raise TemplateError(f"the template is longer than {LONGEST} characters")
        return self._compiled(text)

    def _compile(self, text: str) -> Template:
        from serviceidentity.adapters.jinja_sandbox import Sandbox  # noqa: PLC0415  # 40 ms, and some MiB

        if self._sandbox is None:
            self._sandbox = Sandbox()
        return self._sandbox.template(text)
