"""The completion of names in real shells: bash, and zsh and fish where they are installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflows.cli.terminal import Terminal
from tests.workflows.conftest import reindex, spec

BIN = Path(sys.executable).parent
WORDS = {  # the line so far, and what completes its last word
    "hashkiln fit --method itq_": {"itq_cca"},
    "hashkiln benchmark --methods lsh,itq_": {"lsh,itq_cca"},
    "hashkiln reindex --dataset fashion-mnist-": {"fashion-mnist-784-euclidean"},
    "hashkiln compare min": {"mine"},
    "hashkiln history mi": {"mine__lsh8"},
    "hashkiln evaluate mine__lsh8 --version v": {"v1"},
    "hashkiln diff mine__lsh8 ma": {"main"},
    "hashkiln export mine__lsh8 --to faiss-h": {"faiss-hnsw"},
}


@pytest.fixture
def environment(settings, mine):
    """The environment of a shell in which `hashkiln` is installed and has a table."""
    reindex(settings, spec(method={"method": "lsh", "bits": 8}))
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "xterm"}


def script(shell, environment):
    """Return the path of the completion script, as `hashkiln --show-completion` prints it in that shell."""
    asked = {**environment, "_HASHKILN_COMPLETE": f"source_{shell}"}
    path = Path(environment["HASHKILN_HOME"]) / f"complete.{shell}"
    path.write_bytes(subprocess.run([BIN / "hashkiln"], env=asked, capture_output=True, check=True).stdout)
    return path


def test_bash_completes_names(environment):
    lines = [f"source {script('bash', environment)}"]
    for line in WORDS:
        words = line.split(" ")
        lines += [f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; COMPREPLY=()"]
        lines += [f"_hashkiln_completion hashkiln; echo {'{'}COMPREPLY[*]{'}'}".replace("{", "${")]
    done = subprocess.run(
        [shutil.which("bash"), "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=True
    )
    assert [set(found.split()) for found in done.stdout.splitlines()] == list(WORDS.values()), done.stderr


@pytest.mark.slow
def test_fish_completes_names(environment):
    if not shutil.which("fish"):
        pytest.skip("SKIPPED FOR WANT OF FISH")
    lines = [
        f"source {script('fish', environment)}",
        *(f"complete -C '{line}' | string join ' '; echo" for line in WORDS),
    ]
    done = subprocess.run(
        [shutil.which("fish"), "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=True
    )
    found = [line for line in done.stdout.split("\n") if line]
    assert [set(line.split()) for line in found] == list(WORDS.values()), done.stderr


@pytest.mark.slow
def test_zsh_completes_names(environment):
    if not shutil.which("zsh"):
        pytest.skip("SKIPPED FOR WANT OF ZSH")
    path = script("zsh", environment)
    for line, (name,) in WORDS.items():
        terminal = Terminal(columns=200)
        ends = {"stdin": terminal.theirs, "stdout": terminal.theirs, "stderr": terminal.theirs}
        command = [shutil.which("zsh"), "-f", "-i"]
        with subprocess.Popen(command, env=environment, start_new_session=True, **ends) as shell:
            os.close(terminal.theirs)
            terminal.write(f"PS1=; autoload -Uz compinit; compinit -D -u; source {path}; echo rea''dy\n")
            terminal.read(until="ready")
            terminal.write(f"{line}\t")
            terminal.read(until=line.rpartition(" ")[0] + " " + name)
            shell.kill()
