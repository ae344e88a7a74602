"""The `hashkiln` command. Heavy modules are imported where they are used, so that --help answers at once."""

import atexit
import json
import logging
import os
import shlex
import signal
import sys
import threading
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.exceptions import TyperException
from typer.rich_utils import rich_format_error

from . import benchmark, catalogue, demo, deploy, embed, maintenance, plan, reindex, run, search
from .common import FAILED, INTERRUPTED, REJECTED, USAGE, LogLines, errors
from .display import STAGES, Display

# Exit codes by the name of an error, because importing the classes is slow. LookupError means a table, version, dataset
# or split that does not exist; its subclasses, such as KeyError, mean other failures.
EXIT = {
    "GateRejected": REJECTED, "UsageError": USAGE, "SettingsError": USAGE, "SourceRefused": USAGE, "LookupError": USAGE,
    "EncoderRefused": USAGE, "ExportRefused": USAGE, "OtherCodes": USAGE,
}  # fmt: skip

STOP_SECONDS = 10  # time to stop Prefect's server and Ray after Ctrl-C

app = typer.Typer(
    help="Learn binary codes, encode whole datasets into versioned Parquet bit columns, and measure their quality.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-").lower(),  # of commands, options and choices
    },
)
for module in (catalogue, demo, embed, run, plan, reindex, deploy, benchmark, search, maintenance):
    app.add_typer(module.app)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"hashkiln {version('hashkiln')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options of `hashkiln` itself."""


def prepare() -> None:
    """Set up the environment of a run: Prefect's home folder, no telemetry, and our own log lines."""
    from ..embedded import log_lines, set_prefect_environment

    set_prefect_environment()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[LogLines()])
    log_lines()


def interrupted(*_: Any) -> None:
    """Print what is kept, and end the process; at once on a second Ctrl-C.

    Prefect would catch an exception, and wait for its server, which the terminal has interrupted too. A run may end
    anywhere (tests/faults), so only the servers and workers of this process have to be stopped.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, _stop_servers)
    signal.alarm(STOP_SECONDS)
    # This thread may hold the terminal's lock, for which the display's thread may wait while it holds the display's: so
    # it has to go on, and another thread prints.
    threading.Thread(target=_say_what_is_kept).start()


def _say_what_is_kept() -> None:
    for display in [handler for handler in logging.getLogger(STAGES).handlers if isinstance(handler, Display)]:
        display.stop()
    again = shlex.join(["hashkiln", *sys.argv[1:]])
    kept = "Finished work is kept, and nothing is half published. To continue, run again:"
    report("Interrupted", f"Interrupted. {kept} {again}", INTERRUPTED)
    sys.stdout.flush()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)


def _stop_servers(*_: Any) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os._exit(INTERRUPTED))
    signal.alarm(STOP_SECONDS)
    logging.disable(logging.CRITICAL)  # Prefect's services complain of what they could not send
    atexit._run_exitfuncs()
    os._exit(INTERRUPTED)


def as_json() -> bool:
    """Return whether the command line asks for JSON on stdout; `benchmark --json FILE` writes a file."""
    command, *_ = given = [argument.partition("=")[0].lower() for argument in sys.argv[1:]] or [""]
    return command != "benchmark" and "--json" in given


def report(kind: str, message: str, code: int) -> None:
    """Print an error: on stderr, or with --json on stdout as an object, instead of the result."""
    if as_json():
        print(json.dumps({"error": {"type": kind, "message": message, "exit": code}}, indent=2))
    else:
        errors.print(f"[red]{escape(message)}", soft_wrap=True)


def _with_choices(message: str) -> str:
    """Return a message of Typer with the choices that may be meant, if it is about a choice.

    >>> _with_choices("'fais' is not one of 'npy', 'faiss-flat', 'faiss-ivf'.")
    "'fais' is not one of 'npy', 'faiss-flat', 'faiss-ivf': did you mean faiss-flat or faiss-ivf?"
    """
    from hashing.names import near_quoted

    value, _, choices = message.partition(" is not one of ")
    meant = near_quoted(value.strip("'"), choices)
    return f"{message.removesuffix('.')}: {meant}" if meant else message


def main() -> None:
    """Run the command line. Print errors as one line, without a traceback unless HASHKILN_VERBOSE is set."""
    if "_HASHKILN_COMPLETE" in os.environ:  # the shell completes a word, and waits for it
        app()
    signal.signal(signal.SIGINT, interrupted)
    try:
        prepare()
        code = app(standalone_mode=False)
        sys.exit(code or 0)
    except TyperException as error:
        error.message = _with_choices(error.message.removeprefix("Value error, "))  # of pydantic, left by Typer
        if not as_json():
            rich_format_error(error)  # type: ignore[arg-type]  # Typer does not export the class that it takes
            sys.exit(error.exit_code)
        kind, message, code = type(error).__name__, error.format_message(), error.exit_code
    except typer.Abort:
        kind, message, code = "Abort", "Aborted.", FAILED
    except Exception as error:
        if os.environ.get("HASHKILN_VERBOSE"):
            raise
        message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        if not isinstance(error, (ValueError, LookupError, OSError, RuntimeError)):
            found = " ".join(message.split())
            message = f"unexpected {type(error).__name__}: {found}: set HASHKILN_VERBOSE=1 for the traceback"
        kind, code = type(error).__name__, EXIT.get(type(error).__name__, FAILED)
    report(kind, message, code)
    sys.exit(code)
