"""The training loop: the rows it uses, and interrupted runs, which end as if they had not been interrupted."""

import io
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from hashing.deep import networks, sgd
from hashing.deep.method import Deep, facts, held_out
from hashing.deep.stored import TrainingRows
from hashing.mapreduce import Data
from hashing.methods.cibhash import CIBHash
from hashing.methods.dpsh import DPSH
from hashing.methods.orthohash import OrthoHash
from hashing.methods.sgh import SGH
from infra.executors import InProcess
from tests.conftest import blobs, cut

METHOD = DPSH(n_bits=8, epochs=3, patience=3, batch_size=64, lr=1e-2)
ROWS = blobs(500)


class CutOff(Exception):
    pass


@dataclass
class Reporter:
    """A worker that dies after a number of reports."""

    state: bytes | None = None
    dies_after: int = 10**9
    told: list = field(default_factory=list)  # the epochs of each report
    rank, world, device, threads = 0, 1, "cpu", 1

    def latest(self):
        return self.state

    def report(self, epochs, most, state):
        self.state = state
        self.told.append([timeless(epoch) for epoch in epochs])
        if len(self.told) == self.dies_after:
            raise CutOff


def timeless(epoch):
    """An epoch without what differs from one run to the next."""
    assert epoch["seconds"] > 0
    return {name: value for name, value in epoch.items() if name != "seconds"}


def run(worker, method=METHOD, shards=None):
    data = Data(shards or cut(ROWS, 3), InProcess())
    prepared = method.prepare(data)
    sgd.train(worker, method, data.shards, facts(data, method), prepared, held_out(data, method), {})
    return worker


def placed(batch):
    return sgd.on_device(batch, Reporter(), torch.device("cpu"), TrainingRows([]), "float32", lambda rows: None)


def parameters(worker):
    return sgd.outcome(worker.state)[0]


def content(worker):
    return torch.load(io.BytesIO(worker.state), weights_only=True)


def trained_rows(method):
    return set(ROWS.ids[~method.held_out(ROWS.ids)].tolist())


# --- rows held out ---------------------------------------------------------------------------------------------------


