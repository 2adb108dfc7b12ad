import dataclasses
import json
import math

import pytest
import torch

from pctransformer.errors import UserError
from pctransformer.training import checkpoint
from pctransformer.training.checkpoint import BEST, LAST
from pctransformer.training.engine import NonFiniteLoss, Trainer
from pctransformer.training.repeatability import repeatable_kernels
from tests.training.tasks import SETTINGS, clouds, settings_in_parts, task, trainer


@pytest.fixture(autouse=True)
def _repeatable():
    with repeatable_kernels(torch.device("cpu")):
        yield


def last(folder):
    return checkpoint.read(folder / "checkpoints" / LAST)


def without_times(folder):
    """What was reported, without what depends on the machine: seconds, and memory that the process had before."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in row.items() if "second" not in name and "memory" not in name} for row in rows]


def assert_same(one, other):
    """Two runs ended with the same bits: weights, state of the optimizer, what was reported."""
    a, b = last(one), last(other)
    assert a.tensors.keys() == b.tensors.keys()
    assert [name for name in a.tensors if not torch.equal(a.tensors[name], b.tensors[name])] == []
    assert a.about["progress"] == b.about["progress"]
    assert without_times(one) == without_times(other)


def test_it_learns_and_reports(tmp_path):
    trainer(tmp_path / "run", dataclasses.replace(SETTINGS, epochs=15)).fit()
    rows = without_times(tmp_path / "run")
    assert [row["epoch"] for row in rows] == list(range(1, 16))
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    best = checkpoint.read(tmp_path / "run" / "checkpoints" / BEST)
    assert best.about["metrics"]["validation_oa"] == max(row["validation_oa"] for row in rows) > 0.9
    assert best.state == {}
    first = next(row["epoch"] for row in rows if row["validation_oa"] == best.about["metrics"]["validation_oa"])
    assert best.about["epoch"] == first
    table = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert table[0].split(",")[:2] == ["epoch", "train_loss"]
    assert len(table) == 16


def test_runs_repeat_exactly_and_seeds_differ(tmp_path):
    for name in ("a", "b"):
        trainer(tmp_path / name).fit()
    assert_same(tmp_path / "a", tmp_path / "b")
    data = clouds()
    data.set_epoch(1)
    assert not torch.equal(data[0].xyz, clouds()[0].xyz)


class Killed(Exception):
    pass


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stop", [(0, 3), (1, 0), (2, 4)])
def test_resumed_is_unbroken(tmp_path, monkeypatch, stop, optimizer, ema):
    """Killed at the beginning of any step, of whatever epoch, saved inside epochs or not."""
    settings = dataclasses.replace(SETTINGS, optimizer=optimizer, ema=ema)
    trainer(tmp_path / "unbroken", settings).fit()

    broken = trainer(tmp_path / "broken", settings, save_steps=2)
    backward = broken._backward

    def killed_at(batch, epoch, step):
        if (epoch, step) == stop:
            raise Killed
        return backward(batch, epoch, step)

    monkeypatch.setattr(broken, "_backward", killed_at)
    with pytest.raises(Killed):
        broken.fit()
    trainer(tmp_path / "broken", settings, resume=last(tmp_path / "broken")).fit()
    assert_same(tmp_path / "unbroken", tmp_path / "broken")


def test_killed_between_two_files_of_an_epoch(tmp_path, monkeypatch):
    """Metrics and best checkpoint of an epoch are written, the last checkpoint is not: the epoch is repeated."""
    trainer(tmp_path / "unbroken").fit()
    broken = trainer(tmp_path / "broken")
    save = Trainer._save

    def stop(self, name, row):
        if name == LAST and self.progress.epoch == 3:
            raise Killed
        save(self, name, row)

    monkeypatch.setattr(Trainer, "_save", stop)
    with pytest.raises(Killed):
        broken.fit()
    monkeypatch.setattr(Trainer, "_save", save)
    assert len(without_times(tmp_path / "broken")) == 3
    trainer(tmp_path / "broken", resume=last(tmp_path / "broken")).fit()
    assert_same(tmp_path / "unbroken", tmp_path / "broken")


def test_workers_change_nothing(tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=2)
    trainer(tmp_path / "none", settings).fit()
    trainer(tmp_path / "one", settings, workers=1).fit()  # more than the processors there are would draw a warning
    assert_same(tmp_path / "none", tmp_path / "one")


def test_accumulated_parts_are_the_whole_step(tmp_path):
    """To rounding: sums over 8 samples at once, or over 2 times 4."""
    for parts in (1, 4):
        trainer(tmp_path / str(parts), settings_in_parts(parts), of=task(dropout=0.0)).fit()
    whole, cut = last(tmp_path / "1"), last(tmp_path / "4")
    for name, value in whole.weights.items():
        torch.testing.assert_close(cut.weights[name], value, rtol=1e-4, atol=1e-5)


def test_an_average_of_weights_is_what_is_validated_and_saved(tmp_path):
    averaging = trainer(tmp_path / "run", dataclasses.replace(SETTINGS, ema=0.5))
    own = {name: value.clone() for name, value in averaging.model.state_dict().items()}
    weights = []
    update = averaging._update

    def watched(epoch, step):
        update(epoch, step)
        weights.append(averaging.model.head[1].bias.detach().clone())

    averaging._update = watched
    averaging.fit()
    expected = weights[0]
    for i, value in enumerate(weights[1:], start=1):
        decay = min(0.5, (1 + i) / (10 + i))
        expected = decay * expected + (1 - decay) * value
    saved = last(tmp_path / "run")
    torch.testing.assert_close(saved.weights["head.1.bias"], expected)
    assert torch.equal(saved.state["weights/head.1.bias"], weights[-1])
    assert not torch.equal(own["head.1.bias"], weights[-1])


def test_the_learning_rate_is_set_for_each_step(tmp_path):
    running = trainer(tmp_path / "run")
    seen = []
    update = running._update

    def watched(epoch, step):
        seen.append(running.optimizer.param_groups[1]["lr"])
        update(epoch, step)

    running._update = watched
    running.fit()
    steps = len(clouds()) // SETTINGS.batch_size
    assert len(seen) == 4 * steps
    assert seen[:steps] == pytest.approx([0.01 * (i + 1) / steps for i in range(steps)])
    assert seen[steps] == pytest.approx(0.01)
    assert seen[steps:] == sorted(seen[steps:], reverse=True)
    assert seen[-1] < 0.002


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_and_says_where(tmp_path, bad):
    breaking = task()
    good = breaking.loss
    calls = []

    def loss(model, batch):
        calls.append(1)
        return {"loss": good(model, batch)["loss"] * (bad if len(calls) == 8 else 1)}

    run = trainer(tmp_path / "run", of=dataclasses.replace(breaking, loss=loss))
    with pytest.raises(
        NonFiniteLoss, match=r"epoch 2, step 3 of 5: loss (nan|inf).*no weight.*cloud\d+.*--lr"
    ) as error:
        run.fit()
    assert isinstance(error.value, UserError)
    assert last(tmp_path / "run").about["progress"]["epoch"] == 1


def test_a_loss_that_cannot_be_computed_stops_too(tmp_path):
    def loss(model, batch):
        raise FloatingPointError("nothing can be matched")

    with pytest.raises(NonFiniteLoss, match=r"epoch 1, step 1 of 5: nothing can be matched.*no weight.*--lr"):
        trainer(tmp_path / "run", of=dataclasses.replace(task(), loss=loss)).fit()


def test_a_gradient_that_is_no_number_stops_before_it_spoils_the_weights(tmp_path):
    breaking = task()

    def loss(model, batch):
        bias = model.head[1].bias
        return {"loss": (bias - bias.detach()).abs().sqrt().sum()}  # 0, with a gradient of 0 * inf

    run = trainer(tmp_path / "run", of=dataclasses.replace(breaking, loss=loss))
    with pytest.raises(NonFiniteLoss, match=r"gradient was not.*gradient of head\.1\.bias"):
        run.fit()
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())


def test_a_weight_that_is_no_number_is_named(tmp_path):
    run = trainer(tmp_path / "run")
    with torch.no_grad():
        run.model.points[3].weight[0, 0] = math.nan
    with pytest.raises(NonFiniteLoss, match=r"Not finite: points\.3\.weight"):
        run.fit()


def test_gradients_are_clipped(tmp_path):
    norms = []
    run = trainer(tmp_path / "run", dataclasses.replace(SETTINGS, clip=0.01, epochs=1))
    step = run.optimizer.step

    def watched(*arguments):
        norms.append(torch.cat([p.grad.flatten() for p in run.model.parameters()]).norm().item())
        return step(*arguments)

    run.optimizer.step = watched
    run.fit()
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batch_size": 9, "accumulate": 2}, "multiple of 2"),
        ({"batch_size": 64, "accumulate": 32}, "too few"),
    ],
)
def test_batches_that_cannot_be_cut_are_refused(tmp_path, change, text):
    with pytest.raises(UserError, match=text):
        trainer(tmp_path / "run", dataclasses.replace(SETTINGS, **change))


def test_a_best_checkpoint_cannot_be_resumed(tmp_path):
    trainer(tmp_path / "run", dataclasses.replace(SETTINGS, epochs=1)).fit()
    best = checkpoint.read(tmp_path / "run" / "checkpoints" / BEST)
    with pytest.raises(UserError, match=r"resume from checkpoints/last"):
        trainer(tmp_path / "run", resume=best)


@pytest.mark.cuda
def test_on_a_gpu(tmp_path):
    from pctransformer.training.distributed import World

    world = World(torch.device("cuda"))
    settings = dataclasses.replace(SETTINGS, epochs=15, precision="bf16", ema=0.9)
    trainer(tmp_path / "run", settings, world=world).fit()
    assert max(row["validation_oa"] for row in without_times(tmp_path / "run")) > 0.9
    trainer(
        tmp_path / "run", dataclasses.replace(settings, epochs=16), world=world, resume=last(tmp_path / "run")
    ).fit()
    assert len(without_times(tmp_path / "run")) == 16
