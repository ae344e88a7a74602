"""Run the tutorial's blocks in order, in an empty folder, and print the page with what they print.

    python docs/tutorial.py > page && mv page docs/tutorial.md

Blocks after the heading "Labels: MNIST" run only if HASHKILN_DATA names a folder with the files; otherwise they stay as
they are. docs/first_hour.py measures the time of each block.
"""

import io
import os
import re
import shlex
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from typer.testing import CliRunner

PAGE = Path(__file__).with_suffix(".md")
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```\n(?:\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)


def executed(text: str, folder: str) -> str:
    """Return the text with each block followed by its output."""
    from workflows.cli import app

    names: dict[str, object] = {}

    def run(match: re.Match[str]) -> str:
        language, code = match.groups()
        printed = io.StringIO()
        if language == "python":
            with redirect_stdout(printed):
                exec(code, names)  # noqa: S102  # our own page
        for line in code.splitlines() if language == "sh" else ():
            done = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
            if done.exit_code:
                sys.exit(f"{line}: exit code {done.exit_code}\n{done.output}")
            printed.write(done.stdout)
        output = "\n".join(_without(folder, line) for line in printed.getvalue().splitlines())
        return f"```{language}\n{code}```\n" + (f"\n```text\n{output}\n```\n" if output else "")

    return BLOCK.sub(run, text)


def _without(folder: str, line: str) -> str:
    """Return a line in which paths are relative to the folder; the cells of tables keep their width."""
    shorter = line.replace(f"{folder}/", "").rstrip()
    return f"{shorter[:-1].ljust(len(line) - 1)}{shorter[-1]}" if shorter.endswith("│") else shorter


def main() -> None:
    page = PAGE.read_text()
    first, heading, mnist = page.partition("## Labels: MNIST\n")
    data = os.environ.get("HASHKILN_DATA")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ |= {"HASHKILN_HOME": f"{folder}/.hashkiln", "HASHKILN_EXECUTOR": "inprocess"}
        print(executed(first, folder) + heading + (executed(mnist, folder) if data else mnist), end="")


if __name__ == "__main__":
    main()
