"""The running cluster as the tests see it: runs of the driver, what readers see, and when nodes are lost."""

import json
import re
import sys
import time
from pathlib import Path

from tests.prefect_server import until

SHARDS, ROWS, D = 12, 20_000, 96  # a new version has this number of new shards
HERE = Path(__file__).parent
PROGRAMS = str(HERE / "programs.py")
TESTS = {"PYTHONPATH": str(HERE.parents[1])}  # the programs import from tests, which is not installed
REINDEX = ("reindex", "--dataset", "mine", "--bits", "64", "--queries", "500", "--set", "n_iter=20")


class Run:
    """A command on the driver's host."""

    def __init__(self, services, folder, number, command, environment):
        self.log = folder / f"run-{number}.log"
        self.start = time.monotonic()
        self.process = services.run(*command, log=self.log, **environment)

    @property
    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def json(self):
        """The JSON of the output, which stands between lines of Ray."""
        return json.JSONDecoder().raw_decode(self.text, re.search(r"^[{\[]$", self.text, re.MULTILINE).start())[0]

    def reaches(self, pattern, seconds=150):
        """Wait for a line of the log."""

        def found():
            ended = self.process.poll() is not None
            seen = re.search(pattern, self.text)
            assert seen or not ended, f"the run ended before {pattern}:\n{self.text[-4000:]}"
            return seen

        return until(found, seconds, f"{pattern} in\n{self.text[-2000:]}")

    def ends(self, seconds=280):
        """Return the exit code and the seconds of the whole run."""
        code = self.process.wait(timeout=seconds)
        return code, time.monotonic() - self.start


class Cluster:
    """Services with a dataset `mine` on S3, whose source grows by one batch of shards for each version."""

    def __init__(self, services, folder):
        self.services, self.folder, self.runs, self.batches = services, folder, 0, 0
        self.hosts = services.network.hosts
        self.grow()
        self.command("ingest", "s3://hashkiln/source", "--name", "mine")
        assert self.command(*REINDEX)[0] == 0
        self.reader = self.watch("prefect", "read")
        self.nodes = self.watch("ray-head", "nodes")

    def program(self, host, name, *arguments, check=True):
        """Run one of programs.py to its end on a host, with the driver's environment; its output."""
        env = (
            self.services.environment("driver") | TESTS | {"HASHKILN_EXECUTOR": "inprocess"}
        )  # a host need not be of Ray
        ran = self.hosts[host](sys.executable, PROGRAMS, name, *map(str, arguments), env=env, check=False)
        assert not ran.returncode or not check, f"{name}:\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
        return ran.stdout

    def watch(self, host, name):
        """Start one of programs.py on a host, which appends JSON lines to a file of its name; the file."""
        file = self.folder / f"{name}.jsonl"
        with file.open("ab") as out:
            command = [sys.executable, PROGRAMS, name]
            self.hosts[host].popen(command, out, self.services.environment("driver") | TESTS, self.folder / "driver")
        until(lambda: file.stat().st_size, 60, f"lines in {file.name}")
        return file

    def grow(self):
        """Write a batch of shards to the source."""
        self.program("driver", "grow", self.batches, SHARDS, ROWS, D)
        self.batches += 1

    def run(self, *command, program=("hashkiln",), **environment):
        """Start a command on the driver's host."""
        self.runs += 1
        return Run(self.services, self.folder, self.runs, [*program, *command], environment)

    def reindex_to(self, line, *options):
        """Grow the source, start to re-index it, and wait for a line of the log; the run."""
        self.grow()
        run = self.run(*REINDEX, *options)
        run.reaches(line)
        return run

    def command(self, *command):
        """Run a `hashkiln` command to its end; its exit code and seconds."""
        run = self.run(*command)
        code, seconds = run.ends()
        assert code == 0, run.text[-6000:]
        return code, seconds

    def plan(self):
        """Return the number of shards that the next run will encode."""
        run = self.run(*REINDEX, "--dry-run", "--json")
        code, _ = run.ends()
        assert code == 0, run.text
        return run.json["rows"] // ROWS

    def holds(self, seconds):
        """Let a state last for a time, in which the reader goes on."""
        end = time.time() + seconds
        until(lambda: time.time() > end, seconds + 5, "the time to pass")

    def lines(self, file):
        whole = file.read_text().split("\n")[:-1]  # the last may be half written
        return [json.loads(line) for line in whole if line.startswith("{")]

    def lost(self, name, since):
        """Return the seconds until the cluster counted the node of a host as dead."""
        address = self.hosts[name].address

        def dead():
            return next((e for e in self.lines(self.nodes) if e["at"] > since and address not in e["alive"]), None)

        return until(dead, 120, f"the loss of {name}")["at"] - since

    def restart(self, *names):
        """Start the hosts again, with their services."""
        for name in names:
            self.hosts[name].start()
            if name != "driver":
                self.services.start(name)

    def check(self, encoded=SHARDS):
        """Check what readers saw so far, and that the published version has each source row once.

        Its last run encoded this number of shards. Returns a line for the summary.
        """
        seen = self.lines(self.reader)
        versions = {}
        for entry in seen:
            if "error" not in entry:
                versions.setdefault(entry["version"], set()).add((entry["rows"], entry["digest"]))
        half = [name for name, contents in versions.items() if len(contents) > 1]
        assert not half, f"readers saw different contents of {half}"
        assert all(rows % (SHARDS * ROWS) == 0 for contents in versions.values() for rows, _ in contents)
        found = json.loads(self.program("prefect", "audit"))
        assert found["rows"] == self.batches * SHARDS * ROWS
        assert found["problems"] == []
        assert found["doubled"] == 0
        assert found["encoded"] == encoded * ROWS
        reads, failed = len(seen), sum("error" in entry for entry in seen)
        return f"{reads} reads of {len(versions)} versions, {failed} failed, 0 half; {found['rows']:,} rows, none twice"
