"""Jinja2 cut down to expressions over the fields of a secret.

A template is written by whoever may write an identity, and evaluated in the process that signs for all. So it is no
program: there are fields, texts, `if`, comparisons and a few filters, and everything else is refused when it is read.
Names lead to fields of JSON values, never to attributes of Python objects. What an evaluation may build is counted.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from jinja2 import StrictUndefined, Undefined, UndefinedError, nodes, pass_context
from jinja2.exceptions import TemplateSyntaxError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from serviceidentity.domain.vault.templates import TemplateError

DEEPEST: Final = 20
LARGEST: Final = 1024 * 1024  # characters of the result: more than a Secret can hold
MOST_BUILT: Final = 4 * LARGEST  # characters of all that is built on the way to it
ALL_FIELDS: Final = "fields"
_BUDGET: Final = " budget"  # no name in a template has a space
_SHOWN: Final = 64

_ALLOWED: Final = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.CondExpr),
    *(nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Test),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Concat),
)
_TESTS: Final = frozenset({"defined", "undefined", "none", "string", "number", "boolean", "mapping", "sequence"})
_WORDS: Final = {
    nodes.For: "a loop",
    nodes.Macro: "a macro",
    nodes.Call: "a call",
    nodes.CallBlock: "a call",
    nodes.Assign: "set",
    nodes.AssignBlock: "set",
    nodes.Import: "import",
    nodes.FromImport: "import",
    nodes.Include: "include",
    nodes.Extends: "extends",
    nodes.Block: "a block",
    nodes.With: "with",
    nodes.FilterBlock: "a filter block",
    nodes.Slice: "a slice",
    nodes.List: "a list",
    nodes.Tuple: "a list",
    nodes.Dict: "a mapping",
}


class Sandbox:
    """Compiles templates with one environment."""

    def __init__(self) -> None:
        self._environment = Fields()

    def template(self, text: str) -> "JinjaTemplate":
        """Compile a template. Raises TemplateError."""
        try:
            tree = self._environment.parse(text)
            names = _check(tree)
            compiled = self._environment.from_string(_counted(tree))
        except TemplateError:
            raise
        except TemplateSyntaxError as error:
            raise TemplateError(f"line {error.lineno} is not what a template can be") from None
        except Exception:  # noqa: BLE001  # whatever a text does to the library, it concerns this identity only
            raise TemplateError("the template can't be understood") from None
        return JinjaTemplate(text, compiled, names)


@dataclass(frozen=True, slots=True)
class JinjaTemplate:
    """The port `Template`."""

    text: str
    compiled: Any = field(repr=False, compare=False)
    names: frozenset[str] = field(repr=False, compare=False)

    def render(self, values: Mapping[str, Any]) -> str:
        """Evaluate it. Raises TemplateError, whose message quotes the template at most."""
        fields = dict(values)
        variables = {ALL_FIELDS: fields} | fields | {_BUDGET: Budget()}
        try:
            result = "".join(self._chunks(self.compiled.new_context(variables, shared=True)))
            result.encode()
        except TemplateError:
            raise
        except UndefinedError as error:
            raise TemplateError(self._missing(error)) from None
        except UnicodeError:
            raise TemplateError("the result is no Unicode text") from None
        except Exception:  # noqa: BLE001  # its text may quote values
            raise TemplateError("it can't be evaluated with what Vault has") from None
        return result

    def _chunks(self, context: Context) -> Iterator[str]:
        length = 0
        for chunk in self.compiled.root_render_func(context):
            length += len(chunk)
            if length > LARGEST:
                raise TemplateError(f"the result is longer than {LARGEST} characters")
            yield chunk

    def _missing(self, error: UndefinedError) -> str:
        # A name that was computed of values must not be told.
        name = error.message
        return f"there is no field {name[:_SHOWN]!a}" if name in self.names else "a field that it needs is missing"


class Missing(StrictUndefined):
    """A field that is not there. Its error has the name alone."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        return self._undefined_name if isinstance(self._undefined_name, str) else ""


