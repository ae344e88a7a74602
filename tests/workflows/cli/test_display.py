"""The display of a run, on a pseudo-terminal."""

import logging
import os
import re
import subprocess
import sys
from contextlib import suppress

import pytest
from rich.console import Console

from infra.observability import ignore_epochs, logged_stage, report_epochs
from tests.workflows.cli.terminal import Terminal
from workflows.cli import common


@pytest.fixture
def shown(monkeypatch):
    """Run a function of the observer of progress; return the lines that its display leaves, and the terminal."""

    def show(work):
        terminal = show.terminal = Terminal()
        with os.fdopen(terminal.theirs, "w") as file:
            console = Console(file=file, force_terminal=True, _environ={"TERM": "xterm"}, width=80)
            monkeypatch.setattr(common, "errors", console)
            monkeypatch.setattr(logging.getLogger(), "handlers", [common.LogLines()])  # not those of Prefect
            with common.progress() as progress:
                work(progress)
        return terminal.read(), terminal

    monkeypatch.setattr(logging.getLogger("infra"), "level", logging.INFO)
    return show


def refresh(progress):
    """Draw now what the display draws ten times a second."""
    progress.callback.__self__.lines.refresh()


def test_a_stage_has_a_line_that_stays_below_the_log_lines(shown):
    def run(progress):
        progress("start", 0, 0)
        with logged_stage("fit") as fit:
            progress("moments", 1, 2)
            refresh(progress)
            logging.getLogger("infra").warning("a log line [with brackets]")
            fit.rows = 5000
        with logged_stage("gate"):
            pass

    lines, terminal = shown(run)
    first, *rest = lines.rstrip("\n").split("\n")
    assert first == "a log line [with brackets]"
    patterns = (r"start +\S+ +[\d.]+ s", r"fit +\S+ 5,000 rows, [\d,]+ rows/s +[\d.]+ s", r"gate +\S+ +[\d.]+ s")
    assert [bool(re.fullmatch(*pair)) for pair in zip(patterns, rest, strict=True)] == [True] * 3, lines
    assert "moments 1 of 2" in terminal.output  # while it ran
    assert max(map(len, rest)) < 80
    assert terminal.shows_cursor


def test_epochs_are_shown_in_the_line_of_their_stage(shown):
    def run(progress):
        epochs = [{"loss": 0.5, "score": 0.25, "seconds": 1.0}, {"loss": 0.25, "score": None, "seconds": 1.0}]
        with logged_stage("fit"):
            for n in (1, 2):
                report_epochs(progress, ignore_epochs, epochs[:n], 3)
                refresh(progress)

    lines, terminal = shown(run)
    assert "train, loss 0.5000, score 0.2500 1 of 3" in terminal.output
    assert "train, loss 0.2500 2 of 3" in terminal.output
    assert "epoch" not in lines


def test_cells_are_counted_and_their_lines_move_above(shown):
    def run(progress):
        with logged_stage("benchmark"):
            for done, cell in enumerate(("mnist, itq, 8 bits, seed 0", "mnist, itq, 16 bits, seed 0")):
                progress("cells", done, 2)
                refresh(progress)
                with logged_stage(cell, stays=False):
                    progress("moments", 1, 4)

    lines, terminal = shown(run)
    patterns = (
        r"mnist, itq, 8 bits, seed 0: [\d.]+ s",
        r"mnist, itq, 16 bits, seed 0: [\d.]+ s",
        r"benchmark +\S+ +[\d.]+ s",
    )
    assert [bool(re.fullmatch(*pair)) for pair in zip(patterns, lines.split("\n"), strict=False)] == [True] * 3, lines
    assert "cells 1 of 2" in terminal.output


def test_the_clock_of_a_stage_runs_while_nothing_is_reported(shown):
    def run(progress):
        with logged_stage("fit"):
            clocks = set()
            while len(clocks) < 3:
                shown.terminal.output = ""
                shown.terminal.read(until=" s")
                clocks |= set(re.findall(r"[\d.]+ s", shown.terminal.output))

    shown(run)


