"""CEL expressions: the port `Compile`.

The library evaluates, and knows no limit of cost. So it is limited here what an expression can cost: by its length, by
how deep its comprehensions are nested, and by not asking one again that took too long. What it looks at is bounded by
the schemas. That is enough against mistakes; rules are written by those who could delete the trust domain as well.
"""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from serviceidentity.domain.policy.spec import Expression, ExpressionError

if TYPE_CHECKING:
    import cel

LONGEST: Final = 1024
DEEPEST: Final = 2
MOST_COMPREHENSIONS: Final = 8
SECONDS: Final = 0.5  # of CPU time
VARIABLES: Final = ("object", "namespaceObject")  # of rules in a trust domain's policy
_LIBRARIES: Final = ["strings", "sets"]  # not "lists", which can make a list of any length
_TYPES: Final = frozenset(
    {"bool", "bytes", "double", "int", "list", "map", "null_type", "sets", "string", "strings", "type", "uint"}
)
_FUNCTIONS: Final = frozenset(
    {
        *("size", "contains", "startsWith", "endsWith", "matches", "string", "int", "uint", "double", "bytes", "dyn"),
        *("type", "duration", "timestamp", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear"),
        *("getHours", "getMilliseconds", "getMinutes", "getMonth", "getSeconds"),
    }
)
# Texts and comments are skipped, so that brackets and words in them do not count. A raw text has no escapes.
_TOKEN: Final = re.compile(
    r"""
    //[^\n]*
    | [bB]?[rR][bB]?(?:\'\'\'.*?\'\'\'|\"\"\".*?\"\"\"|'[^']*'|"[^"]*")
    | \'\'\'(?:\\.|[^\\])*?\'\'\' | \"\"\"(?:\\.|[^\\])*?\"\"\" | '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*"
    | [.]\s*(?P<macro>all|exists|exists_one|map|filter)\s*[(]\s*(?P<variable>[A-Za-z_][A-Za-z0-9_]*)?
    | (?P<open>[(\[{])
    | (?P<close>[)\]}])
    """,
    re.VERBOSE | re.DOTALL,
)
_PLACE: Final = re.compile(r"<input>:([0-9]+):([0-9]+)")


@dataclass(slots=True)
class Comprehension:
    """One `all`, `exists`, `exists_one`, `map` or `filter`."""

    macro: str
    variable: str
    depth: int
    nests: bool = False


class CelCompiler:
    """The port `Compile`. The library is loaded with the first rule: who has none does not pay for it."""

    def __init__(self, names: Sequence[str] = VARIABLES) -> None:
        """`names` are the variables that expressions may use."""
        self._names = tuple(names)
        self._variables: Mapping[str, Any] | None = None
        self._context: cel.Context | None = None

    def __call__(self, expression: str) -> Expression:
        """Compile an expression over the variables. Raises ExpressionError with what is wrong."""
        if len(expression) > LONGEST:
            raise ExpressionError(f"the expression is longer than {LONGEST} characters")
        found = comprehensions(expression)
        if len(found) > MOST_COMPREHENSIONS or any(one.depth > DEEPEST for one in found):
            raise ExpressionError(
                f"the expression has more than {MOST_COMPREHENSIONS} comprehensions (all, exists, map, filter), "
                f"or more than {DEEPEST} inside each other"
            )
        if any(one.macro == "map" and (one.nests or one.depth > 1) for one in found):
            raise ExpressionError("the expression has a map inside another comprehension, or around one")
        program = _compile(expression)
        _only_what_is_known(program, {one.variable for one in found}, self._names)
        return CelExpression(program, self.context)

    def context(self, variables: Mapping[str, Any]) -> "cel.Context":
        """Return the variables as the library wants them; all rules of one policy look at the same ones."""
        if self._context is None or self._variables is not variables:
            import cel.stdlib  # noqa: PLC0415

            self._context = cel.Context(dict(variables))
            cel.stdlib.add_stdlib_to_context(self._context, _LIBRARIES)
            self._variables = variables
        return self._context


class CelExpression:
    """The port `Expression`."""

    def __init__(self, program: "cel.Program", context: Any) -> None:
        self._program = program
        self._context = context
        self._too_slow = False

    def __call__(self, variables: Mapping[str, Any]) -> bool:
        """Evaluate it. Raises ExpressionError, whose message never quotes the library."""
        if self._too_slow:
            raise ExpressionError("the expression takes too long")
        begun = time.thread_time()
        try:
            result = self._program.execute(self._context(variables))
        except BaseException as error:
            if not _is_the_librarys(error):
                raise
            raise ExpressionError(_explained(error)) from None
        finally:
            self._too_slow = time.thread_time() - begun > SECONDS
        if not isinstance(result, bool):
            raise ExpressionError("the expression does not give true or false")
        return result


def comprehensions(expression: str) -> list[Comprehension]:
    """Return the comprehensions of an expression, with how deep each is nested in others."""
    found: list[Comprehension] = []
    brackets: list[Comprehension | None] = []
    for token in _TOKEN.finditer(expression):
        if token["macro"]:
            around = [one for one in brackets if one is not None]
            for one in around:
                one.nests = True
            found.append(Comprehension(token["macro"], token["variable"] or "", len(around) + 1))
            brackets.append(found[-1])
        elif token["open"]:
            brackets.append(None)
        elif token["close"] and brackets:
            brackets.pop()
    return found


def _compile(expression: str) -> "cel.Program":
    import cel  # noqa: PLC0415  # 20 MiB and some tenths of a second

    logging.getLogger("cel").setLevel(logging.CRITICAL)  # it quotes values
    try:
        return cel.compile(expression)
    except BaseException as error:
        if not _is_the_librarys(error):
            raise
        place = _PLACE.search(str(error))
        where = f" at line {place[1]}, column {place[2]}" if place else ""
        raise ExpressionError(f"the expression is not CEL{where}") from None


def _only_what_is_known(program: "cel.Program", bound: set[str], names: Sequence[str]) -> None:
    """Refuse misspelt names now and not when the first identity is looked at."""
    import cel.stdlib  # noqa: PLC0415

    if unknown := sorted(set(program.variables()) - set(names) - _TYPES - bound):
        known = f"{', '.join(names[:-1])} and {names[-1]}"
        raise ExpressionError(f"there is no variable {unknown[0]}, only {known}")
    added = {name.rpartition(".")[2] for library in _LIBRARIES for name in cel.stdlib.EXTENSIONS[library]}
    named = {name for name in program.functions() if name.isidentifier() and not name.startswith("_")}
    if unknown := sorted(named - _FUNCTIONS - added):
        raise ExpressionError(f"there is no function {unknown[0]}")


def _is_the_librarys(error: BaseException) -> bool:
    """Say whether it came from the library: any Exception, or the panic of a library in Rust, which is not one."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _explained(error: BaseException) -> str:
    match error:
        case KeyError(args=[str() as name, *_]):
            return f"there is no {name[:64]!r} (ask with has() before)"
        case IndexError():
            return "an index is out of range"
        case ZeroDivisionError() | OverflowError():
            return "arithmetic without a result"
        case TypeError():
            return "an operator or function has arguments of another type than it takes"
        case _:
            return "the expression can't be evaluated"