def test_held_out_rows_are_a_keyed_share_independent_of_the_seed():
    many = np.arange(100_000)
    held = METHOD.held_out(many)
    assert held.mean() == pytest.approx(METHOD.validation, abs=0.005)
    drawn = sgd.keyed_hash(many, METHOD.seed) < np.uint64(2**64 // 10)  # as the queries of a dataset are drawn
    assert held[drawn].mean() == pytest.approx(METHOD.validation, abs=0.01)


def test_held_out_rows_score_epochs_and_are_never_trained_on():
    data = Data(cut(ROWS, 3), InProcess())
    rows = held_out(data, METHOD)
    assert set(rows.ids.tolist()) == set(ROWS.ids.tolist()) - trained_rows(METHOD)
    assert facts(data, METHOD).rows == len(trained_rows(METHOD))
    np.testing.assert_allclose(facts(data, METHOD).mean, ROWS.x[sorted(trained_rows(METHOD))].mean(0), rtol=1e-5)
    assert held_out(data, replace(METHOD, validation=0.0)) is None


def test_all_rows_are_trained_on_if_labels_cannot_score():
    method, data = SGH(n_bits=8, batch_size=50), Data(cut(ROWS, 3), InProcess())
    assert held_out(data, method) is None
    assert (
        sum(len(batch.ids) for batch in sgd.batches(TrainingRows(data.shards), method, 0))
        == facts(data, method).rows
        == 500
    )


def test_rows_with_hardly_any_similar_row_do_not_score():
    """A score that two or three pairs decide would keep an epoch by chance: the last one is kept."""
    classes = ROWS._replace(y=np.repeat(np.eye(250, dtype=np.uint8), 2, axis=0))
    assert held_out(Data([[classes]], InProcess()), METHOD) is None


# --- restarts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies_after", range(1, 9))
def test_an_interrupted_run_ends_with_the_same_bits(dies_after, monkeypatch):
    monkeypatch.setattr(sgd, "CHECKPOINT_STEPS", 3)  # of the 7 steps of an epoch: reports within and at the end
    whole = run(Reporter())
    with pytest.raises(CutOff):
        run(cut_off := Reporter(dies_after=dies_after))
    again = run(Reporter(cut_off.state))
    assert cut_off.told + again.told == whole.told
    for a, b in zip(parameters(again), parameters(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [epoch["epoch"] for epoch in sgd.outcome(again.state)[1]] == [1, 2, 3]


@pytest.mark.parametrize("drawn", [SGH, CIBHash])  # the codes of one, and the copies of the other, are drawn
def test_an_interrupted_run_continues_with_the_same_random_numbers(drawn, monkeypatch):
    monkeypatch.setattr(sgd, "CHECKPOINT_STEPS", 2)
    method = drawn(n_bits=8, epochs=2, batch_size=64)
    whole = run(Reporter(), method)
    with pytest.raises(CutOff):
        run(cut_off := Reporter(dies_after=2), method)
    again = run(Reporter(cut_off.state), method)
    for a, b in zip(parameters(again), parameters(whole), strict=True):
        np.testing.assert_array_equal(a, b)


@dataclass(frozen=True)
class Colliding(Deep):
    """A method that adds many values into one place, time and again."""

    def loss(self, out):
        values, place = torch.randn(200_000), torch.zeros(200_000, dtype=torch.long)
        sums = {torch.zeros(1).index_put((place,), values, accumulate=True).item() for _ in range(10)}
        assert len(sums) == 1
        return out.u.square().mean()


@pytest.fixture
def torch_of_the_caller():
    """A torch that somebody else uses: its state, to be compared after a fit. Put back at the end."""
    deterministic = torch.utils.deterministic

    def state():
        modes = torch.get_deterministic_debug_mode(), deterministic.fill_uninitialized_memory
        return torch.get_num_threads(), *modes, tuple(torch.get_rng_state().tolist())

    before = state()
    torch.set_num_threads(3)
    torch.set_deterministic_debug_mode("warn")
    deterministic.fill_uninitialized_memory = True
    torch.rand(7)
    yield state
    torch.set_num_threads(before[0])
    torch.set_deterministic_debug_mode(before[1])
    deterministic.fill_uninitialized_memory = before[2]


@pytest.mark.parametrize("lr", [1e-2, 1e30], ids=["fitted", "failed"])
def test_a_fit_restores_the_torch_state_of_the_caller(torch_of_the_caller, lr):
    state = torch_of_the_caller
    before = state()
    with pytest.raises(ValueError, match="expected a finite loss") if lr == 1e30 else nullcontext():
        replace(METHOD, lr=lr, epochs=1).fit(Data(cut(ROWS, 3), InProcess(cpus=1)))
    assert state() == before


def test_sums_by_several_threads_are_deterministic():
    worker = Reporter()
    worker.threads = 2
    run(worker, Colliding(n_bits=8, epochs=1, batch_size=64))


def test_a_finished_run_that_lost_its_driver_returns_its_result(tmp_path):
    class Killed(InProcess):
        def train(self, loop, name):
            from infra.training import Here

            worker = Here(tmp_path / name, lambda *_: None, 1)
            loop(worker)  # the result is not collected and the folder not removed
            raise CutOff

    with pytest.raises(CutOff):
        METHOD.fit(Data(cut(ROWS, 3), Killed()))
    assert len(list(tmp_path.iterdir())) == 1
    told = []
    executor = InProcess(lambda *args: told.append(args), str(tmp_path), cpus=1)
    function = METHOD.fit(Data(cut(ROWS, 3), executor))
    assert [epoch["epoch"] for epoch in function.epochs] == [1, 2, 3]  # and yet they are known
    assert not [label for label, *_ in told if label.startswith("train,")]  # no epoch was trained again
    assert not list(tmp_path.iterdir())
    expected = METHOD.fit(Data(cut(ROWS, 3), InProcess(cpus=1)))
    np.testing.assert_array_equal(function.project(ROWS.x), expected.project(ROWS.x))


def test_the_name_of_a_run_covers_everything_it_depends_on():
    def name(method=METHOD, rows=ROWS, pretrained=None):
        return method.name_of_run(Data(cut(rows, 2), InProcess(), pretrained or {}))

    weights = {"0.weight": np.ones(3, np.float32)}
    others = [name(replace(METHOD, lr=1e-3)), name(rows=blobs(499)), name(pretrained=weights)]
    others.append(name(pretrained={"0.weight": np.zeros(3, np.float32)}))
    assert len({name(), *others}) == 5
    assert name() == name()


# --- choosing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scripted(Deep):
    """A method without a gradient, whose scores are given."""

    def loss(self, out):
        return (out.u * 0).sum() + 1


def scripted(monkeypatch, scores, **settings):
    states, left = [], iter(scores)

    def score(network, *_):
        for parameter in network.parameters():  # each epoch leaves its mark
            parameter.data += 1
        states.append([value.clone().numpy() for value in network.state_dict().values() if value.dim()])
        return next(left)

    monkeypatch.setattr(sgd, "_score", score)
    worker = run(Reporter(), Scripted(n_bits=8, batch_size=64, **settings))
    return worker, states


def test_training_ends_when_the_score_has_not_risen_for_patience_epochs(monkeypatch):
    worker, _ = scripted(monkeypatch, [0.1, 0.3, 0.2, 0.3, 0.9], epochs=5, patience=2)
    assert [epoch["score"] for epoch in worker.told[-1]] == [0.1, 0.3, 0.2, 0.3]


def test_the_parameters_are_those_of_the_best_epoch(monkeypatch):
    worker, states = scripted(monkeypatch, [0.1, 0.3, 0.2], epochs=3)
    same = [all(map(np.array_equal, parameters(worker), state)) for state in states]
    assert same == [False, True, False]


def test_without_labels_the_last_epoch_is_selected():
    plain = blobs(300)._replace(y=None)
    worker = run(Reporter(), SGH(n_bits=8, epochs=2, batch_size=100), [[plain]])
    assert [epoch["score"] for epoch in worker.told[-1]] == [None, None]
    end = content(worker)
    assert all(torch.equal(value, end["modules"][f"0.{name}"]) for name, value in end["best"].items())


# --- the step ---------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_found_before_it_is_stored(monkeypatch):
    monkeypatch.setattr(sgd, "CHECKPOINT_STEPS", 3)
    worker = Reporter()
    with pytest.raises(ValueError, match=r"^expected a finite loss, found nan in steps 1 to 3 of epoch 1: use a sm"):
        run(worker, replace(METHOD, lr=1e30))
    assert not worker.told


def test_a_loss_that_fails_later_names_its_epoch_and_its_steps(monkeypatch):
    monkeypatch.setattr(sgd, "CHECK_STEPS", 2)

    @dataclass(frozen=True)
    class Failing(DPSH):
        def loss(self, out):
            return super().loss(out) / (out.progress < 0.5)  # of 3 epochs of 7 steps: from step 4 of the second on

    with pytest.raises(ValueError, match=r"^expected a finite loss, found nan in steps 5 to 6 of epoch 2: use a small"):
        run(Reporter(), Failing(**vars(METHOD)))


# --- copies of rows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copied(DPSH):
    """A method of two copies that shows the outputs of its last batch."""

    copies = 2

    def loss(self, out):
        self.seen.append(out)
        return super().loss(out)


def test_outputs_are_those_of_the_first_copies_then_of_the_second():
    method, data = Copied(**vars(replace(METHOD, network="linear"))), Data([[ROWS]], InProcess())
    object.__setattr__(method, "seen", [])
    state = sgd.Run(Reporter(), method, facts(data, method), {})
    before = torch.nn.Linear(32, 8)
    before.load_state_dict(state.network.hash.state_dict())
    batch = ROWS.take(slice(0, 64))
    state.take_step(placed(batch))
    (out,) = method.seen
    np.testing.assert_array_equal(out.ids, np.tile(batch.ids, 2))
    for part, whole in ((out.x, batch.x), (out.y, batch.y), (out.labels, batch.y)):
        np.testing.assert_array_equal(part, np.tile(whole, (2, 1)))
    own = before(state.network.scaled(torch.tensor(batch.x)))
    first, second = (part.detach() - own.detach() for part in out.u.chunk(2))
    assert not torch.equal(first, second)
    for changed in (first, second):  # much less than rows differ
        assert 0 < changed.square().mean() < 0.3 * own.var()


def test_copies_do_not_depend_on_the_number_of_workers():
    def copies(rank, world):
        worker = Reporter()
        worker.rank, worker.world = rank, world
        state = sgd.Run(worker, replace(METHOD), known, {})
        state.method = Copied(**vars(METHOD))
        return state._copies(torch.tensor(ROWS.x[:64]))

    known = facts(Data([[ROWS]], InProcess()), METHOD)
    whole = copies(0, 1)
    assert whole.shape == (128, 32)
    for world in (2, 4):
        assert torch.equal(torch.cat([copies(rank, world) for rank in range(world)]), whole)
    mean = torch.tensor(ROWS.x[sorted(trained_rows(METHOD))].mean(0))
    kept = whole == torch.tensor(ROWS.x[:64]).repeat_interleave(2, 0)
    assert kept.float().mean() == pytest.approx(0.9, abs=0.02)
    assert torch.allclose(whole[~kept], mean.expand(whole.shape)[~kept], rtol=1e-5)


def test_copies_of_texts_lack_words_and_those_of_images_are_moved():
    text, image = sgd.networks.build("text", 16, 8), sgd.networks.build("cnn", 16 * 16, 8)
    words = torch.arange(1, 1601).view(100, 16).float()
    left = text.perturbed(words)
    assert set((left / words).flatten().tolist()) == {0.0, 1.0}
    pixels = torch.rand(5, 256)
    torch.manual_seed(0)
    moved = image.perturbed(pixels)
    torch.manual_seed(0)
    assert torch.equal(moved, image.augmented(pixels))


# --- batch normalization of the outputs ------------------------------------------------------------------------------

NORMED = OrthoHash(n_bits=16, epochs=2, batch_size=64, lr=1e-2)


def test_normalization_uses_the_outputs_of_the_whole_batch():
    whole, chunked = run(Reporter(), NORMED), run(Reporter(), replace(NORMED, chunk=16))
    for a, b in zip(parameters(chunked), parameters(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_folding_the_normalization_changes_no_bit():
    data = Data(cut(ROWS, 3), InProcess(cpus=1))
    worker = run(Reporter(), NORMED)
    network = networks.build("mlp", 32, 16, layer="normed")
    network.load_state_dict(content(worker)["best"])
    u = network.eval()(torch.tensor(ROWS.x)).detach().numpy()
    function = NORMED.fit(data)
    assert function.hash_layer == "linear"
    assert (function.encode(ROWS.x) == (u >= 0))[np.abs(u) > 1e-6].all()
    np.testing.assert_allclose(function.project(ROWS.x), u, atol=1e-5)
    assert np.abs(function.encode(ROWS.x).mean(axis=0) - 0.5).max() < 0.35  # bits are balanced, as far as classes allow


# --- memory and precision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [METHOD, replace(METHOD, regularizers="decov:0.1+so:0.01"), SGH(8, batch_size=64), CIBHash(8)]
)
@pytest.mark.parametrize("chunk", [16, 40])
def test_chunks_take_the_steps_of_the_whole_batch(method, chunk):
    method = replace(method, epochs=2)
    whole, chunked = run(Reporter(), method), run(Reporter(), replace(method, chunk=chunk))
    for a, b in zip(parameters(chunked), parameters(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert whole.told[-1][-1]["loss"] == pytest.approx(chunked.told[-1][-1]["loss"], rel=1e-5)


def test_chunks_draw_the_same_dropout_twice():
    class Dropped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Dropout(), torch.nn.Linear(64, 8))
            self.seen = []

        def forward(self, x):
            u = self.layers(x)
            self.seen.append(u.detach().clone())
            return u

    method, data = replace(METHOD, chunk=16), Data([[ROWS]], InProcess())
    state = sgd.Run(Reporter(), method, facts(data, method), {})
    state.network = Dropped()
    chunks = torch.randn(64, 32).split(16)
    u = state._outputs(chunks)
    u.sum().backward()
    state._backward(chunks, u)
    assert [len(u) for u in state.network.seen] == [16] * 8
    assert torch.equal(torch.cat(state.network.seen[:4]), torch.cat(state.network.seen[4:]))


@pytest.mark.parametrize(("precision", "of_layers"), [("float32", torch.float32), ("bf16", torch.bfloat16)])
def test_bf16_computes_the_network_in_bfloat16_and_the_loss_in_float32(precision, of_layers):
    seen = []

    @dataclass(frozen=True)
    class Seen(DPSH):
        def loss(self, out):
            seen.append(out.u.dtype)
            return super().loss(out)

    def note(layer, _, output):
        if isinstance(layer, torch.nn.ReLU):
            seen.append(output.dtype)

    method, data = Seen(**vars(replace(METHOD, precision=precision))), Data([[ROWS]], InProcess())
    state = sgd.Run(Reporter(), method, facts(data, method), {})
    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        state.take_step(placed(ROWS.take(slice(0, 64))))
    finally:
        handle.remove()
    assert seen == [of_layers, of_layers, torch.float32]
    assert all(parameter.dtype == torch.float32 for parameter in state.network.parameters())


def test_bf16_learns_as_float32_does():
    half, full = run(Reporter(), replace(METHOD, precision="bf16")), run(Reporter())
    assert half.told[-1][-1]["loss"] == pytest.approx(full.told[-1][-1]["loss"], rel=0.05)
    assert half.told[-1][-1]["loss"] != full.told[-1][-1]["loss"]


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"network": "cnn"}, r"^expected square images, .*, found d = 32: use network=mlp$"),
        ({"precision": "fp16"}, r"^precision: expected one of float32, bf16, found 'fp16': did you mean bf16\?$"),
        ({"epochs": 0}, r"^expected epochs and patience of at least 1, found 0 and 3$"),
        ({"lr": 1e30}, r"^expected a finite loss, found nan in steps 1 to 7 of epoch 1: use a smaller lr$"),
    ],
)
def test_wrong_hyper_parameters_are_refused_in_one_line(settings, said):
    with pytest.raises(ValueError, match=said):
        replace(METHOD, **settings).fit(Data(cut(ROWS, 2), InProcess(cpus=1)))


def test_a_supervised_method_requires_labels():
    for rows in ([ROWS._replace(y=None)], [ROWS._replace(y=0 * ROWS.y)], [ROWS, ROWS._replace(y=None)]):
        with pytest.raises(ValueError, match=r"^expected labels for DPSH, found rows without labels$"):
            METHOD.fit(Data([rows], InProcess()))


def test_workers_must_share_a_batch_evenly():
    worker = Reporter()
    worker.world = 3
    with pytest.raises(ValueError, match=r"^expected a number of workers that divides batch_size=64, found 3$"):
        run(worker)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_hash_layer_learns_at_its_own_rate(optimizer):
    method = replace(METHOD, optimizer=optimizer, hash_rate=10.0)
    state = sgd.Run(Reporter(), method, facts(Data([[ROWS]], InProcess()), method), {})
    rates = {id(p): group["base_lr"] for group in state.optimizer.param_groups for p in group["params"]}
    for name, parameter in state.network.named_parameters():
        assert rates[id(parameter)] == (0.1 if name.startswith("hash.") else 0.01)


def test_the_rate_falls_along_half_a_cosine():
    data = Data([[ROWS]], InProcess())
    state = sgd.Run(Reporter(), METHOD, facts(data, METHOD), {})
    rates = []
    for epoch in range(METHOD.epochs):
        for batch in sgd.batches(TrainingRows(data.shards), METHOD, epoch):
            state.take_step(placed(batch))
            rates.append(state.optimizer.param_groups[0]["lr"])
    assert len(rates) == state.steps
    np.testing.assert_allclose(rates, 0.01 * 0.5 * (1 + np.cos(np.pi * np.arange(len(rates)) / len(rates))))
