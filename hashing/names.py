"""Words for people: names that are equal up to case, hyphens and underscores, suggestions, and counted things."""

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

    >>> near("itk", ["itq", "lsh"]), near("x", [])
    ('did you mean itq?', '')
    """
    by_form = {plain_name(other): other for other in known}
    close = [by_form[form] for form in get_close_matches(plain_name(name), by_form)]
    return f"did you mean {' or '.join(close)}?" if close else ""


def check_choice(what: str, value: object, choices: Collection[object]) -> None:
    """Raise ValueError unless a value is one of the choices. `what` is the name of the argument."""
    if value not in list(choices):  # a dict would refuse values without a hash
        raise ValueError(f"{what}: expected one of {', '.join(map(str, choices))}, found {value!r}")


def counted(n: int, one: str, many: str = "") -> str:
    """Return a number of things; `many` is their plural, if it is not that of `one` with an s.

    >>> counted(1, "row"), counted(2000, "row"), counted(0, "query", "queries")
    ('1 row', '2,000 rows', '0 queries')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"
