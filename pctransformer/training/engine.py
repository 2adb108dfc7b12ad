"""The loop that every training goes through: epochs, steps, validation, checkpoints; it repeats and resumes exactly.

It knows no task. A task gives a model, samples, a loss and a validation; `training/classification.py` is the pattern.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pctransformer.datasets import CloudDataset
from pctransformer.datasets.scans import ScanDataset
from pctransformer.errors import UserError
from pctransformer.models.tensor_file import write_tensors
from pctransformer.models.weights import STATE_PREFIX
from pctransformer.training.checkpoint import BEST, LAST, Checkpoint
from pctransformer.training.distributed import World
from pctransformer.training.memory import peak_memory_mb
from pctransformer.training.optimizers import create_optimizer, learning_rate
from pctransformer.training.progress import Display
from pctransformer.training.repeatability import order_of_epoch, start_step
from pctransformer.training.run_folder import RunFolder
from pctransformer.training.settings import OptimizationSettings

Batch = tuple[Any, ...]


@dataclass(frozen=True)
class Task:
    """What is trained, and how well it does.

    Attributes:
        model: on any device; it is moved.
        samples: to train on; their transform draws from (seed, epoch, index).
        collate: from samples to a batch, a tuple whose parts have `.to(device)`.
        loss: scalars of a batch, means over its samples: "loss" is minimised, the others are reported.
        validate: what to report of the model after an epoch.
        prefer: key of a validation, greater is better: the epoch with the greatest is kept as the best. None where the
            validation tells nothing: the last epoch is kept.
        about: what is written into checkpoints beside weights, see `training/checkpoint.py`.
    """

    model: nn.Module
    samples: CloudDataset | ScanDataset
    collate: Callable[[Sequence[Any]], Batch]
    loss: Callable[[nn.Module, Batch], Mapping[str, Tensor]]
    validate: Callable[[nn.Module], Mapping[str, float]]
    prefer: Callable[[Mapping[str, float]], tuple[float, ...] | None]
    about: Mapping[str, Any]


@dataclass
class Progress:
    """Where a training stands: plain values, stored with every checkpoint."""

    epoch: int = 0
    """Epochs that are done."""
    step: int = 0
    """Steps of the next epoch that are done."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of what the steps of the unfinished epoch reported."""
    best: list[float] | None = None
    best_epoch: int | None = None


class NonFiniteLoss(UserError, ArithmeticError):
    """The loss, or a gradient, became infinite or no number."""


