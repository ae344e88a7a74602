"""A Ray that claims two GPUs and an `ssd`, in a process of its own: the scheduling is real, the GPUs are not."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from subprocess import PIPE
from unittest import mock

ROOT = Path(__file__).parents[2]


class FakeGpus:
    """The process, which runs the `main` of test modules, one after the other."""

    def __init__(self, folder):
        self.log = folder / "log"
        command, pipes = [sys.executable, "-m", "tests.infra.fake_gpus"], {"stdin": PIPE, "stdout": PIPE}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, **pipes, stderr=log, text=True, cwd=ROOT)

    def run(self, module, *arguments):
        """Return what `main(executor, *arguments)` of a module returns."""
        print(json.dumps([module, *map(str, arguments)]), file=self.process.stdin, flush=True)
        lines = iter(self.process.stdout.readline, "")
        found = next((line for line in lines if line.startswith("found ")), None)
        assert found, self.log.read_text()
        return json.loads(found[6:])

    def stop(self):
        self.process.stdin.close()  # the process ends
        self.process.wait(timeout=300)
        self.process.stdout.close()


def main():
    import tests.conftest  # noqa: F401  # first, as it clears the environment
    from infra.executors import Ray

    os.environ["RAY_OVERRIDE_RESOURCES"] = json.dumps({"GPU": 2, "ssd": 1})
    executor = Ray(cpus=4)
    executor.join()
    for line in sys.stdin:
        module, *arguments = json.loads(line)
        with mock.patch.dict(os.environ):
            print("found", json.dumps(import_module(module).main(executor, *arguments)), flush=True)


if __name__ == "__main__":
    main()
