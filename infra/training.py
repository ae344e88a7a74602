"""Training workers, in this process or on Ray Train, with checkpoints from which a lost run resumes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from hashing.mapreduce import Epoch, Resources, Worker

from .nodes import nodes
from .observability import observed

STATE_FILE = "state.pt"
RESTARTS = 3
WAIT = 24 * 3600  # seconds for other workers: some read more shards than others. Ray itself finds lost workers
OnReport = Callable[[Sequence[Epoch], int], None]  # all finished epochs, and the planned total
Loop = Callable[[Worker], None]


@dataclass
class Here:
    """The single worker of a run in this process."""

    folder: Path  # of its checkpoint
    on_report: OnReport
    threads: int
    device: str = "cpu"
    state: bytes = b""
    rank = 0
    world = 1

    def latest(self) -> bytes | None:
        if (file := self.folder / STATE_FILE).exists():
            self.state = file.read_bytes()
        return self.state or None

    def report(self, epochs: Sequence[Epoch], most: int, state: bytes) -> None:
        self.state = state
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{STATE_FILE}.{os.getpid()}"
        temporary.write_bytes(state)
        temporary.replace(self.folder / STATE_FILE)
        self.on_report(epochs, most)


def train_here(loop: Loop, name: str, checkpoints: str, taken: Resources, on_report: OnReport) -> bytes:
    """Run the loop in this process, on its GPU if it has one and takes it, and return the last state.

    Checkpoints are kept only in a local folder.
    """
    import torch

    device = "cuda" if taken.gpus and torch.cuda.is_available() else "cpu"
    with folder_of_runs("" if "://" in checkpoints else checkpoints) as runs:
        worker = Here(Path(runs) / name, on_report, _threads(taken), device)
        try:
            loop(worker)
        except ValueError:  # a mistake in the input: a retry would fail again
            shutil.rmtree(worker.folder, ignore_errors=True)
            raise
        shutil.rmtree(worker.folder, ignore_errors=True)
    return worker.state


@dataclass(frozen=True)
class OnRay:
    """A worker of Ray Train: this process."""

    rank: int
    world: int
    device: str
    threads: int

    def latest(self) -> bytes | None:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        return state_of(checkpoint) if checkpoint else None

    def report(self, epochs: Sequence[Epoch], most: int, state: bytes) -> None:
        import ray.train

        metrics = {"epochs": list(epochs), "most": most}
        if self.rank:
            ray.train.report(metrics)
            return
        with TemporaryDirectory() as folder:
            (Path(folder) / STATE_FILE).write_bytes(state)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def train_on_ray(loop: Loop, name: str, checkpoints: str, workers: int, taken: Resources, on_report: OnReport) -> bytes:
    """Run the loop on workers of the connected Ray cluster, and return the last state.

    If a worker is lost, all workers resume from the last checkpoint, RESTARTS times at most. If the driver is lost, a
    run of the same name resumes.

    Parameters
    ----------
    loop : called by each worker
    name : of the run
    checkpoints : folder or URL that all nodes see; if Ray cannot use it, a temporary folder of this machine is used
    workers : number of workers
    taken : what each takes of its node
    on_report : called with the finished epochs and the planned total

    Raises
    ------
    ValueError
        The loop raised it.
    RuntimeError
        Training failed after all restarts.

    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # each report waits for this interval
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths of shards may be relative
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    each = {"CPU": taken.cpus, "GPU": taken.gpus, "memory": taken.memory, **taken.custom}
    usable = "" if checkpoints.startswith("abfs") else checkpoints  # Ray does not read the credentials of Azure
    with folder_of_runs(usable) as runs, _listening(on_report) as callback:
        trainer = TorchTrainer(
            _run_loop,  # type: ignore[arg-type]  # its return value becomes Result.return_value
            train_loop_config={"loop": loop, "threads": _threads(taken)},
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=bool(taken.gpus),
                resources_per_worker={name: value for name, value in each.items() if value},
            ),
            torch_config=TorchConfig(timeout_s=WAIT),
            run_config=RunConfig(
                name=name,
                storage_path=_storage(runs),
                failure_config=FailureConfig(max_failures=RESTARTS),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
                callbacks=[callback],
            ),
        )
        try:
            result: Any = trainer.fit()
        except TrainingFailedError as error:
            raise _last_line(error) from error
        state = b"" if result.return_value else state_of(result.checkpoint)
        result.filesystem.delete_dir(result.path)
    if result.return_value:
        raise result.return_value
    return state


