"""The code blocks of the documents: which test runs each, and why no test runs the others.

- Blocks of `text` are no code, and docs/commands.py writes those of `console`.
- IN_ORDER names the test that runs all blocks of some languages of a document.
- RUN names the test that runs a block, and NOT_RUN says why no test does. A part of its text identifies the block.

tests/test_blocks.py fails for a block that belongs to none of these, or to two, and checks the commands, options and
names in all of them, run or not. docs/first_hour.py prints the counts.
"""

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent
NO_CODE = ("text", "console")

HERE, SERVICES = "tests/test_blocks.py", "tests/test_blocks_with_services.py"
TUTORIAL, ENGINES = "tests/test_docs.py", "tests/test_engines.py"
BACKUP, RIGHTS = "tests/workflows/test_backup.py", "tests/workflows/test_rights.py"
OUTSIDE = "tests/hashing/methods/test_outside_methods.py"
JOBS, RAY_UP = "tests/cluster/test_cluster.py", "tests/cluster/test_ray_up.py"

GUIDES = [
    f"how-to/{name}" for name in ("bring-your-data", "export", "add-a-method", "compare-methods", "read-the-codes")
]
PAGES = ["../README", "serving", "operations", "reference/python"]
IN_ORDER = {
    "tutorial": (TUTORIAL, ("sh", "python")),
    **dict.fromkeys(GUIDES, (HERE, ("sh", "python"))),
    **dict.fromkeys(PAGES, (SERVICES, ("python",))),
}
RUN = {
    "engines": dict.fromkeys(("ds.dataset", "selected_fields", "pl.read", "pl.scan", "duckdb.read"), ENGINES),
    "examples/hashkiln-example-method/README": {"pip install": OUTSIDE},
    "gpu": {"scan.topk": SERVICES},
    "operations": dict.fromkeys(
        ("hashkiln gc", "hashkiln deploy", "hashkiln rollback", "hashkiln delete", "s3://bucket", "OAUTH2"), SERVICES
    ),
    "how-to/add-a-method": {"entry-points": OUTSIDE},
    "how-to/backup": {
        **dict.fromkeys(("sqlite3", 'cp "$BACKUP', "pg_dump", "pg_restore"), BACKUP),
        "hashkiln verify": SERVICES,
    },
    "how-to/choose": {"hashkiln plan": SERVICES},
    "how-to/cluster": {"8265 --runtime-env-json": JOBS, **dict.fromkeys(("--working-dir", "ray up"), RAY_UP)},
    "how-to/embed": {"hashkiln embed": SERVICES},
    "how-to/export": {"psql": SERVICES},
    "how-to/observe": {"OTEL_EXPORTER": SERVICES},
    "how-to/secure": {"PutObject": RIGHTS, 'Action": "s3:GetObject"': RIGHTS, "REVOKE": RIGHTS},
    "how-to/upgrade": {"hashkiln doctor": SERVICES},
}
_ENGINE = (
    "`make dev` does not install the engine; `HASHKILN_ENGINES=PATH make test-all` runs it with the Python at PATH"
)
_REQUESTS = f"the server does not install from a package; `{SERVICES}` sends the requests to a server that records them"
_KUBERNETES = "needs Kubernetes; `tests/infra/test_deployment_files.py` renders the files and checks them"
NOT_RUN = {
    "../README": {"make run": "`docs/first_hour.py` runs `make run`, and CI the tests"},
    "../CONTRIBUTING": {"make dev": "sets up the environment in which tests run; CI runs `make dev lint test`"},
    "tutorial": {"make setup": "`docs/first_hour.py` runs it, in a new clone"},
    "engines": dict.fromkeys(("LOAD iceberg", "daft.read_parquet", "daft.read_iceberg", "pyspark"), _ENGINE),
    "gpu": {
        "HASHKILN_ENCODE_GPUS": "needs a GPU; `tests/workflows/reindex/test_gpus.py` encodes in tasks that take "
        "a GPU which Ray claims to have"
    },
    "how-to/cluster": {
        "PREFECT_API_URL": "settings; `tests/cluster/services.py` reads those of Compose, which are the same",
        "docker build": "needs Docker; `tests/cluster/test_image.py` builds the image with buildah",
        "docker compose": "needs Docker; `tests/cluster/test_cluster.py` runs the services on hosts of one machine",
        "kubectl create": _KUBERNETES,
        "kubectl -n hashkiln delete": _KUBERNETES,
        "prefect worker": "needs Kubernetes; `tests/workflows/test_deployments.py` creates the work pool",
        "sbatch": "needs 4 nodes; `tests/cluster/test_cluster.py` submits the script to a Slurm of two",
    },
    "how-to/export": dict.fromkeys(("$MILVUS", "$HOST", "$QDRANT"), _REQUESTS),
    "how-to/observe": {
        "prometheus": "does not end; `tests/infra/test_telemetry.py` runs Prometheus with the file",
    },
}


class Block(NamedTuple):
    """A fenced block of a document."""

    document: str  # its path in docs, without the suffix
    line: int
    language: str
    text: str

    def run_by(self) -> list[str]:
        """Return the tests that run the block."""
        test, languages = IN_ORDER.get(self.document, ("", ()))
        named = [test for part, test in RUN.get(self.document, {}).items() if part in self.text]
        return named + [test] * (self.language in languages)

    def not_run(self) -> list[str]:
        """Return why no test runs the block."""
        return [why for part, why in NOT_RUN.get(self.document, {}).items() if part in self.text]


def documents() -> list[str]:
    """Return the documents that have blocks of code."""
    pages = [path.relative_to(DOCS).with_suffix("").as_posix() for path in sorted(DOCS.rglob("*.md"))]
    return [page for page in ("../README", "../CONTRIBUTING", *pages) if code(page)]


def code(document: str) -> list[Block]:
    """Return the blocks of a document that are code."""
    return [block for block in blocks(document) if block.language not in NO_CODE]


def block(document: str, part: str) -> str:
    """Return the text of the only block of a document that contains a text."""
    (found,) = [block for block in code(document) if part in block.text]
    return found.text


def blocks(document: str) -> list[Block]:
    """Return the blocks of a document."""
    text = (DOCS / f"{document}.md").read_text()
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(document, text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in fences]


def section() -> str:
    """Return what tests run, by document, and what no test runs, as sections of a page in Markdown."""
    pages = {name: code(name) for name in documents()}
    run = {name: [block for block in found if not block.not_run()] for name, found in pages.items()}
    counts, left = [], []
    for name, found in pages.items():
        tests = sorted({f"`{test}`" for block in run[name] for test in block.run_by()})
        counts.append(f"| {name.removeprefix('../')} | {len(found)} | {len(run[name])} | {', '.join(tests)} |")
        for block in found:
            first = block.text.partition("\n")[0].partition("  #")[0].strip()
            left += [f"| {name.removeprefix('../')} | `{first}` | {why} |" for why in block.not_run()]
    total, executed = (sum(map(len, each.values())) for each in (pages, run))
    return f"""## The code in the documents that tests run

Tests run {executed} of the {total} code blocks of the documents:

| document | blocks | run | by |
|---|---|---|---|
{chr(10).join(counts)}

They do not run the others, but check that their commands, options and names exist:

| document | block that begins with | why |
|---|---|---|
{chr(10).join(left)}
"""


if __name__ == "__main__":
    print(section(), end="")
