"""CEL as rules may use it: what it can do, what it is refused, and that an error is an error of ours."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.adapters import cel
from serviceidentity.adapters.cel import CelCompiler, comprehensions
from serviceidentity.domain.policy.spec import ExpressionError

NAMES = {"object": {"names": [f"n{i}" for i in range(100)], "name": "a-b", "labels": {}}, "namespaceObject": {}}


def evaluate(expression, variables=NAMES):
    return CelCompiler()(expression)(variables)


@pytest.mark.parametrize(
    "expression",
    [
        "object.names.all(n, n.startsWith('n')) && object.names.exists(n, n == 'n7')",
        "object.names.exists_one(n, n == 'n7') && object.names.filter(n, n == 'n7').size() == 1",
        "object.names.map(n, n.replace('n', 'm')).all(n, n.startsWith('m'))",
        "object.name.split('-').size() == 2 && object.name.lowerAscii() == 'a-b'",
        "object.name.matches('^[a-z]-[a-z]$')",
        "duration('24h') <= duration('1440m') && timestamp('2026-01-01T00:00:00Z').getFullYear() == 2026",
        "!has(object.labels.team) || object.labels.team in ['a', 'b']",
        "sets.contains(object.names, ['n1', 'n2'])",
        "type(object.name) == string && int('1') == 1 && size(object.names) == 100",
        "object.names.all(n, ['n', 'm'].exists(p, n.startsWith(p)))",
        r"r'\(' == '\\(' // all(all(",
        "namespaceObject == {}",
    ],
)
def test_what_rules_are_written_with(expression):
    assert evaluate(expression) is True


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "the expression is not CEL"),
        ("object.name ==", "the expression is not CEL at line 1, column 15"),
        ("self.name == 'a'", "there is no variable self, only object and namespaceObject"),
        ("isIP(object.name)", "there is no function isIP"),
        ("object.name == '" + "x" * 1024 + "'", "the expression is longer than 1024 characters"),
        ("object.a.all(a, object.a.all(b, object.a.all(c, a == b && b == c)))", "more than 2 inside each other"),
        (" && ".join(["object.a.all(a, true)"] * 9), "more than 8 comprehensions"),
        ("object.a.map(a, object.a.map(b, b)).size() == 1", "a map inside another comprehension"),
        ("object.a.all(a, [a].map(b, b).size() == 1)", "a map inside another comprehension"),
        ("(" * 400 + "true" + ")" * 400, "the expression is not CEL"),
    ],
)
def test_what_does_not_compile(expression, said):
    with pytest.raises(ExpressionError, match=said):
        CelCompiler()(expression)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("object.labels.team == 'a'", r"there is no 'team' \(ask with has\(\) before\)"),
        ("object.names[100] == 'a'", "an index is out of range"),
        ("size(object.names) / 0 == 1", "arithmetic without a result"),
        ("object.name + 1 == 'a'", "arguments of another type"),
        ("object.name.charAt(100) == 'a'", "the expression can't be evaluated"),
        ("object.name.matches('(')", "the expression can't be evaluated"),
        ("object.name", "the expression does not give true or false"),
        ("null", "the expression does not give true or false"),
        ("1", "the expression does not give true or false"),
    ],
)
def test_what_can_not_be_evaluated(expression, said):
    with pytest.raises(ExpressionError, match=said):
        evaluate(expression)


def test_a_message_never_quotes_the_value_nor_does_the_log(caplog, capfd):
    with pytest.raises(ExpressionError) as caught:
        evaluate("object.name.charAt(int(object.name)) == 'a'", {"object": {"name": "hidden"}})
    assert "hidden" not in str(caught.value) + caplog.text + "".join(capfd.readouterr())


def test_what_took_too_long_is_not_asked_again(monkeypatch):
    monkeypatch.setattr(cel, "SECONDS", 0.0)
    rule = CelCompiler()("object.names.all(n, n != 'x')")
    assert rule(NAMES) is True
    with pytest.raises(ExpressionError, match="takes too long"):
        rule(NAMES)


def test_one_rule_after_another_sees_its_own_identity():
    compile_rule = CelCompiler()
    rules = [compile_rule("object.name == 'a'"), compile_rule("object.name == 'b'")]
    for name in ("a", "b", "a"):
        variables = {"object": {"name": name}}
        assert [rule(variables) for rule in rules] == [name == "a", name == "b"]


@pytest.mark.parametrize(
    ("expression", "depths"),
    [
        ("a.all(x, b.all(y, c.map(z, z)))", [1, 2, 3]),
        ("a.all(x, (b).size() > 0) && c.exists(y, {'k': [y]}.k == [1])", [1, 1]),
        ("'.all(' == \".map(\" || '''.all('.all(''' == r'\\' || a . all (x, true)", [1]),
        (r"'\'.all(' == 'x' || a.all(x, true) // .all(", [1]),
        ("a.map(x, x).all(y, y)", [1, 1]),
    ],
)
def test_how_deep_comprehensions_are_nested(expression, depths):
    assert [one.depth for one in comprehensions(expression)] == depths


PIECES = st.sampled_from(
    [
        "object",
        "namespaceObject",
        ".name",
        ".names",
        ".all(n, ",
        ".map(n, ",
        "n",
        ")",
        "(",
        "[",
        "]",
        "{",
        "}",
        " && ",
        "'a'",
    ]
    + [
        " == ",
        " + ",
        "1",
        "-",
        "!",
        "has(",
        "duration('1h')",
        "matches('",
        "\\",
        "'",
        '"',
        "?",
        ":",
        ",",
        "\x00",
        "é",
        "0u",
        "1e9",
    ]
    + ["r'", "b'", "\n", "//", "size(", "null", " in ", "timestamp(", "9223372036854775807", '"""']
)


@settings(max_examples=400)
@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=14).map("".join)))
def test_nothing_that_somebody_writes_ends_in_anything_but_an_answer_or_our_error(expression):
    with contextlib.suppress(ExpressionError):
        assert CelCompiler()(expression)(NAMES) in (True, False)
