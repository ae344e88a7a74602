"""Connect to the Ray cluster of an address, or start Ray on this machine."""

import logging
import os
import secrets
import socket
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from .nodes import check_versions, nodes

logger = logging.getLogger(__name__)


def connect_to_ray(address: str, cpus: int | None, check: bool = True) -> str:
    """Connect to the cluster at an address if needed, or start Ray with some CPUs, and return its description.

    Parameters
    ----------
    address
        Address of the cluster; empty: start Ray on this machine.
    cpus
        CPUs of the Ray of this machine; all if None.
    check
        Whether to check that all nodes of the cluster run the code and the libraries of this process.

    Raises
    ------
    ConnectionError
        If the cluster does not answer; a local one is never started instead.
    SettingsError
        If a node runs other code or libraries. The message names it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        # Ray's servers listen on every interface, whatever the node address. This token restricts access to child
        # processes, as it exists in our environment only; Ray's own would be in the home folder.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if not ray.is_initialized():
        _log_messages()
        if address:
            _join(address)
            if check:
                try:
                    check_versions()
                except BaseException:
                    ray.shutdown()  # else the next call would find the cluster joined, and not check it
                    raise
            logger.info("Joined %s", _describe())
        else:
            _start(cpus)
            logger.info("Started local %s", _describe())
    return _describe()


def _log_messages() -> None:
    """Log what Ray says of lost nodes and tasks. It prints it to stdout, which has the results of commands."""
    from ray._private import worker

    printed = worker.print_to_stdstream  # Ray has no option for it
    if printed.__module__ == __name__:
        return

    def log(data: dict[str, Any], ignore_prefix: bool) -> None:
        if data.get("pid") != "raylet":  # output of tasks, if a program asks for it
            printed(data, ignore_prefix)
            return
        for line in data["lines"]:
            _log_once(line.partition("\n")[0])  # the rest are lines of Ray's own log

    worker.print_to_stdstream = log


@cache
def _log_once(message: str) -> None:
    """Log a message, which Ray sends for each of many tasks."""
    logger.warning("Ray: %s", message)


def _describe() -> str:
    import ray

    found = nodes()
    cpus, gpus = sum(node.cpus for node in found), sum(node.gpus for node in found)
    with_gpus = f", {gpus:g} GPUs" if gpus else ""
    return f"Ray at {ray.get_runtime_context().gcs_address}: {len(found)} node(s), {cpus:g} CPUs{with_gpus}"


def _start(cpus: int | None) -> None:
    import ray
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # not in Ray's stub

    Config.initialize("")  # Ray reads the token when it is imported, which the program may have done before it was set
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        ray.init(
            address="local",
            num_cpus=cpus or len(os.sched_getaffinity(0)),
            object_store_memory=2**30,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _node_ip_address="127.0.0.2",  # Ray ignores 127.0.0.1, and other addresses are not loopback
        )
    except Exception as error:  # Ray raises this class itself if a node takes more than 30 seconds
        raise ConnectionError(
            f"Ray did not start on this machine: {' '.join(str(error).split())} If the machine is busy, try again "
            "later; HASHKILN_EXECUTOR=inprocess runs without Ray, on one CPU"
        ) from error


def _join(address: str) -> None:
    import ray

    host, port = _endpoint(address)
    if host:
        try:  # Ray itself would retry for a minute, and log a page
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            raise ConnectionError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:
        needs = "a driver needs a Ray node on its own host: `ray start --address=HEAD:6379 --num-cpus=0`"
        raise ConnectionError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}; {needs}") from error
    joined = ray.get_runtime_context().gcs_address
    if host and "://" not in address and _endpoint(joined)[1] != port:
        ray.shutdown()
        raise ConnectionError(f"RAY_ADDRESS={address}: connected to another Ray cluster, {joined}")


def _endpoint(address: str) -> tuple[str, int]:
    """Return host and port of host:port or scheme://host:port; an empty host for `auto`."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    return (parts.hostname or "", parts.port) if parts.port else ("", 0)
