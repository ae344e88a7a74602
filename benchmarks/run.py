"""Run the benchmarks one after the other, each in a process of its own, and write their results.

    python benchmarks/run.py [--full] [--peers] [--out FOLDER] [--seconds 300] [NAME...]

FOLDER/NAME.json is replaced if NAME succeeds. Benchmarks that fail or exceed the time limit are named at the end, and
the exit code is then 1; the others still run. `make bench` runs this and makes docs/performance.md of the results.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# Scripts that compare with a peer, then those that do not, and those that take minutes.
PEERS = ("hamming", "search", "multi_index", "encode", "itq", "training", "evaluation", "neighbours")
NAMES = (*PEERS, "scale", "reindex", "reader", "keys")
FULL = (*NAMES, "fit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(NAMES)}; --full: fit, too")
    parser.add_argument("--full", action="store_true", help="measure the cases that take minutes, too")
    parser.add_argument("--peers", action="store_true", help=f"by default {', '.join(PEERS)}")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "performance")
    parser.add_argument("--seconds", type=float, help="that one benchmark may take; default 300, or 7200 with --full")
    options = parser.parse_args()
    seconds = options.seconds or (7200 if options.full else 300)
    failed = []
    for name in options.names or (PEERS if options.peers else FULL if options.full else NAMES):
        start, why = time.monotonic(), ""
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(options.out / f"{name}.json")]
        print(f"\n--- {name}", flush=True)
        try:
            done = subprocess.run([*command, *["--full"] * options.full], timeout=seconds)
            why = f"exit code {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            why = f"stopped after {seconds:.0f} s"
        print(f"--- {name}: {why or 'done'}, {time.monotonic() - start:.0f} s", flush=True)
        failed += [f"{name} ({why})"] if why else []
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
