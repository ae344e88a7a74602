"""Time and memory of a hashkiln command, over all its processes.

    python benchmarks/footprint.py reindex --dataset photosift --method itq --bits 64

Memory is the sum of PSS (shared pages are divided among processes), sampled twice a second. The limit for 10^6 rows of
photosift, from ingest to publish, is 8 GiB. Run it in an empty HASHKILN_HOME, because finished work is not repeated.
"""

import subprocess
import sys
import time
from pathlib import Path

import psutil


def main():
    command = [str(Path(sys.executable).with_name("hashkiln")), *sys.argv[1:]]
    start, peak = time.monotonic(), 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            peak = max(peak, pss(process.pid))
            time.sleep(0.5)
    seconds = time.monotonic() - start
    print(f"{' '.join(sys.argv[1:])}: exit {process.returncode}, {seconds:.0f} s, {peak / 2**30:.2f} GiB peak")
    sys.exit(process.returncode)


def pss(pid):
    """Return the bytes held by a process and its descendants."""
    total = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it ended meanwhile
            continue
    return total


if __name__ == "__main__":
    main()
