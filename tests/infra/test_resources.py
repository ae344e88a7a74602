"""Resources of tasks: what fits where, and the actors that hold a function on each GPU."""

import os
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from hashing.mapreduce import Resources
from infra.executors import InProcess, Ray
from infra.settings import Settings


def test_tasks_fit_by_each_resource():
    machine = Resources(cpus=16, gpus=2, memory=64e9)
    assert machine.times(Resources()) == 16
    assert machine.times(Resources(cpus=4, gpus=1)) == 2
    assert machine.times(Resources(gpus=0.25)) == 8
    assert machine.times(Resources(cpus=0, memory=20e9)) == 3
    assert machine.times(Resources(gpus=4)) == 0
    assert machine.times(Resources(custom={"ssd": 1})) == 0
    assert Resources(cpus=16, custom={"ssd": 2}).times(Resources(custom={"ssd": 1})) == 2
    assert str(Resources(gpus=0.5, memory=2e9, custom={"ssd": 1})) == "1 CPUs, 0.5 GPUs, 2 GB of memory, 1 ssd"


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpus": -1},
        {"gpus": 1.5},
        {"memory": -5},
        {"memory": float("nan")},
        {"custom": {"ssd": -1}},
        {"custom": {"ssd": 1.5}},
    ],
)
def test_resources_that_no_machine_has_are_refused(wrong):
    with pytest.raises(ValueError, match="expected resources of 0 or more, and whole GPUs and custom ones above 1"):
        Resources(**wrong)


def test_each_stage_has_its_settings(monkeypatch):
    monkeypatch.setenv("HASHKILN_ENCODE_GPUS", "0.5")
    monkeypatch.setenv("HASHKILN_ENCODE_CPUS", "3")
    monkeypatch.setenv("HASHKILN_FIT_MEMORY", "4e9")
    monkeypatch.setenv("HASHKILN_EMBED_CUSTOM", '{"ssd": 1}')
    settings = Settings()
    assert settings.embed == Resources(custom={"ssd": 1})
    monkeypatch.setenv("HASHKILN_EMBED_CUSTOM", "ssd=1")
    with pytest.raises(ValueError, match=r"expected JSON such as .* in HASHKILN_EMBED_CUSTOM, found 'ssd=1'"):
        Settings()
    monkeypatch.delenv("HASHKILN_EMBED_CUSTOM")
    assert (settings.encode, settings.fit) == (Resources(3, 0.5), Resources(memory=4e9))
    assert settings.evaluate == Resources()
    monkeypatch.delenv("HASHKILN_FIT_MEMORY")
    assert Settings().fit is None
    monkeypatch.setenv("HASHKILN_ENCODE_GPU", "1")
    with pytest.raises(ValueError, match=r"^unknown variable HASHKILN_ENCODE_GPU: .* HASHKILN_ENCODE_GPUS,"):
        Settings()


@pytest.mark.skipif(bool(shutil.which("nvidia-smi")), reason="there is a GPU")
def test_a_missing_gpu_is_refused_before_any_work(ray_executor):
    message = r"^expected a machine with 1 CPUs, 1 GPUs for a task, found .* CPUs, 0 GPUs"
    for executor in (InProcess(), ray_executor):
        assert executor.with_resources(Resources())
        with pytest.raises(ValueError, match=message):
            executor.with_resources(Resources(gpus=1))


def taken(_):
    import ray

    return ray.get_runtime_context().get_assigned_resources()


taken.__module__ = "__main__"  # so that Ray ships it: importing this file would take its workers longer


def test_a_task_takes_its_cpus_and_memory(ray_executor):
    (found,) = ray_executor.with_resources(Resources(cpus=2, memory=1e8)).map(taken, [0])
    assert found == {"CPU": 2.0, "memory": 1e8}
    (found,) = ray_executor.map(taken, [0])
    assert found == {"CPU": 1.0}


@dataclass
class Held:
    """Notes each copy of itself that a process makes, as a model on a GPU would cost memory and time."""

    folder: str

    def __setstate__(self, state):
        self.__dict__.update(state)
        (Path(self.folder) / f"{os.getpid()}-{time.time_ns()}").touch()

    def __call__(self, item):
        time.sleep(0.05)
        if item == "die" and not (mark := Path(self.folder) / "died").exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "refuse":
            raise ValueError("expected another item")
        return [os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", ""), item]


def meet(item, folder):
    """Wait until four processes have come here, each with half a GPU; the number of processes."""
    (Path(folder) / f"met-{os.getpid()}").touch()
    deadline = time.monotonic() + 3000
    while (met := len(list(Path(folder).glob("met-*")))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    return met


Held.__module__ = meet.__module__ = "__main__"


def main(executor, folder):
    """What tasks with GPUs do on a Ray with two."""
    import ray

    on_gpus = executor.with_resources(Resources(gpus=1, cpus=0.5))
    told = []
    counted = Ray(progress=lambda *step: told.append(step)).with_resources(Resources(gpus=1, cpus=0.5))
    found = {"map": list(counted.map(Held(folder), list(range(40)), "encode")), "told": told}
    found["copies"] = Counter(path.name.split("-")[0] for path in Path(folder).iterdir())
    found["sum"] = on_gpus.reduce(Held(folder), lambda a, b: a + b, list(range(9)), "reduce")[2::3]
    found["custom"] = list(executor.with_resources(Resources(custom={"ssd": 1})).map(taken, [0]))
    halves = executor.with_resources(Resources(cpus=0.25, gpus=0.5))
    found["halves"] = list(halves.map(partial(meet, folder=folder), range(12)))
    found["killed"] = [item for *_, item in on_gpus.map(Held(folder), [1, "die", 2])]
    try:
        list(on_gpus.map(Held(folder), [1, "refuse", 2]))
    except ValueError as error:
        found["refused"] = str(error)
    found["none"] = list(on_gpus.map(Held(folder), []))
    first = on_gpus.map(Held(folder), [0] * 9)
    next(first)
    first.close()
    deadline = time.monotonic() + 300
    while ray.available_resources().get("GPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    return found | {"free": ray.available_resources().get("GPU")}


@pytest.fixture(scope="module")
def found(fake_gpus, tmp_path_factory):
    return fake_gpus.run("tests.infra.test_resources", tmp_path_factory.mktemp("copies"))


def test_a_task_takes_its_custom_resources(found):
    assert found["custom"] == [{"CPU": 1.0, "ssd": 1.0}]


def test_each_gpu_has_one_process_which_holds_one_copy_for_all_items(found):
    assert [item for *_, item in found["map"]] == list(range(40))
    assert len({pid for pid, *_ in found["map"]}) == 2
    assert {gpu for _, gpu, _ in found["map"]} == {"0", "1"}
    assert set(found["copies"].values()) == {1}
    assert found["told"] == [["encode", done, 40] for done in range(41)]


def test_a_fraction_of_a_gpu_shares_it(found):
    assert found["halves"] == [4] * 12


def test_states_of_actors_are_merged_in_order(found):
    assert found["sum"] == list(range(9))


def test_a_killed_actor_starts_again(found):
    assert found["killed"] == [1, "die", 2]


def test_an_error_of_the_function_is_raised(found):
    assert found["refused"] == "expected another item"


def test_gpus_are_free_again_after_the_last_item_an_error_or_an_early_end(found):
    assert found["free"] == 2
    assert found["none"] == []
