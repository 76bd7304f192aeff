"""Is training healthy? Non-finite values, gradients, updates, units, losses and scores, and where trouble starts."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor, nn

from heartnet.diagnostics import health_gradients, start_verdicts
from heartnet.diagnostics import health_verdicts as verdicts
from heartnet.diagnostics.health import Health
from heartnet.diagnostics.health_causes import Told
from heartnet.diagnostics.health_passes import passes
from heartnet.diagnostics.health_scores import Scores
from heartnet.diagnostics.health_tags import scalars
from heartnet.diagnostics.loss_calls import LossCalls
from heartnet.diagnostics.nonfinite import locate
from heartnet.diagnostics.nonfinite_verdict import not_finite
from heartnet.diagnostics.replay import Replay, Streams
from heartnet.diagnostics.start import mixing, scales
from heartnet.diagnostics.trends import trend
from heartnet.errors import HeartnetError
from heartnet.findings import Finding, publish

_FIRST = 6
"""Steps at the start that are all looked at."""
_ONCE = ("units", "activation")
"""What spreads from layer to layer: only the first is told."""


class TrainingHealth(lightning.Callback):
    """Watches a training, whatever it trains, and names what is wrong with it, where it starts and what may help.

    In each batch: are loss and gradients finite? If not, the step is done again on a copy, with the weights and random
    numbers that it had, and the first module, tensor and samples that are not finite are named. Does a gradient reach
    each weight? How does the loss go?

    At looks (the first steps, then every `every_n_steps`): gradient, update and output of each layer, what clipping
    leaves, what the loss functions of `torch.nn.functional` are given, and which output their gradient goes to.

    Before the first step, on a copy: do samples of a batch change one another's scores, are initial weights of a usual
    size, do logits go through an activation before the loss? After validation: AUROCs that stay at 0.5, and scores that
    do not rise while the loss falls.

    Training is not disturbed: weights end up the same, bit for bit. Works with any LightningModule. What it cannot see:
    layers inside compiled modules, operations that are not modules (they are placed between modules), loss functions
    that are written out by hand, and gradients of weights that another process holds.

    Logs at looks, with `layer` for up to `layers` layers spread over the network:
        `training_health/gradient/{layer}`: norm of the gradient of the layer's weights, before clipping.
        `training_health/gradient_to_largest/{layer}`: the same over that of the layer with most, 0 to 1.
        `training_health/gradient_to_first/{layer}`: the same over what it was at the first look, before any step.
        `training_health/update/{layer}`: norm of the step's change over that of the weights; about 0.001 is healthy.
        `training_health/activation/{layer}`: root mean square of what it puts out.
        `training_health/gradient_norm`: of all weights, before clipping; `training_health/clipped`: share of it left.
        `training_health/share/{output}`: part of the gradient that goes to an output (a condition), 0 to 1.
        `findings`: the table of verdicts (text).

    Appends to `findings.jsonl` in the run's folder as soon as a finding is certain. One cause is one finding: what
    most likely follows from it is told with it (`heartnet.diagnostics.health_causes`), in a newer line for its place.

    Args:
        every_n_steps: optimiser steps between looks; the first six steps are looked at too.
        check_every_n_batches: batches between checks of loss and gradients, each of which waits for an accelerator.
            With more than 1, a non-finite value may be found after it has spoilt the weights, and its place be lost.
        layers: at most so many are drawn.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        "gradient norm of all weights, before clipping": [r"training_health/gradient_norm$"],
        "share of the gradient left by clipping": [r"training_health/clipped$"],
        "gradient norm by layer": [r"training_health/gradient/"],
        "gradient norm by layer, over the largest": [r"training_health/gradient_to_largest/"],
        "gradient norm by layer, over the first look": [r"training_health/gradient_to_first/"],
        "update over weight by layer": [r"training_health/update/"],
        "activation by layer": [r"training_health/activation/"],
        "share of the gradient by output": [r"training_health/share/"],
    }

    def __init__(self, every_n_steps: int = 20, check_every_n_batches: int = 1, layers: int = 24) -> None:
        numbers = {"every_n_steps": every_n_steps, "check_every_n_batches": check_every_n_batches, "layers": layers}
        for name, value in numbers.items():
            if value < 1:
                raise HeartnetError(f"callbacks.training_health.{name}={value}: must be at least 1")
        self.every_n_steps, self.check_every_n_batches, self.layers = every_n_steps, check_every_n_batches, layers
        self.health: Health | None = None
        self.scores = Scores()
        self._told = Told()
        self._pending: list[Finding] = []
        self._restored: dict[str, Any] | None = None
        self._batch: tuple[Any, int, Streams | None] | None = None
        self._loss: Tensor | None = None
        self._broken = False
        self._planned = math.inf

    def state_dict(self) -> dict[str, Any]:
        health = None if self.health is None else self.health.state()
        return {"health": health, "scores": self.scores.state(), "told": self._told.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        held = [
            each for optimizer in trainer.optimizers for group in optimizer.param_groups for each in group["params"]
        ]
        self.health = Health(pl_module, held, _outputs_of(pl_module))
        self.scores, self._told, self._broken = Scores(_outputs_of(pl_module)), Told(), False
        self._planned = float(trainer.estimated_stepping_batches)
        self._take_up()
        self._publish(trainer, start_verdicts.left_out(self.health))

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.health is None or self._broken:
            return
        checked = self.health.batches % self.check_every_n_batches == 0
        self._batch, self._loss = (batch, batch_idx, Streams.now() if checked else None), None
        if self.health.batches == 0:
            self._publish(trainer, self._begin(trainer, pl_module, batch))
        if _is_look(trainer, self.health.batches, self.every_n_steps):
            self.health.open(batch, trainer.global_step)

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: Tensor
    ) -> None:
        del trainer, pl_module
        self._loss = loss.detach()

    def on_after_backward(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if _scaler(trainer) is None:
            self._check(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        del optimizer
        if self.health is None or self._broken:
            return
        if _scaler(trainer) is not None or not self.health.weights.batch:  # or backward without Lightning
            self._check(trainer, pl_module)
        if self.health.looking:
            self.health.weights.before_step()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del pl_module, outputs, batch, batch_idx
        if self.health is not None and not self._broken:
            self._publish(trainer, self._end_batch(trainer))

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        del outputs, batch_idx, dataloader_idx
        if not trainer.sanity_checking:
            self.scores.see(batch)
            self._publish(trainer, start_verdicts.left_on(pl_module))

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        if not trainer.sanity_checking and self.health is not None:
            self.scores.end({name: float(value) for name, value in trainer.callback_metrics.items()})
            self._publish(trainer, self._judge_course(trainer, end=False))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        if self.health is None:
            return
        found = [] if self._broken else [*self._judge(trainer, end=True), *self._judge_course(trainer, end=True)]
        self._publish(trainer, found, now=True)
        self._publish(trainer, [] if self._broken else passes(self.health, self._told.wrong()), now=True)
        self.health.shut()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        del trainer, pl_module, exception
        self._shut()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        del trainer, pl_module, stage
        self._shut()

    def _begin(self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any) -> list[Finding]:
        """Measure, on copies, what can be told before the first step."""
        assert self.health is not None
        found = start_verdicts.same_units(self.health)
        try:
            replay = _replay(trainer, module)
            with LossCalls(batch) as seen:
                found += start_verdicts.mixed(mixing(replay, batch))
            found += start_verdicts.squashed(self.health, seen.calls)
            return found + start_verdicts.odd_start(scales(replay, batch))
        except Exception as error:  # a step on a copy runs whatever a foreign module does
            _warn(f"{type(module).__name__} could not be looked into before its first step: {_line(error)}")
            return found

    def _check(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Note loss and gradients; at the first that is not finite, find out where it comes from."""
        health = self.health
        if health is None or self._broken or (health.batches % self.check_every_n_batches and not health.looking):
            return
        loss = _unscaled(trainer, self._loss)
        if health.backward(loss, trainer.global_step):
            health.skipped = 0
            return
        health.skipped += 1
        overflow = _scaler(trainer) is not None and (loss is None or bool(loss.isfinite()))
        if overflow and health.skipped < verdicts.SKIPPED:  # the scaler leaves a step out now and then
            health.shut()
            return
        self._broken = True
        health.shut()
        self._publish(trainer, [self._locate(trainer, module)])

    def _locate(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> Finding:
        assert self.health is not None
        place, rows = None, list[int]()
        why = "the step was finite when it was done again"
        why += " in this process; look at the batch of the others" if trainer.world_size > 1 else ""
        try:
            assert self._batch is not None
            batch, index, streams = self._batch
            index_of = batch.get("index") if isinstance(batch, Mapping) else None
            rows = index_of.tolist() if isinstance(index_of, Tensor) else []
            place = locate(_replay(trainer, module), batch, index, streams)
        except Exception as error:  # see `_begin`
            why = _line(error)
        return not_finite(place, self.health, step=trainer.global_step, why=why, rows=rows)

    def _end_batch(self, trainer: lightning.Trainer) -> list[Finding]:
        assert self.health is not None
        self._batch = None
        self.health.end_batch()
        if self.health.looking:
            look = self.health.close()
            numbers = scalars(look, self.health.first or look, self.layers)
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=look.step)
            return self._judge(trainer)
        return self._judge(trainer) if self.health.batches == health_gradients.BATCHES else []

    def _judge(self, trainer: lightning.Trainer, *, end: bool = False) -> list[Finding]:
        assert self.health is not None
        health, settings = self.health, _settings(trainer)
        found = start_verdicts.same_units(health) if health.batches <= 1 else []
        found += health_gradients.gradients(health, enough=3 if end else health_gradients.BATCHES)
        found += health_gradients.small_gradients(health) + health_gradients.heads(health)
        found += verdicts.updates(health, self._planned, settings, end=end) + verdicts.clipped(health, settings)
        return found + verdicts.activations(health) + health_gradients.climbing(health)

    def _judge_course(self, trainer: lightning.Trainer, *, end: bool) -> list[Finding]:
        assert self.health is not None
        losses, found = trend(self.health.losses.values), start_verdicts.start_loss(self.health)
        one = trainer.lightning_module.automatic_optimization or len(trainer.optimizers) == 1
        if one and (end or losses.course != "flat"):  # several losses pull against one another
            found += verdicts.course(losses, len(self.health.losses), self.health, _settings(trainer))
        return found + self.scores.judge(losses, end=end)

    def _publish(self, trainer: lightning.Trainer, found: Sequence[Finding], *, now: bool = False) -> None:
        """Publish what is new; with several processes only where all of them come by."""
        wrong = {where.rpartition("/")[2] for where in self._told.wrong()}
        found = [each for each in found if each.where.rpartition("/")[2] not in wrong.intersection(_ONCE)]
        if self.health is not None:
            outputs = {*self.health.outputs, *self.health.rows, *self.health.names}
            self._pending += self._told.news(found, outputs, self.health.last_layer(), trainer.global_step)
        if (self._pending and trainer.world_size == 1) or now:
            publish(self._pending if trainer.world_size == 1 else _of_all(self._pending, trainer), trainer)
            self._pending = []

    def _take_up(self) -> None:
        """Go on from what a checkpoint held."""
        held, self._restored = self._restored, None
        if held is not None and held["health"] is not None and self.health is not None:
            self.health.load(held["health"])
            self.scores.load(held["scores"])
            self._told.load(held.get("told", self._told.state()))

    def _shut(self) -> None:
        if self.health is not None:
            self.health.shut()
        self._batch = self._loss = None


def _of_all(pending: list[Finding], trainer: lightning.Trainer) -> list[Finding]:
    """Return a process's findings, with those on values that are not finite from the one that knows their place."""
    parts: list[Any] = [[] for _ in range(trainer.world_size)]
    finite = [(each.value is not None, each.as_json()) for each in pending if each.where.endswith("/finite")]
    torch.distributed.all_gather_object(parts, finite)
    known = [
        Finding.from_json({**row, "message": f"{row['message']} (in process {rank})"})
        for rank, rows in enumerate(parts)
        for placed, row in rows
        if placed
    ]
    return [each for each in pending if not (known and each.where.endswith("/finite"))] + known[:1]


def _is_look(trainer: lightning.Trainer, batches: int, every: int) -> bool:
    """Whether the batch after `batches` others ends a step to look at."""
    step, of_step = divmod(batches, trainer.accumulate_grad_batches)
    return of_step == trainer.accumulate_grad_batches - 1 and (step < _FIRST or step % every == 0)


def _settings(trainer: lightning.Trainer) -> dict[str, object]:
    """Return what the run was made with, by Hydra override; empty for a module from elsewhere."""
    module = trainer.lightning_module
    if not hasattr(getattr(module, "network", None), "arguments"):
        return {}
    settings: dict[str, object] = {"module.learning_rate": getattr(module, "learning_rate", None)}
    if trainer.gradient_clip_val is not None:
        settings["trainer.gradient_clip_val"] = trainer.gradient_clip_val
    return settings


def _outputs_of(module: nn.Module) -> tuple[str, ...]:
    names = getattr(module, "targets", ())
    return tuple(names) if isinstance(names, tuple | list) and all(isinstance(each, str) for each in names) else ()


def _scaler(trainer: lightning.Trainer) -> Any:
    return getattr(trainer.precision_plugin, "scaler", None)


def _replay(trainer: lightning.Trainer, module: lightning.LightningModule) -> Replay:
    """Return a replay whose copy logs nowhere, also where it asks the trainer for its logger."""
    quiet = copy.copy(trainer)
    quiet.loggers = [DummyLogger() for _ in trainer.loggers]
    return Replay(module, trainer.precision_plugin.train_step_context, quiet)


def _unscaled(trainer: lightning.Trainer, loss: Tensor | None) -> Tensor | None:
    """Return the loss of the batch, which Lightning hands on scaled, and divided by the batches of a step."""
    scaler = _scaler(trainer)
    scale = 1.0 if scaler is None else scaler.get_scale()
    parts = trainer.accumulate_grad_batches if trainer.lightning_module.automatic_optimization else 1
    return None if loss is None else loss / scale * parts


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _warn(message: str) -> None:
    warnings.warn(f"training_health: {message}", RuntimeWarning, stacklevel=2)
