"""SGD where it runs: in this process, or on Ray Train's workers, with checkpoints that outlive any of them."""

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

from hashing.mapreduce import Epoch, Worker

from .observability import observed

STATE_FILE = "state.pt"
RESTARTS = 3
Told = Callable[[Sequence[Epoch], int], None]  # the epochs that have ended, at each report, and the planned total
Loop = Callable[[Worker], None]


@dataclass
class Here:
    """The one worker of a run in this process."""

    folder: Path  # of its checkpoint
    told: Told
    threads: int
    state: bytes = b""
    rank = 0
    world = 1
    device = "cpu"

    def latest(self) -> bytes | None:
        if (file := self.folder / STATE_FILE).exists():
            self.state = file.read_bytes()
        return self.state or None

    def report(self, epochs: Sequence[Epoch], most: int, state: bytes) -> None:
        self.state = state
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f"{STATE_FILE}.{os.getpid()}"
        draft.write_bytes(state)
        draft.replace(self.folder / STATE_FILE)
        self.told(epochs, most)


def train_here(loop: Loop, name: str, checkpoints: str, threads: int, told: Told) -> bytes:
    """Run the loop in this process. Checkpoints go where a local folder is given."""
    with folder_of_runs("" if "://" in checkpoints else checkpoints) as runs:
        worker = Here(Path(runs) / name, told, threads)
        try:
            loop(worker)
        except ValueError:  # the user's mistake: another try would end alike
            shutil.rmtree(worker.folder, ignore_errors=True)
            raise
        shutil.rmtree(worker.folder, ignore_errors=True)
    return worker.state


@dataclass(frozen=True)
class OnRay:
    """This process as a worker of Ray Train."""

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


def train_on_ray(loop: Loop, name: str, checkpoints: str, workers: int | None, told: Told) -> bytes:
    """Run the loop on workers of the Ray cluster that was joined: one a GPU, or else one, unless a number is given.

    A worker that is lost is started again, and all go on from the last checkpoint; so does a run of the same name whose
    driver was lost.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # each report waits for it
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths of shards may be relative
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    gpus, count = _gpus(), workers_on_ray(workers)
    cpus = 1 if gpus else _cpus(count)
    with folder_of_runs(checkpoints) as runs, _listening(told) as callback:
        trainer = TorchTrainer(
            _run_loop,  # type: ignore[arg-type]  # what it returns is Result.return_value
            train_loop_config={"loop": loop, "threads": cpus},
            scaling_config=ScalingConfig(num_workers=count, use_gpu=bool(gpus), resources_per_worker={"CPU": cpus}),
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
    """A worker's part. The user's mistakes are given back, as all workers meet the same: to try again would be vain."""
    import ray.train.torch

    context = ray.train.get_context()
    device = ray.train.torch.get_device().type
    try:
        config["loop"](OnRay(context.get_world_rank(), context.get_world_size(), device, config["threads"]))
    except ValueError as error:
        return error
    return None


def workers_on_ray(asked: int | None) -> int:
    """Return the workers of a training run: one a GPU of the cluster, or else one, unless a number is asked for.

    Raises ValueError where some of them would wait for a place.
    """
    gpus = _gpus()
    places, what = (gpus, "GPUs") if gpus else (int(sum(_cpus_of_nodes())), "CPUs")
    if asked and asked > places:
        raise ValueError(f"expected HASHKILN_TRAINERS of at most {places}, the {what} of the cluster, found {asked}")
    return asked or gpus or 1


def _gpus() -> int:
    import ray

    return int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def _cpus_of_nodes() -> list[float]:
    import ray

    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [cpus for cpus in nodes if cpus]


def _cpus(workers: int) -> int:
    """CPUs for each worker, so many that all find a place: a worker lies on one node."""
    nodes = _cpus_of_nodes() or [1]
    return max(1, int(min(nodes) // -(-workers // len(nodes))))


def _storage(url: str) -> str:
    """The URL as Ray's filesystem wants it: it asks AWS itself for a bucket's region, unless it is told."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not (url.startswith("s3://") and endpoint):
        return url
    scheme, _, host = endpoint.rstrip("/").partition("://")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return f"{url}?region={region}&scheme={scheme}&endpoint_override={host}"


def _last_line(error: Exception) -> RuntimeError:
    """What the first worker that failed said, in a line."""
    failures = getattr(error, "worker_failures", {}) or {0: getattr(error, "controller_failure", error)}
    said = str(next(iter(failures.values()))).strip().splitlines() or [type(error).__name__]
    return RuntimeError(f"expected training to end after {RESTARTS} restarts, found again: {said[-1]}")


@contextmanager
def folder_of_runs(checkpoints: str) -> Iterator[str]:
    """Where checkpoints lie; none given: a folder that lives as long as the run."""
    if checkpoints:
        yield checkpoints
        return
    with TemporaryDirectory() as folder:
        yield folder


@contextmanager
def _listening(told: Told) -> Iterator[Any]:
    """A callback for Ray Train, whose controller is a process of its own: what it hears is told here, in a thread."""
    from ray.train import UserCallback
    from ray.util.queue import Queue

    class Teller(UserCallback):
        def __init__(self, queue: Queue) -> None:
            self.put = observed(queue.put_nowait)

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            self.put(metrics[0])

    def listen() -> None:
        while metrics := queue.get():
            told(metrics["epochs"], metrics["most"])

    queue = Queue(actor_options={"num_cpus": 0})
    listener = Thread(target=copy_context().run, args=(observed(listen),), daemon=True)
    listener.start()
    try:
        yield Teller(queue)
    finally:
        observed(queue.put)({})
        listener.join()
        queue.shutdown()


def state_of(checkpoint: Any) -> bytes:
    """The state that a checkpoint holds."""
    with checkpoint.as_directory() as folder:
        return (Path(folder) / STATE_FILE).read_bytes()
