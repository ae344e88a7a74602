"""Environment variables of embedded Prefect, which reads them on import, and our own log lines."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import suppress
from pathlib import Path
from queue import Empty

PACKAGES = ("hashing", "storage", "infra", "workflows")


def set_prefect_environment() -> None:
    """Set variables that the user has not set: Prefect's home folder, and no telemetry."""
    from infra.settings import Settings

    os.environ.setdefault("PREFECT_HOME", str(Settings().home / "prefect"))
    for name, value in {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # errors are reported once, by the command line
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        # Each request is tried six times, with pauses of a minute: a server that is away delays a run by two minutes.
        "PREFECT_API_REQUEST_TIMEOUT": "10" if os.environ.get("PREFECT_API_URL") else "20",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }.items():
        os.environ.setdefault(name, value)
    # Prefect warns when it is imported without its home folder, which a command that is refused does not create.
    warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")


def prefect_home() -> None:
    """Create Prefect's home folder, without which its server does not start."""
    from infra.settings import SettingsError

    set_prefect_environment()
    home = os.environ["PREFECT_HOME"]
    try:
        Path(home).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"cannot create the folder {home}: {error.strerror}: set HASHKILN_HOME to a folder that can be written"
        ) from error


def forget_unsent() -> None:
    """Drop the events and log lines that Prefect has not sent, as it tries each for minutes before the process ends."""
    from prefect._internal.concurrency.services import QueueService

    for service in list(QueueService._instances.values()):  # type: ignore[misc]  # the same for all kinds of items
        with suppress(Empty):
            while True:
                service._queue.get_nowait()
        if service._loop and service._task:  # it may be in the middle of one
            service._loop.call_soon_threadsafe(service._task.cancel)


def log_lines() -> None:
    """Let our own log lines through, such as the Ray cluster in use and unverified files."""
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.INFO)
