"""The software and hardware of a run, as one line for the head of its table."""

import platform
import re
from importlib.metadata import version
from pathlib import Path


def line(*packages: str) -> str:
    """Return the versions of Hashkiln, of the given packages and of Python, and the processor."""
    info = Path("/proc/cpuinfo")
    model = re.search("model name\\s*: (.*)", info.read_text()) if info.exists() else None
    named = ", ".join(f"{name} {version(name)}" for name in ("hashkiln", "numpy", *packages))
    return f"{named}, Python {platform.python_version()}; {model[1] if model else platform.machine()}"
