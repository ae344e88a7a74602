"""Which Parquet files of vectors are decoded directly, bit for bit as by pyarrow, and which are left to pyarrow?

    python benchmarks/reader.py [--files 200]

The corpus of tests/storage/files/test_parquet_pages.py: random files of each writer, of all types, codecs and page
formats that it writes. Every file that is decoded is compared with pyarrow; a difference is an error.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import measure

sys.path.insert(0, str(measure.ROOT))

from tests.storage.files.test_parquet_pages import OTHERS, WRITERS, check_files  # needs the path above


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    with tempfile.TemporaryDirectory() as folder:
        for writer, types in WRITERS.items():
            counts = check_files(Path(folder, "v.parquet"), writer, range(options.files))
            direct = counts.pop("read")
            others = "; ".join(f"{n} others: {why}" for why, n in sorted(counts.items()))
            name = writer.__name__.removeprefix("by_").replace("_", " ")
            case = f"{options.files:,} files by {name}, of {', '.join(types)}"
            yield measure.Row(case, "files", direct, (direct, direct), note=others)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--files", type=int, default=200, help="of each writer")
    options = parser.parse_args()
    remarks = f"Other files are left to pyarrow: those with {', '.join(OTHERS)}; and those with deltas, encoding 5."
    packages = "pyarrow", "pandas", "polars", "duckdb"
    measure.run(__doc__, options, measured(options), packages=packages, remarks=remarks)


if __name__ == "__main__":
    main()