def _run_loop(config: dict[str, Any]) -> ValueError | None:
    """Run the loop on one worker. Returns a ValueError, which every worker meets, so that Ray does not retry it."""
    import ray.train.torch

    context = ray.train.get_context()
    device = ray.train.torch.get_device().type
    try:
        config["loop"](OnRay(context.get_world_rank(), context.get_world_size(), device, config["threads"]))
    except ValueError as error:
        return error
    return None


def workers_on_ray(requested: int | None, declared: Resources | None) -> tuple[int, Resources]:
    """Return the number of training workers, and what each takes of its node.

    Parameters
    ----------
    requested : number of workers; if None, one for each GPU, or one without GPUs
    declared : resources of each worker; if None, one GPU, if the cluster has any, and its share of the CPUs of its node

    Raises
    ------
    ValueError
        They do not fit in the cluster, or several workers would share a GPU.

    """
    machines = nodes()
    gpus, cpus = int(sum(node.gpus for node in machines)), int(sum(node.cpus for node in machines))
    room, unit, default = (gpus, "GPUs of the cluster", gpus) if gpus else (cpus, "CPUs of the cluster", 1)
    if declared:
        if declared.gpus > 1:
            raise ValueError(f"expected HASHKILN_FIT_GPUS of at most 1, for one worker, found {declared.gpus:g}")
        room, unit = sum(node.times(declared) for node in machines), f"places in the cluster with {declared}"
        default = max(1, room) if declared.gpus == 1 else 1
    if requested and requested > room:
        raise ValueError(f"expected HASHKILN_TRAINERS of at most {room}, the {unit}, found {requested}")
    count = requested or default
    if declared and count > 1 and 0 < declared.gpus < 1:
        raise ValueError(f"expected HASHKILN_FIT_GPUS=1 for {count} training workers, found {declared.gpus:g}")
    return count, declared or _share(machines, count)


def _share(machines: Sequence[Resources], workers: int) -> Resources:
    """Return the resources of each worker, such that all fit: a worker uses one node and at most one GPU."""
    of_gpus = [node.cpus // node.gpus for node in machines if node.gpus]
    if of_gpus:
        return Resources(max(1, int(min(of_gpus))), 1)
    cpus = [node.cpus for node in machines if node.cpus] or [1]
    return Resources(max(1, int(min(cpus) // -(-workers // len(cpus)))))


def _threads(taken: Resources) -> int:
    return max(1, int(taken.cpus))


def _storage(url: str) -> str:
    """Return the URL for Ray's filesystem. It names the server, and the region: else Ray would ask AWS for it."""
    if url.startswith("gs://") and (emulator := os.environ.get("STORAGE_EMULATOR_HOST")):
        scheme, _, host = emulator.rpartition("://")
        return f"gs://anonymous@{url.removeprefix('gs://')}?scheme={scheme or 'http'}&endpoint_override={host}"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not (url.startswith("s3://") and endpoint):
        return url
    scheme, _, host = endpoint.rstrip("/").partition("://")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return f"{url}?region={region}&scheme={scheme}&endpoint_override={host}"


def _last_line(error: Exception) -> RuntimeError:
    """Return an error with the last line of the first failed worker's message."""
    failures = getattr(error, "worker_failures", {}) or {0: getattr(error, "controller_failure", error)}
    lines = str(next(iter(failures.values()))).strip().splitlines() or [type(error).__name__]
    return RuntimeError(f"training failed after {RESTARTS} restarts: {lines[-1]}")


@contextmanager
def folder_of_runs(checkpoints: str) -> Iterator[str]:
    """Yield the folder of the checkpoints; if empty, a temporary one for this run."""
    if checkpoints:
        yield checkpoints
        return
    with TemporaryDirectory() as folder:
        yield folder


@contextmanager
def _listening(on_report: OnReport) -> Iterator[Any]:
    """Yield a callback for Ray Train, whose controller is another process: a thread here passes reports on."""
    from ray.train import UserCallback
    from ray.util.queue import Queue

    class Forwarder(UserCallback):
        def __init__(self, queue: Queue) -> None:
            self.put = observed(queue.put_nowait)

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            self.put(metrics[0])

    def listen() -> None:
        while metrics := queue.get():
            on_report(metrics["epochs"], metrics["most"])

    queue = Queue(actor_options={"num_cpus": 0})
    listener = Thread(target=copy_context().run, args=(observed(listen),), daemon=True)
    listener.start()
    try:
        yield Forwarder(queue)
    finally:
        observed(queue.put)({})
        listener.join()
        queue.shutdown()


def state_of(checkpoint: Any) -> bytes:
    """Return the state in a checkpoint."""
    with checkpoint.as_directory() as folder:
        return (Path(folder) / STATE_FILE).read_bytes()
