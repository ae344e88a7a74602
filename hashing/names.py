"""Words for people: names that are equal up to case, hyphens and underscores, suggestions, and counted things."""

import re
from collections.abc import Collection
from difflib import get_close_matches


def plain_name(name: str) -> str:
    """Return the form in which names are compared.

    >>> plain_name("UH-BDNN")
    'uh_bdnn'
    """
    return name.lower().replace("-", "_")


def spelled(name: str, known: Collection[str]) -> str | None:
    """Return the known name that is equal to `name`; None if there is none, or more than one that is not identical.

    >>> spelled("fashion_mnist", ["mnist", "fashion-mnist"])
    'fashion-mnist'
    """
    same = [other for other in known if plain_name(other) == plain_name(name)]
    return name if name in same else same[0] if len(same) == 1 else None


def hint(name: str, known: Collection[str], otherwise: str) -> str:
    """Return which known names may be meant; if none is close, `otherwise` followed by all of them.

    >>> hint("itk", ["itq", "lsh"], "the methods are"), hint("x", [], "existing tables:")
    ('did you mean itq?', 'existing tables: none yet')
    """
    return near(name, known) or f"{otherwise} {', '.join(known) or 'none yet'}"


def near(name: str, known: Collection[str]) -> str:
    """Return a question for the known names that may be meant; empty if none is close.

    >>> near("itk", ["itq", "lsh"]), near("hnsw", ["npy", "faiss-flat", "faiss-hnsw"]), near("x", [])
    ('did you mean itq?', 'did you mean faiss-hnsw?', '')
    """
    plain, by_form = plain_name(name), {plain_name(other): other for other in known}
    longer = [form for form in by_form if plain in form][:3] if len(plain) > 2 else []
    close = [by_form[form] for form in longer or get_close_matches(plain, by_form)]
    return f"did you mean {' or '.join(close)}?" if close else ""


def near_quoted(name: str, choices: str) -> str:
    """Return the same question for the names that a message of a library quotes.

    >>> near_quoted("lable", "Input should be 'labels' or 'neighbours'")
    'did you mean labels?'
    """
    return near(name, re.findall("'([^']*)'", choices))


def check_choice(what: str, value: object, choices: Collection[object]) -> None:
    """Raise ValueError, with similar names, unless a value is one of the choices. `what` names the argument."""
    if value not in list(choices):  # a dict would refuse values without a hash
        names = list(map(str, choices))
        message = f"{what}: expected one of {', '.join(names)}, found {value!r}"
        raise ValueError(": ".join(filter(None, (message, near(str(value), names)))))


def counted(n: int, one: str, many: str = "") -> str:
    """Return a number of things; `many` is their plural, if it is not that of `one` with an s.

    >>> counted(1, "row"), counted(2000, "row"), counted(0, "query", "queries")
    ('1 row', '2,000 rows', '0 queries')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"
