"""Prints docs/methods.md: the catalogue, from its own docstrings, and what was measured, from benchmarks/results.

python docs/methods.py > docs/methods.md
"""

from dataclasses import fields

from results import rows as measured

from hashing.deep import losses
from hashing.deep.method import Deep
from hashing.methods import METHODS
from workflows.benchmark.grid import Row
from workflows.reports.benchmark import table

HEAD = """# Methods

Every method of the catalogue, `hashkiln methods`, in the words of its own file in `hashing/methods/`. Made by
`make docs` from those files and from the measured rows in `benchmarks/results/`; edit nothing here. The tables of all
methods side by side, with the protocol and the versions, are in [results.md](results.md).

Measured is the precision within Hamming radius 2 in %, the mean over seeds with its deviation; in brackets what Do,
Doan & Cheung, ECCV 2016, published. Unsupervised methods are judged by the 50 nearest neighbours (10,000 for
photosift), supervised ones by labels.
"""

DEEP = """All have the hyper-parameters of their training, unless another default is said: {defaults}.

To the loss of each, `--set regularizers=decov:0.1+so:0.01` adds terms by name and weight: of the outputs u (n, n_bits)
of a batch (of each view, where there are two; of SuBiC, whose bits are one of a block, none), or of the weights W of
each linear and convolutional layer, a row for each unit or filter. They are sums, as in their papers: `decov` and
`independence` grow with the fourth power of u, which has no bound, so that a linear network at a high rate may need a
smaller weight (training says so where it diverges).
"""


def main() -> None:
    rows = measured()
    print(HEAD)
    for title in ("Unsupervised and data-independent", "Supervised", "Deep"):
        print(f"# {title}\n")
        if title == "Deep":
            print(DEEP.format(defaults=defaults(Deep)))
            for regularizer, term in (losses.OF_OUTPUTS | losses.OF_WEIGHTS).items():
                print(f"- `{regularizer}`: {' '.join((term.__doc__ or '').split())}")
            print()
        for name, cls in sorted(METHODS.items()):
            if title == (
                "Deep"
                if issubclass(cls, Deep)
                else "Supervised"
                if cls.supervised
                else "Unsupervised and data-independent"
            ):
                print(section(name, cls, [row for row in rows if row.method == name and row.protocol == "bdnn"]))


def defaults(cls: type, beyond: type | None = None) -> str:
    """The fields of a method but n_bits, and their defaults; without those that another class has alike."""
    known = {field.name: field.default for field in fields(beyond)} if beyond else {}
    own = [field for field in fields(cls)[1:] if known.get(field.name, ...) != field.default]
    return ", ".join(f"`{field.name}={field.default}`" for field in own) or "none"


def section(name: str, cls: type, rows: list[Row]) -> str:
    text, _, reference = (cls.__doc__ or "").partition("Reference:")
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    own = defaults(cls, Deep if issubclass(cls, Deep) else None)
    lines = [f"## {cls.__name__} (`{name}`)", *paragraphs, f"Hyper-parameters: {own}."]
    lines.append(f"Reference: {' '.join(reference.split())}")
    for dataset in dict.fromkeys(row.dataset for row in rows):
        lines += [f"Measured on {dataset}:", table([r for r in rows if r.dataset == dataset], "precision_radius_2")]
    return "\n\n".join(line for line in lines if line) + "\n"


if __name__ == "__main__":
    main()
