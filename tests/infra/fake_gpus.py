"""A Ray that claims GPUs, in a process of its own: the scheduling is real, the GPUs are not."""

import json
import os
import subprocess
import sys

from infra.executors import Ray


def start(gpus):
    """Start Ray with two CPUs, some claimed GPUs and an `ssd` in this process, and return the executor."""
    os.environ["RAY_OVERRIDE_RESOURCES"] = json.dumps({"GPU": gpus, "ssd": 1})
    executor = Ray(cpus=2)
    executor.join()
    return executor


def run(module, *arguments, **environment):
    """Run the `main` of a test module in another process, and return what it returns."""
    code = f"import json, sys; from {module} import main; print('found', json.dumps(main(*sys.argv[1:])))"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("found "))[6:])