def test_a_failed_stage_says_so_and_the_next_try_has_its_own_line(shown):
    def run(progress):
        with suppress(OSError), logged_stage("encode"):
            progress("encode", 1, 2)
            raise OSError("lost")
        with logged_stage("encode"):
            pass

    lines, _ = shown(run)
    patterns = (r"encode +\S+ failed +[\d.]+ s", r"encode +\S+ +[\d.]+ s")
    assert [bool(re.fullmatch(*pair)) for pair in zip(patterns, lines.split("\n"), strict=False)] == [True] * 2, lines


def test_work_outside_of_stages_has_a_line_a_kind(shown):
    def run(progress):
        for label in ("ingest mine, learn", "ingest mine, base", "labels"):
            progress(label, 1000, 0)
            refresh(progress)

    lines, terminal = shown(run)
    assert [line.split(" ━")[0].rstrip() for line in lines.rstrip("\n").split("\n")] == ["ingest mine", "labels"]
    assert "ingest mine, base 1,000" in terminal.output


def test_a_listing_cuts_no_name_and_no_number(capsys, monkeypatch):
    monkeypatch.setattr(common, "console", Console(width=80))
    long = {"table": f"{'name' * 10}__density_sensitive128", "rows": "1,000,000,000", "bits": 128}
    rows = [long | {"at": "2026-11-29 10:11", "method": "density_sensitive"}]
    common.show([*rows, {**rows[0], "table": "mine__itq32"}], False, one_line=True)
    head, *lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert {len(line) for line in (head, *lines)} == {80}
    assert all(text in head + lines[0] for text in ("table", "1,000,000,000", "128", "10:11", "density_sensitive"))
    parts = [line.split() for line in lines]
    assert "".join([parts[0][0], *(part for (part,) in parts[1:-1])]) == long["table"]
    assert parts[-1][0] == "mine__itq32"
    monkeypatch.setattr(common, "console", Console(width=40))
    row = long | {"at": rows[0]["at"], "method": "itq"}
    common.show([row], False, one_line=True)
    printed = capsys.readouterr().out
    assert sorted("".join(printed.split())) == sorted(
        "".join("".join(map(str, pair)) for pair in row.items()).replace(" ", "")
    )


def test_a_dict_is_shown_with_its_names(capsys, monkeypatch):
    monkeypatch.setattr(common, "console", Console(width=40))
    common.show({"train": "a.gz", "folder": "out"}, False)
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.split("\n")[1:3]] == [
        ["│", "train", "│", "a.gz", "│"],
        ["│", "folder", "│", "out", "│"],
    ]


STUCK = """
import io, signal, sys, threading, time
from rich.console import Console
from workflows import cli
from workflows.cli.display import Display

class Terminal(io.StringIO):
    def write(self, text):
        if "a log line" in text:
            threading.Thread(target=display.lines.refresh).start()  # which waits for the terminal
            time.sleep(0.2)
            signal.raise_signal(signal.SIGINT)
        return sys.__stdout__.write(text)

cli.errors = Console(file=Terminal(), force_terminal=True, _environ={"TERM": "xterm"}, width=80)
signal.signal(signal.SIGINT, cli.interrupted)
sys.argv = ["hashkiln", "reindex"]
with Display(cli.errors) as display:
    display.progress("encode", 1, 2)
    cli.errors.print("a log line")
    for done in range(60_000):
        display.progress("encode", done, 60_000)
        time.sleep(0.01)
"""


def test_ctrl_c_in_the_middle_of_a_log_line_is_said():
    run = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False)
    assert run.returncode == 130, run.stderr
    assert re.search("encode.*not finished", run.stdout)
    assert "Interrupted. Finished work is kept" in run.stdout