class Trainer:
    """Trains a task in a run folder.

    Args:
        task: what is trained.
        settings: how weights are changed.
        folder: where it is written.
        world: the processes that train together.
        seed: of the order of samples and of drop-out.
        workers: processes that prepare samples.
        save_steps: also save every so many steps; 0: at the end of each epoch only.
        resume: go on from here; None: begin.

    Raises:
        ValueError: settings that contradict each other, or a checkpoint of another training.
    """

    def __init__(
        self,
        task: Task,
        settings: OptimizationSettings,
        folder: RunFolder,
        world: World,
        *,
        seed: int,
        workers: int = 0,
        save_steps: int = 0,
        resume: Checkpoint | None = None,
        display: Display | None = None,
    ) -> None:
        self.task, self.settings, self.folder, self.world = task, settings, folder, world
        self.seed, self.save_steps = seed, save_steps
        self.display = display or Display(folder, quiet=not world.leads)
        self.batches = _Batches(len(task.samples), settings, seed, world)
        self.loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
            task.samples,
            batch_sampler=self.batches,
            collate_fn=task.collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=world.device.type == "cuda",
        )
        self.model, self.wrapped = world.wrap(task.model)
        self.optimizer = create_optimizer(self.model, settings)
        self.averaged = None
        if settings.ema:
            self.averaged = AveragedModel(self.model, multi_avg_fn=_average(settings.ema), use_buffers=True)
        self.progress = Progress()
        if resume is not None:
            self._restore(resume)

    @property
    def in_use(self) -> nn.Module:
        """The model that is validated and saved: the average of the weights, where there is one."""
        return self.model if self.averaged is None else self.averaged.module

    # ---- the loop ----------------------------------------------------------------------------------------------------
    def fit(self) -> None:
        """Train all epochs that are not done yet."""
        rows = self.folder.metrics()[: self.progress.epoch]  # later rows are of epochs that the checkpoint has not seen
        with self.display.showing(self.settings.epochs, self.batches.steps):
            for epoch in range(self.progress.epoch, self.settings.epochs):
                begun = time.perf_counter()
                first = self.progress.step
                means = self._train_epoch(epoch)
                trained = time.perf_counter()
                self.world.agree(self.in_use.buffers())
                found = dict(self.task.validate(self.in_use))
                shapes = (self.batches.steps - first) * self.batches.size
                row = {
                    "epoch": epoch + 1,
                    **{f"train_{name}": value for name, value in means.items()},
                    **{f"validation_{name}": value for name, value in found.items()},
                    "lr": self._lr(epoch * self.batches.steps + self.batches.steps - 1),
                    "shapes_per_second": round(shapes / (trained - begun), 1),
                    "seconds": round(time.perf_counter() - begun, 1),
                    "peak_memory_mb": peak_memory_mb(self.world.device),
                }
                rows.append(row)
                self.folder.write_metrics(rows)
                preferred = self.task.prefer(found)
                is_best = preferred is None or self.progress.best is None or list(preferred) > self.progress.best
                if is_best:
                    self.progress.best = None if preferred is None else list(preferred)
                    self.progress.best_epoch = epoch + 1
                self.progress.epoch, self.progress.step, self.progress.sums = epoch + 1, 0, {}
                if is_best:
                    self._save(BEST, row)
                self._save(LAST, row)
                self.display.epoch_done(row, is_best)

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """All steps of an epoch that are not done yet; means of what all steps of it reported."""
        self.wrapped.train()
        self.task.samples.set_epoch(epoch)
        self.batches.set_start(epoch, self.progress.step)
        parts = iter(self.loader)
        for step in range(self.progress.step, self.batches.steps):
            number = epoch * self.batches.steps + step
            start_step(self.seed, number, self.world.rank)
            for group in self.optimizer.param_groups:
                group["lr"] = self._lr(number)
            reported: dict[str, float] = {}
            for part in range(self.settings.accumulate):
                # gradients are averaged over processes once, with the last part
                last = part == self.settings.accumulate - 1
                with contextlib.nullcontext() if last else self.world.without_averaging(self.wrapped):
                    values = self._backward(next(parts), epoch, step)
                for name, value in values.items():
                    reported[name] = reported.get(name, 0.0) + value / self.settings.accumulate
            self._update(epoch, step)
            for name, value in reported.items():
                self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value
            self.progress.step = step + 1
            self.display.step_done(reported)
            if self.save_steps and (step + 1) % self.save_steps == 0 and step + 1 < self.batches.steps:
                self._save(LAST, {})
        sums = torch.tensor([*self.progress.sums.values()], dtype=torch.float64)
        means = self.world.total(sums) / (self.world.size * self.batches.steps)
        return dict(zip(self.progress.sums, means.tolist()))

    def _backward(self, batch: Batch, epoch: int, step: int) -> dict[str, float]:
        device = self.world.device
        batch = tuple(part.to(device, non_blocking=True) for part in batch)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
                losses = self.task.loss(self.wrapped, batch)
        except FloatingPointError as error:  # of losses that cannot be computed from what is no number
            self._stop(epoch, step, str(error))
        values = dict(zip(losses, torch.stack([loss.detach().float() for loss in losses.values()]).tolist()))
        if not all(math.isfinite(value) for value in values.values()):
            self._stop(epoch, step, ", ".join(f"{name} {value}" for name, value in values.items()))
        (losses["loss"] / self.settings.accumulate).backward()
        return values

    def _update(self, epoch: int, step: int) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.clip or math.inf)
        if not norm.isfinite():
            self._stop(epoch, step, "the loss was finite, its gradient was not")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)

    def _lr(self, step: int) -> float:
        total = self.settings.epochs * self.batches.steps
        warmup = min(round(self.settings.warmup_epochs * self.batches.steps), total // 2)
        return learning_rate(step, total, warmup, self.settings)

    def _stop(self, epoch: int, step: int, what: str) -> NoReturn:
        """Say where a training broke."""
        bad = [name for name, p in self.model.named_parameters() if not p.isfinite().all()]
        bad += [f"gradient of {n}" for n, p in self.model.named_parameters() if _broken(p.grad)]
        shapes = self.batches.of_step(epoch, step)
        names = ", ".join(dict.fromkeys(self.task.samples.name_of(i) or str(i) for i in shapes[:8]))
        raise NonFiniteLoss(
            f"training stopped in epoch {epoch + 1}, step {step + 1} of {self.batches.steps}: {what}."
            f" The learning rate was {self._lr(epoch * self.batches.steps + step):.3g}."
            f" Not finite: {', '.join(bad[:3]) or 'no weight'}{', ...' if len(bad) > 3 else ''}."
            f" Its shapes: {names}{', ...' if len(shapes) > 8 else ''}. What was saved before is whole."
            " A lower --lr, more --warmup-epochs, a smaller --clip or --precision float32 may mend it"
        )

    # ---- saving ------------------------------------------------------------------------------------------------------
    def _save(self, name: str, row: Mapping[str, Any]) -> None:
        """Write a checkpoint; only the last one holds what it takes to go on."""
        if not self.folder.writes:
            return
        tensors = dict(self.in_use.state_dict())
        about = {**self.task.about, "epoch": self.progress.epoch, "metrics": dict(row)}
        if name == LAST:
            about["progress"] = asdict(self.progress)
            for key, value in self._state().items():
                tensors[STATE_PREFIX + key] = value
        write_tensors(self.folder.checkpoints / name, tensors, about)

    def _state(self) -> dict[str, Tensor]:
        names = {id(p): name for name, p in self.model.named_parameters()}
        state = {
            f"optimizer/{key}/{names[id(parameter)]}": torch.as_tensor(value)
            for parameter, values in self.optimizer.state.items()
            for key, value in values.items()
            if value is not None
        }
        if self.averaged is not None:
            state |= {f"weights/{name}": value for name, value in self.model.state_dict().items()}
            state["averaged"] = self.averaged.n_averaged
        return state

    def _restore(self, checkpoint: Checkpoint) -> None:
        if "progress" not in checkpoint.about:
            raise UserError(f"{checkpoint.path} has no state to go on from; resume from checkpoints/{LAST}")
        state = checkpoint.state
        self.in_use.load_state_dict(checkpoint.weights)
        if self.averaged is not None:
            self.averaged.n_averaged.copy_(state["averaged"])
            prefix = "weights/"
            self.model.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
        parameters = dict(self.model.named_parameters())
        for name, value in state.items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                key, _, parameter = rest.partition("/")
                place = parameters[parameter]
                # as the optimizer keeps it: counts of steps where it put them, all else beside the weight
                self.optimizer.state[place][key] = value.to(place.device)
        self.progress = Progress(**checkpoint.about["progress"])


def _average(decay: float) -> Callable[..., None]:
    """Exponential average whose decay rises to `decay` with the steps, so that it forgets the first weights soon."""

    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        steps = float(count)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averaged, current, count)

    return update


