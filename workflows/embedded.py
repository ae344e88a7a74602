"""The environment of Prefect embedded in a process of ours, which it reads when it is imported."""

from __future__ import annotations

import os
from pathlib import Path


def environment() -> None:
    """Set what the user has not set: Prefect's home is ours, and nothing is reported to anybody."""
    from infra.settings import Settings

    os.environ.setdefault("PREFECT_HOME", str(Settings().home / "prefect"))
    for name, value in {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what goes wrong is said once, by us
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }.items():
        os.environ.setdefault(name, value)


def prefect_home() -> None:
    """Make the folder that Prefect expects: without it its import warns, and its server waits in vain."""
    environment()
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