class Budget:
    """How much may still be built in one evaluation."""

    def __init__(self) -> None:
        self._left = MOST_BUILT

    def spend(self, characters: int) -> None:
        """Count what is going to be built, or was. Raises TemplateError."""
        self._left -= characters
        if self._left < 0:
            raise TemplateError(f"it builds more than {MOST_BUILT} characters")


class Fields(ImmutableSandboxedEnvironment):
    """The environment: no globals, no attributes, its own filters."""

    def __init__(self) -> None:
        super().__init__(
            undefined=Missing,
            autoescape=False,
            optimized=False,
            keep_trailing_newline=True,
            finalize=_text,
            cache_size=0,
        )
        self.globals.clear()
        self.filters = {name: pass_context(one) for name, one in _FILTERS.items()}
        self.tests = {name: test for name, test in self.tests.items() if name in _TESTS}

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Look up a field of a JSON object or an item of a list, and nothing else."""
        if isinstance(obj, Undefined):
            _text(obj)
        if isinstance(obj, Mapping) and isinstance(argument, str) and argument in obj:
            return obj[argument]
        if isinstance(obj, list) and isinstance(argument, int) and 0 <= argument < len(obj):
            return obj[argument]
        return self.undefined(obj=obj, name=argument)


def _check(tree: nodes.Template) -> frozenset[str]:
    """Refuse what is not allowed, and return the names that are written out. Raises TemplateError."""
    names = set()
    waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > DEEPEST:
            raise TemplateError(f"line {node.lineno} is nested deeper than {DEEPEST}")
        if not isinstance(node, _ALLOWED):
            raise TemplateError(f"line {node.lineno}: {_named(node)} is not allowed in a template")
        match node:
            case nodes.Name(name="self") | nodes.Name(ctx="store" | "param"):
                raise TemplateError(f"line {node.lineno}: there is no field of that name")
            case nodes.Name(name=name) | nodes.Getattr(attr=name) | nodes.Getitem(arg=nodes.Const(value=str() as name)):
                names.add(name)
            case nodes.Filter(name=name):
                _check_filter(node, name)
            case nodes.Test(name=name) if name not in _TESTS or node.args or node.kwargs:
                raise TemplateError(f"line {node.lineno}: there is no test {name[:_SHOWN]!a}")
        waiting += [(child, depth + 1) for child in node.iter_child_nodes()]
    return frozenset(names)


def _check_filter(node: nodes.Filter, name: str) -> None:
    where = f"line {node.lineno}"
    if name not in _ARGUMENTS or node.node is None:
        raise TemplateError(f"{where}: there is no filter {name[:_SHOWN]!a}, only {', '.join(sorted(_ARGUMENTS))}")
    least, most = _ARGUMENTS[name]
    if node.kwargs or node.dyn_args or node.dyn_kwargs or not least <= len(node.args) <= most:
        raise TemplateError(f"{where}: filter {name} has {least} to {most} arguments, without names")


def _named(node: nodes.Node) -> str:
    if isinstance(node, nodes.BinExpr | nodes.UnaryExpr):
        return f"operator {node.operator}"
    return next((word for kind, word in _WORDS.items() if isinstance(node, kind)), "this")


def _counted(tree: nodes.Template) -> nodes.Template:
    """Make a filter of each `~`, so that it is counted what is put together."""
    for parent in reversed([tree, *tree.find_all(nodes.Node)]):  # what is inside first
        for name, value in list(parent.iter_fields()):
            if isinstance(value, nodes.Concat):
                setattr(parent, name, _concatenation(value))
            elif isinstance(value, list):
                setattr(parent, name, [_concatenation(v) if isinstance(v, nodes.Concat) else v for v in value])
    return tree


def _concatenation(node: nodes.Concat) -> nodes.Filter:
    first, *others = node.nodes
    return nodes.Filter(first, _CONCAT, others, [], None, None, lineno=node.lineno, environment=node.environment)


def _text(value: Any) -> str:
    """Return a text as it is, and everything else as JSON. Raises UndefinedError and TemplateError."""
    if isinstance(value, str):
        return value
    if isinstance(value, Undefined):
        return str(value)  # which raises
    if isinstance(value, bytes):
        raise TemplateError("it has bytes where a text has to be; use b64encode")
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def _spent(context: Context, text: str) -> str:
    context.parent[_BUDGET].spend(len(text))
    return text


def _urlencode(context: Context, value: Any) -> str:
    return _spent(context, quote(_text(value), safe=""))


def _b64encode(context: Context, value: Any) -> str:
    raw = value if isinstance(value, bytes) else _text(value).encode()
    return _spent(context, base64.b64encode(raw).decode())


def _b64decode(context: Context, value: Any) -> str:
    try:
        return _spent(context, base64.b64decode(_text(value), validate=True).decode())
    except (binascii.Error, ValueError):
        raise TemplateError("b64decode was given what is not the Base64 of a text") from None


def _tojson(context: Context, value: Any) -> str:
    if isinstance(value, str):
        return _spent(context, json.dumps(value, ensure_ascii=False))
    return _spent(context, _text(value))


def _lower(context: Context, value: Any) -> str:
    return _spent(context, _text(value).lower())


def _upper(context: Context, value: Any) -> str:
    return _spent(context, _text(value).upper())


def _trim(context: Context, value: Any) -> str:
    return _spent(context, _text(value).strip())


def _default(_context: Context, value: Any, instead: Any = "", also_empty: Any = False) -> Any:
    if isinstance(value, Undefined):
        return instead
    return instead if also_empty and not value else value


def _replace(context: Context, value: Any, old: Any, new: Any) -> str:
    text, old, new = _text(value), _text(old), _text(new)
    if not old:
        raise TemplateError("replace was given nothing to look for")
    budget: Budget = context.parent[_BUDGET]
    budget.spend(len(text) + text.count(old) * max(len(new) - len(old), 0))
    return text.replace(old, new)


def _join(context: Context, value: Any, between: Any = "") -> str:
    if not isinstance(value, list):
        raise TemplateError("join was given what is not a list")
    parts, separator = [_text(one) for one in value], _text(between)
    budget: Budget = context.parent[_BUDGET]
    budget.spend(sum(map(len, parts)) + len(separator) * len(parts))
    return separator.join(parts)


def _first(_context: Context, value: Any) -> Any:
    return _item(value, 0)


def _last(_context: Context, value: Any) -> Any:
    return _item(value, -1)


def _item(value: Any, index: int) -> Any:
    if not isinstance(value, list) or not value:
        raise TemplateError("first and last need a list that has something in it")
    return value[index]


def _concat(context: Context, *values: Any) -> str:
    texts: Sequence[str] = [_text(value) for value in values]
    budget: Budget = context.parent[_BUDGET]
    budget.spend(sum(map(len, texts)))
    return "".join(texts)


_CONCAT: Final = " concat"  # nobody can write that
_FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "urlencode": _urlencode,
    "b64encode": _b64encode,
    "b64decode": _b64decode,
    "tojson": _tojson,
    "lower": _lower,
    "upper": _upper,
    "trim": _trim,
    "default": _default,
    "replace": _replace,
    "join": _join,
    "first": _first,
    "last": _last,
    _CONCAT: _concat,
}
_ARGUMENTS: Final = {
    "urlencode": (0, 0),
    "b64encode": (0, 0),
    "b64decode": (0, 0),
    "tojson": (0, 0),
    "lower": (0, 0),
    "upper": (0, 0),
    "trim": (0, 0),
    "default": (0, 2),
    "replace": (2, 2),
    "join": (0, 1),
    "first": (0, 0),
    "last": (0, 0),
}
