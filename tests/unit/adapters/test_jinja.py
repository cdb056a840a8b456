"""Templates compose values, and do nothing else: whatever is written, it is a value or a TemplateError."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import nodes

from serviceidentity.adapters.jinja import JinjaTemplates
from serviceidentity.adapters.jinja_sandbox import LARGEST, Fields, _check, _counted
from serviceidentity.domain.vault.templates import TemplateError

COMPILE = JinjaTemplates()
SECRET = "p/w @1"
VALUES = {
    "username": "shop",
    "password": SECRET,
    "port": 5432,
    "tls": True,
    "none": None,
    "nested": {"host": "db", "items": 3, "list": [1, "b"]},
    "hosts": ["a", "b"],
    "with-dash": "dash",
    "raw": b"\x00\xff",
    "big": "x" * 1_000_000,
    "keys": "a field",
}


def render(text, values=VALUES):
    return COMPILE(text).render(values)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (
            "postgresql://{{ username }}:{{ password | urlencode }}@db:{{ port }}/\n",
            "postgresql://shop:p%2Fw%20%401@db:5432/\n",
        ),
        ("{{ (username ~ ':' ~ port) | b64encode }}", "c2hvcDo1NDMy"),
        ("{{ 'c2hvcA==' | b64decode }}", "shop"),
        ("{{ raw | b64encode }}", "AP8="),
        ("{{ tls }} {{ none }} {{ hosts }} {{ nested.list }}", 'true null ["a","b"] [1,"b"]'),
        ("{{ password | tojson }}", json.dumps(SECRET)),
        ("{{ nested.host }}{{ nested['host'] }}{{ nested.items }}{{ keys }}", "dbdb3a field"),
        ("{{ fields['with-dash'] }}", "dash"),
        ("{{ hosts | join(',') }}{{ hosts | first }}{{ hosts | last }}{{ hosts[1] }}", "a,babb"),
        ("{% if tls and port > 80 %}tls{% elif port %}plain{% else %}none{% endif %}", "tls"),
        ("{{ username if tls else port }}", "shop"),
        ("{{ nothing | default('x') }}{{ none | default('y', 'also') }}", "xy"),
        ("{{ nothing is defined }}{{ port is number }}{{ 'a' in hosts }}", "falsetruetrue"),
        ("{{ username | upper | lower | trim | replace('s', 'S') }}", "Shop"),
        ("{# a note #}{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("{{ username ~ (port ~ (tls ~ 'é')) }}", "shop5432trueé"),
        ("a\r\nb", "a\nb"),
        ("", ""),
    ],
)
def test_it_composes(text, result):
    assert render(text) == result


@pytest.mark.parametrize(
    "text",
    [
        "{{ username.__class__ }}",
        "{{ username['__class__']['__mro__'] }}",
        "{{ nested.keys }}",
        "{{ fields.items }}",
        "{{ hosts.append }}",
        "{{ hosts['append'] }}",
        "{{ username.upper }}",
        "{{ username[0] }}",
        "{{ hosts[-1] }}",
        "{{ range }}",
        "{{ namespace }}",
        "{{ self }}",
        "{{ loop }}",
        "{{ caller }}",
        "{{ varargs }}",
        "{{ environment }}",
        "{{ context }}",
        "{{ fields[password] }}",
        "{{ missing.deep }}",
        "{{ missing }}",
        "{{ missing ~ 'a' }}",
        "{{ missing == 1 }}",
        "{% if missing %}a{% endif %}",
        "{{ raw }}",
        "{{ raw | urlencode }}",
        "{{ 1e999 }}",
        "{{ '\\ud800' }}",
        "{{ port | join }}",
        "{{ port | first }}",
        "{{ password | b64decode }}",
        "{{ username | replace('', 'x') }}",
        "{{ big ~ big ~ big ~ big ~ big }}",
        "{{ big | replace('x', big) }}",
        "{{ big | replace('x', 'xxxxxxxxxx') }}",
        "{{ big }}{{ big }}",
        "{% if big ~ big ~ big ~ big ~ big == 'a' %}a{% endif %}",
        "{% if big | upper | lower | upper | lower | upper == 'a' %}a{% endif %}",
        "{{ nested | replace('a', big) | replace('d', big) | replace('x', 'yy') | upper }}",
    ],
)
def test_what_can_not_be_evaluated_says_so_and_quotes_no_value(text):
    with pytest.raises(TemplateError) as caught:
        render(text)
    assert SECRET not in str(caught.value)
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ range(1000000000) }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 9 ** 99999999 }}",
        "{{ 'x' + 'y' }}",
        "{{ -port }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '{0.__class__}'.format(username) }}",
        "{{ username | attr('__class__') }}",
        "{{ username | format(1) }}",
        "{{ username | map('upper') }}",
        "{{ username | center(100000000) }}",
        "{{ username | default(value=1) }}",
        "{{ username | replace(*hosts) }}",
        "{{ username | replace('a') }}",
        "{{ username is divisibleby(3) }}",
        "{{ username is sameas username }}",
        "{{ username[:4] }}",
        "{{ [1, 2] }}",
        "{{ {'a': 1} }}",
        "{{ (1, 2) }}",
        "{% for x in hosts %}{{ x }}{% endfor %}",
        "{% macro m() %}{% endmacro %}",
        "{% set x = 1 %}",
        "{% set x %}1{% endset %}",
        "{% with x = 1 %}{% endwith %}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% from 'x' import y %}",
        "{% extends 'x' %}",
        "{% block x %}{% endblock %}",
        "{% call f() %}{% endcall %}",
        "{% filter upper %}x{% endfilter %}",
        "{% autoescape true %}x{% endautoescape %}",
        "{% do x %}",
        "{{ _('x') }}",
        "{{ username",
        "{% if tls %}",
        "{{ }}",
        "{{ '\\N{nothing}' }}",
        "{{ " + "(" * 1000 + "1" + ")" * 1000 + " }}",
        "{{ " + "not " * 900 + "1 }}",
        "{{ username" + " | upper" * 400 + " }}",
        "{{ username" + ".a" * 1500 + " }}",
        "{{ 1" + " or 1" * 700 + " }}",
        "{{ 1" + " if 1 else 1" * 300 + " }}",
        "{% if tls %}" * 160 + "{% endif %}" * 160,
        "x" * 4097,
    ],
)
def test_what_is_no_expression_over_fields_is_refused_before_anything_is_evaluated(text):
    with pytest.raises(TemplateError):
        COMPILE(text)


def test_the_missing_field_is_named():
    with pytest.raises(TemplateError, match="there is no field 'passwort'"):
        render("{{ passwort }}")
    with pytest.raises(TemplateError, match="there is no field 'port'"):
        render("{{ nested.port }}")


def test_the_line_and_the_word_of_a_refusal_are_told():
    with pytest.raises(TemplateError, match="line 2: a loop is not allowed"):
        COMPILE("a\n{% for x in y %}{% endfor %}")
    with pytest.raises(TemplateError, match="there is no filter 'urlencod', only b64decode"):
        COMPILE("{{ a | urlencod }}")


def test_two_of_the_same_text_are_equal_and_compiled_once():
    one, other = COMPILE("{{ username }}!"), JinjaTemplates()("{{ username }}!")
    assert one == other
    assert COMPILE("{{ username }}!") is one
    assert one != COMPILE("{{ username }}?")


def test_no_value_is_remembered():
    template = COMPILE("{{ username }}{{ nothing | default('-') }}")
    assert template.render({"username": "a", "nothing": "b"}) == "ab"
    assert template.render({"username": "c"}) == "c-"


def test_everything_that_puts_texts_together_is_counted():
    environment = Fields()
    for text in (
        "{{ a ~ b }}",
        "{{ a ~ (b ~ (c ~ d)) }}",
        "{% if a ~ b == c ~ (d ~ e) %}{{ (a ~ b) | upper }}{% endif %}",
    ):
        tree = environment.parse(text)
        _check(tree)
        assert not list(_counted(tree).find_all(nodes.Concat))


def test_the_library_is_not_loaded_without_a_template():
    program = (
        "import sys; from serviceidentity.adapters import jinja; jinja.JinjaTemplates(); print('jinja2' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )


PIECES = st.sampled_from(
    ["{{", "}}", "{%", "%}", "{#", "#}", "if", "else", "elif", "endif", "for", "in", "set", "is", "not", "and", "or", "~", "|",
     ".", "[", "]", "(", ")", "{", "}", "'", '"', ",", ":", "*", "**", "+", "-", "%", "=", "==", "<", "0", "1", "99999999",
     "1.5", "1e400", "a", "password", "nested", "hosts", "raw", "fields", "self", "__class__", "upper", "replace", "join", "default",
     "tojson", "b64decode", "defined", "raw", "endraw", "\\", "\n", " ", "é", "\ud800", "\x00", "none", "true", "import", "include"]
)  # fmt: skip


@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=30).map(" ".join), st.lists(PIECES, max_size=30).map("".join),
                 st.lists(PIECES, max_size=14).map(lambda parts: "{{ " + " ".join(parts) + " }}")))  # fmt: skip
@settings(max_examples=600, deadline=None)
def test_no_text_does_anything_but_give_a_text_or_a_template_error(text):
    try:
        result = render(text)
    except TemplateError as error:
        assert SECRET not in str(error)
        str(error).encode()
    else:
        assert isinstance(result, str)
        assert len(result) <= LARGEST


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.dictionaries(
    st.text(max_size=6), st.recursive(LEAVES, lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(max_size=4), c, max_size=3), max_leaves=8)
)  # fmt: skip


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_no_value_does_anything_but_give_a_text_or_a_template_error(values):
    for text in (
        "{{ a }}{{ a.b }}{{ a[0] }}",
        "{{ fields }}",
        "{{ fields | tojson | b64encode | urlencode }}",
        "{{ a | default('x') | upper }}",
    ):
        try:
            COMPILE(text).render(values).encode()
        except TemplateError:
            continue