def _broken(tensor: Tensor | None) -> bool:
    return tensor is not None and not bool(tensor.isfinite().all())


class _Batches:
    """Indices of samples, step by step: what this process takes of each step, in as many parts as are accumulated.

    The last samples of an epoch that do not fill a step are left out; the next epoch has another order.
    """

    def __init__(self, count: int, settings: OptimizationSettings, seed: int, world: World) -> None:
        self.count, self.seed, self.rank = count, seed, world.rank
        self.parts, self.processes = settings.accumulate, world.size
        share = self.parts * self.processes
        if settings.batch_size < 1 or settings.batch_size % share:
            raise UserError(
                f"--batch-size {settings.batch_size} cannot be cut into {self.processes} processes with"
                f" --accumulate {self.parts} parts each; give a multiple of {share}"
            )
        self.size = min(settings.batch_size, count // share * share)
        if self.size < 2 * share:
            raise UserError(
                f"{count} samples are too few to train on: each part of a step needs two, {2 * share} in all"
            )
        self.steps = count // self.size
        self.epoch = self.start = 0

    def set_start(self, epoch: int, step: int) -> None:
        """What the next iteration is to give."""
        self.epoch, self.start = epoch, step

    def of_step(self, epoch: int, step: int) -> list[int]:
        """The samples that this process takes in one step."""
        order = order_of_epoch(self.count, self.seed, epoch)
        return order[step * self.size : (step + 1) * self.size][self.rank :: self.processes].tolist()

    def __len__(self) -> int:
        return (self.steps - self.start) * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        order = order_of_epoch(self.count, self.seed, self.epoch)
        for step in range(self.start, self.steps):
            of_step = order[step * self.size : (step + 1) * self.size]
            for part in of_step[self.rank :: self.processes].chunk(self.parts):
                yield part.tolist()
