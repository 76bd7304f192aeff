"""Which units are dead, constant or saturated, in which layer it starts, when it happened, and what came before."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities import rank_zero_warn

from heartnet.diagnostics.between_looks import Between, BetweenLooks
from heartnet.diagnostics.dead_units import LayerUnits, look, some_rows, unseen
from heartnet.diagnostics.dead_verdict import CHECK
from heartnet.diagnostics.deaths import Deaths
from heartnet.diagnostics.unit_gradients import GradientNorms, UnitGradient, UnitGradients
from heartnet.errors import HeartnetError
from heartnet.findings import Finding, publish

_BETWEEN = 8  # batches that are watched between two looks


class DeadUnits(lightning.Callback):
    """Watches every unit of every layer while a network trains.

    A unit is *dead* if its activation stayed flat for every value of several looks and no gradient reached it in any
    step since (ReLU below 0); *constant* if what its layer is given does not depend on the input, because an earlier
    layer is dead; *saturated* if its sigmoid, tanh or gate is at its ends for 95 % of the time. A finding names the
    layer in which it starts, the step, the largest gradient (and learning rate) before it, and the layers that are
    constant because of it.

    A look does the training step of one batch again on a copy, without dropout
    (`heartnet.diagnostics.dead_units.look`): at the steps 0, 1, 2, 4, 8 … and every `every_n_steps`; of heartnet's
    batches, with as many weeks as tell enough (`heartnet.diagnostics.dead_units.some_rows`). Between two looks, 8
    batches are watched while they train (`heartnet.diagnostics.between_looks`): what is active there is not dead. When
    training ends, however it does, the last `confirm` batches are looked at with the final weights, so that what died
    after the last look is found. Gradients are those of biases (of the normalisation's, if there is one in between),
    at every step. The history is kept in checkpoints. Padding counts as no time where the batch, or what a module is
    called with, has `lengths`. Training is not disturbed: weights end up the same, bit for bit.

    Cost, on the full DeepHeart (one thread): a look 0.1 of a training step on 8 weeks, a batch that is watched 0.01,
    gradients 0.0005 of each step. The last `confirm` batches are held in memory.

    Works on any LightningModule, whether its activations are modules or functions; the layers of an `nn.LSTM`, `nn.GRU`
    or `nn.RNN` of several are told apart (`rnn.l0`, `rnn.l1` …). What cannot be seen is said in the verdict: cells,
    scripted code. A penalty on biases in the loss gives dead units a gradient, and hides them.

    Logs at every look, by layer:
        `dead_units/{layer}/dead`, `…/constant`, `…/saturated`: shares of the layer's units.
        `dead_units/{layer}/active`: share of time at which the activation is not flat, over the look's batch and those
            watched since the look before, mean over units.
        `dead_units/{layer}/spread`: standard deviation over time before the activation, in the same batches, mean over
            units.
        `dead_units/{layer}/gradient`: largest gradient of a unit's bias since the last look, mean over units.
        `dead_units/{layer}/saturated/{gate}`: share of units that a gate of a recurrent layer saturates.
        `dead_units/{layer}/before_activation`: a histogram of values, at every `histograms`-th look.
        `findings`: the table of verdicts (text).

    Appends to `findings.jsonl` in the run's folder, and keeps the shares of each layer in `deaths`. With several
    processes, all look at the same time, since a training step may wait for the others; rank zero speaks, of its share
    of the data.

    Args:
        every_n_steps: how often to look.
        confirm: looks in a row that have to agree before a unit is called dead or saturated.
        limit: share of a layer's units that may die beyond those that were silent in the first looks, or may never
            live; half of it for those that died in a spike (`heartnet.diagnostics.dead_verdict.Allowed`).
        histograms: draw histograms at every n-th look; 0 for none.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        **{
            title: [rf"dead_units/[^/]+/{number}$"]
            for number, title in (
                ("dead", "dead: share of units"),
                ("constant", "constant: share of units"),
                ("saturated", "saturated: share of units"),
                ("active", "active: share of time"),
                ("spread", "spread over time"),
                ("gradient", "gradient of the biases"),
            )
        },
        "saturated gates: share of units": [r"dead_units/[^/]+/saturated/"],
    }

    def __init__(self, every_n_steps: int = 100, confirm: int = 3, limit: float = 0.2, histograms: int = 4) -> None:
        for name, value, least in (
            ("every_n_steps", every_n_steps, 1), ("confirm", confirm, 1), ("histograms", histograms, 0),
        ):  # fmt: skip
            if value < least:
                raise HeartnetError(f"callbacks.dead_units.{name}={value}: must be at least {least}")
        if not 0 <= limit < 1:
            raise HeartnetError(f"callbacks.dead_units.limit={limit}: must be from 0 up to but not including 1")
        self.every_n_steps, self.confirm, self.limit, self.histograms = every_n_steps, confirm, limit, histograms
        self.deaths = Deaths()
        self._gradients: UnitGradients | None = None
        self._between: BetweenLooks | None = None
        self._last: deque[tuple[Any, int]] = deque(maxlen=confirm)
        self._since: tuple[dict[str, UnitGradient], dict[str, Between]] | None = None  # what was seen since a look
        self._resumed: dict[str, Any] = {}
        self._norms = GradientNorms()
        self._batches = self._looks = 0
        self._failed = ""
        self._pending: list[Finding] = []

    def state_dict(self) -> dict[str, Any]:
        if self._gradients is None:
            return self._resumed
        return {
            "deaths": self.deaths.state_dict(),
            "gradients": self._gradients.state_dict(),
            "norms": self._norms.state_dict(),
            "batches": self._batches,
            "looks": self._looks,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = state_dict

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        prefix, known = _prefix(pl_module), self._resumed if trainer.global_step > 0 else {}
        self.deaths = Deaths(self.confirm, self.limit, _settings(pl_module), hidden=unseen(pl_module, prefix))
        self._gradients, self._norms = UnitGradients(pl_module, prefix), GradientNorms()
        self._between, self._last = BetweenLooks(pl_module, prefix), deque(maxlen=self.confirm)
        self._batches, self._looks, self._failed, self._pending = 0, 0, "", []
        if known:
            self.deaths.load_state_dict(known["deaths"])
            self._gradients.load_state_dict(known["gradients"])
            self._norms.load_state_dict(known["norms"])
            self._batches, self._looks = known["batches"], known["looks"]

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        number, self._batches = self._batches, self._batches + 1
        early = number < self.every_n_steps and number & (number - 1) == 0
        self._last.append((batch, batch_idx))
        if early or number % self.every_n_steps == 0:
            self._look(trainer, pl_module, batch, batch_idx)
        elif number % max(1, self.every_n_steps // _BETWEEN) == 0 and self._between is not None:
            self._between.start(trainer.global_step, batch)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        if self._between is not None:
            self._between.stop()

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        del pl_module
        if self._gradients is not None and trainer.is_global_zero and not self._failed:
            self._see_gradients(self._gradients, trainer, optimizer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        self._publish(trainer, together=True)

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        self.teardown(trainer, pl_module, "fit")

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._since = None
        while self._last:
            self._look(trainer, pl_module, *self._last.popleft(), last=True)
        self._pending = list({each.where: each for each in self._pending}.values())  # the last word on each
        self._pending += [] if self._failed else self.deaths.end(trainer.global_step)
        self._publish(trainer, together=True)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        del trainer, pl_module, stage
        if self._between is not None:
            self._between.stop()
        self._resumed = self.state_dict()  # for a checkpoint that is written now
        self._between, self._gradients, self._norms = None, None, GradientNorms()
        self._last.clear()

    def _look(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, index: int, *,
        last: bool = False,
    ) -> None:  # fmt: skip
        if self._failed:
            return
        step, plugin = trainer.global_step, trainer.strategy.precision_plugin
        batch = some_rows(batch) if _settings(pl_module) else batch
        try:
            layers = look(pl_module, batch, index, plugin.train_step_context, _prefix(pl_module))
        except Exception as error:  # whatever a foreign module does, its training goes on
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._give_up(f"the training step cannot be done again on a copy ({what})", step)
        else:
            if layers and trainer.is_global_zero:
                self._judge(trainer, layers, step, last=last)
            elif not layers and not self._looks:  # later, it is a batch that the module leaves out
                self._give_up("no convolution, linear or recurrent layer of it ran", step)
        if not last:
            self._publish(trainer, together=False)

    def _judge(self, trainer: lightning.Trainer, layers: Sequence[LayerUnits], step: int, *, last: bool) -> None:
        assert self._gradients is not None
        assert self._between is not None
        if not last or not self._since:
            self._since = self._gradients.read(), self._between.read()
        self._pending += self.deaths.see(step, layers, self._since[0], self._norms.before, self._since[1], last=last)
        self._between.follow(layers)
        if self._between.failed:
            self.deaths.hidden["batches between looks"] = self._between.failed
        draw = self.histograms > 0 and self._looks % self.histograms == 0
        self._looks += 1
        for logger in trainer.loggers if not self._last or not last else ():  # of the last looks, the last
            logger.log_metrics(_scalars(self.deaths, layers), step=step)
            add_histogram = getattr(getattr(logger, "experiment", None), "add_histogram", None)
            if draw and add_histogram is not None:
                for layer in (each for each in layers if len(each.sample)):
                    add_histogram(f"dead_units/{layer.name}/before_activation", layer.sample, global_step=step)

    def _see_gradients(
        self, gradients: UnitGradients, trainer: lightning.Trainer, optimizer: torch.optim.Optimizer
    ) -> None:
        try:
            gradients.see(trainer.global_step)
            self._norms.see(trainer.global_step, optimizer, _which(trainer, optimizer))
        except Exception as error:  # as above
            self._give_up(f"{type(error).__name__} while reading gradients: {error}", trainer.global_step)

    def _give_up(self, why: str, step: int) -> None:
        self._failed = f"dead units cannot be seen: {why}"
        rank_zero_warn(f"dead_units: {self._failed}")
        self._pending.append(Finding(CHECK, "warn", "network", None, None, "", self._failed, (), step))

    def _publish(self, trainer: lightning.Trainer, *, together: bool) -> None:
        """Publish what was found; with several processes, where all of them are here."""
        if (trainer.world_size == 1 and self._pending) or (trainer.world_size > 1 and together):
            found, self._pending = self._pending, []
            publish(found, trainer)


def _scalars(deaths: Deaths, layers: Sequence[LayerUnits]) -> dict[str, float]:
    found: dict[str, float] = {}
    for layer in layers:
        state = deaths.states[layer.name]
        named: dict[str, float] = {**vars(state), **{f"saturated/{gate}": share for gate, share in layer.stuck.items()}}
        found |= {f"dead_units/{layer.name}/{name}": value for name, value in named.items() if not math.isnan(value)}
    return found


def _prefix(module: lightning.LightningModule) -> str:
    """Return what is taken off the names of layers: those of heartnet's networks are named within the network."""
    return "network." if _settings(module) else ""


def _settings(module: lightning.LightningModule) -> dict[str, object]:
    """Return what a network of heartnet was made with, by Hydra override; empty for a network from elsewhere."""
    arguments = getattr(getattr(module, "network", None), "arguments", None)
    return {f"model.{name}": value for name, value in arguments.items()} if isinstance(arguments, Mapping) else {}


def _which(trainer: lightning.Trainer, optimizer: torch.optim.Optimizer) -> int:
    return next((i for i, each in enumerate(trainer.optimizers) if each is optimizer), 0)
