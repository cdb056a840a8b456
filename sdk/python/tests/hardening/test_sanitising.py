"""What is left of what users write."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from serviceidentity_sdk.hardening import PlainText, RichText, sanitise, sanitise_html, sanitise_text

PIECES = st.lists(
    st.sampled_from(
        [
            "<",
            ">",
            "<b>",
            "</b>",
            "<script>",
            "</script>",
            "&lt;",
            "&",
            "\x00",
            '"',
            "'",
            "<img src=x onerror=",
            "<!--",
            "-->",
        ]
        + [
            "<svg><",
            "javascript:",
            "<a href='",
            "hi",
            " ",
            "\u202e",
            "<style>",
            "<math>",
            "\ud800",
            "é",
            "e\u0301",
            "]]>",
        ]
    ),
    max_size=12,
).map("".join)


class Seen(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.attributes = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.update(attrs)


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("plain", "plain"),
        ("<script>alert(1)</script>hi", "hi"),
        ("<b>bold</b>", "bold"),
        ("<img src=x onerror=alert(1)>", ""),
        ("<scr<script>x</script>ipt>alert(1)", "xipt&gt;alert(1)"),
        ("1 < 2 & 3 > 2", "1 &lt; 2 &amp; 3 &gt; 2"),
        ("&lt;script&gt;", "&lt;script&gt;"),
        ("a\x00b\x1bc", "abc"),
        ("gpj\u202eexe", "gpjexe"),
        ("e\u0301", "é"),
        ("\ud800x", "x"),
        ("  two\n lines\t", "two\n lines"),
    ],
)
def test_text_without_markup(written, left):
    assert sanitise_text(written) == left


@given(st.one_of(st.text(), PIECES))
def test_no_tag_is_left_and_once_more_changes_nothing(written):
    left = sanitise_text(written)
    assert "<" not in left and Seen(left).tags == []
    assert sanitise_text(left) == left


@given(PIECES)
def test_of_html_only_what_is_harmless_is_left(written):
    seen = Seen(sanitise_html(written))
    assert set(seen.tags) <= {"a", "b"}
    assert set(seen.attributes) <= {"href", "rel", "title"}
    assert not str(seen.attributes.get("href", "")).lstrip().lower().startswith("javascript")


def test_html_of_a_comment():
    assert sanitise_html('<p onclick="x">a <b>b</b><script>x</script></p>') == "<p>a <b>b</b></p>"
    assert sanitise_html('<a href="javascript:x" target=_top>a</a>') == '<a rel="noopener noreferrer">a</a>'
    assert 'href="https://example.com"' in sanitise_html('<a href="https://example.com">a</a>')
    assert sanitise_html("<b>b</b><i>i</i>", tags=["i"]) == "b<i>i</i>"


def test_json_and_models():
    assert sanitise({"<b>k</b>": ["<i>x</i>", 1, None, True], "n": {"m": "<p>"}}) == {
        "k": ["x", 1, None, True],
        "n": {"m": ""},
    }

    class Comment(BaseModel):
        title: PlainText
        text: RichText

    found = Comment(title="<b>t</b>", text="<b>t</b><img>")
    assert (found.title, found.text) == ("t", "<b>t</b>")
