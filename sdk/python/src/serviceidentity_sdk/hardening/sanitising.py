"""Text from users, made safe to be put into HTML; by ammonia, a parser of HTML5."""

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

try:
    import nh3
    from pydantic import AfterValidator
except ImportError as error:
    raise ImportError("serviceidentity_sdk.hardening needs: pip install 'serviceidentity-sdk[hardening]'") from error

# What a comment may need. Links get rel="noopener noreferrer", and lead to http, https and mailto only.
COMMENT_TAGS: Final = frozenset(
    {"a", "b", "blockquote", "br", "code", "em", "i", "li", "ol", "p", "pre", "strong", "ul"}
)
_LINKS: Final = {"a": {"href", "title"}}
_SCHEMES: Final = frozenset({"http", "https", "mailto"})
_SPACES: Final = frozenset("\t\n\r")
# Characters that change the order of others when shown (UAX #9): a file name or a link reads as another one.
_REORDERING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def sanitise_text(text: str) -> str:
    """Return a text without any markup: tags go, and scripts and styles with what is in them.

    What is left is safe inside an HTML element: `&`, `<` and `>` are entities. Control characters, lone surrogates and
    characters that reorder others are removed; the text is in Unicode's form C, without space at its ends.
    """
    return nh3.clean(_cleaned(text), tags=set(), attributes={}).strip()


def sanitise_html(html: str, tags: Iterable[str] = COMMENT_TAGS) -> str:
    """Return HTML that keeps `tags` alone, with no attributes but a link's address and title."""
    kept = set(tags)
    attributes = {tag: set(names) for tag, names in _LINKS.items() if tag in kept}
    return nh3.clean(_cleaned(html), tags=kept, attributes=attributes, url_schemes=set(_SCHEMES)).strip()


def sanitise(value: Any) -> Any:
    """Return decoded JSON with every text in it sanitised, those that are keys too."""
    match value:
        case str():
            return sanitise_text(value)
        case Mapping():
            return {sanitise(key): sanitise(item) for key, item in value.items()}
        case list() | tuple():
            return [sanitise(item) for item in value]
    return value


PlainText = Annotated[str, AfterValidator(sanitise_text)]
RichText = Annotated[str, AfterValidator(sanitise_html)]


def _cleaned(text: str) -> str:
    kept = (one for one in text if one in _SPACES or unicodedata.category(one) not in ("Cc", "Cs"))
    return unicodedata.normalize("NFC", "".join(one for one in kept if one not in _REORDERING))
