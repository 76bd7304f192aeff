"""What do the units do, over a week? Pictures of units × time, units that mean something, and cadence blindness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as lightning
import torch

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.adapt import guess_probe, own_probe
from heartnet.diagnostics.cadence import BLIND, cadence_of, failure, typical_spread
from heartnet.diagnostics.cadence import verdict as cadence_verdict
from heartnet.diagnostics.fixed import first_loader, fixed_weeks, leaves
from heartnet.diagnostics.heatmap import Order, Rows, bare, collect, inputs_of, order_of
from heartnet.diagnostics.layers import find_layers
from heartnet.diagnostics.pixels import Pixels, image_probe, part_that_is_called
from heartnet.diagnostics.probe import Probe
from heartnet.diagnostics.signals import KnownWeek, at_positions, no_signals, signals_of
from heartnet.diagnostics.unit_table import from_plain, markdown, to_plain, unit_table, verdict, worth_telling
from heartnet.diagnostics.units import LAGS, Meaning, unit_meanings
from heartnet.errors import HeartnetError
from heartnet.figure_heatmap import heatmap_figure, panels
from heartnet.figure_units import best_unit_figure, notes_of
from heartnet.findings import BAD, Finding, publish, run_folder
from heartnet.known import known_week, telling_rows
from heartnet.loggers import log_picture, log_text, takes_pictures

ProbeOf = Callable[[lightning.LightningModule, Any], Probe]
SignalsOf = Callable[[KnownWeek], Mapping[str, Any]]


class ActivationHeatmap(lightning.Callback):
    """Draws what each unit does over the same few weeks, and says which units mean something.

    Before training, at the end of epochs, and at the end, a copy of the network in evaluation mode runs over the weeks
    once. Each chosen layer becomes a picture of units × time (`heartnet.figure_heatmap.heatmap_figure`) under heart
    rate, steps, cadence, and, where the data knows, sleep and workouts. Units stand in an order, and with signs, that
    are computed once and kept, also in checkpoints, so that pictures of different epochs compare. Constant units are
    hatched.

    Before training and at the end each unit is compared with each known signal: `heartnet.diagnostics.units`. Cells
    for sleep and workouts count if they are beyond chance, the inputs themselves and the network before training.

    At each look, activity in stretches with readings every 5 s is compared with that at rest:
    `heartnet.diagnostics.cadence`.

    Training is not disturbed: weights end up the same, bit for bit. Works on any LightningModule whose inputs are
    sequences `[batch, time, channel]`, or images `[batch, channel, height, width]`: rows of pixels, without signals and
    cadence. Of others a finding says why there are no pictures. Layers that are functions, and cells called step by
    step in a loop, cannot be seen.

    Logs:
        `activation_heatmap/{layer}`: the picture; of further weeks `activation_heatmap/{layer}/week_2` and so on.
        `activation_heatmap/constant/{layer}`: share of units that do not change in time, in all weeks.
        `activation_heatmap/silent/{layer}`: share of units silent in dense stretches.
        `activation_heatmap/best/{signal}`: AUC from 0.5, or rank correlation from 0, of the best unit, whether it rises
            or falls with the signal; at step 0 and at the end.
        `activation_heatmap/unit/{signal}`: that unit as the colour of a week's heart rate, at the end.
        `activation_heatmap/units`: the ranked table (text), at the end.
        `findings`: the table of verdicts (text).

    Writes `units.csv` (a row for each unit and signal, `heartnet.diagnostics.unit_table`) and appends to
    `findings.jsonl` in the run's folder.

    Args:
        layers: globs over the names of layers; None for each convolution and recurrent layer.
        every_n_epochs: look at the end of each n-th epoch, and always before training and at the end.
        weeks: how many weeks of the validation data (of the training data if there is none) to measure units and
            cadence on: those in which sleep and workouts share the time most evenly, else the longest.
        drawn: how many of them to draw.
        among: how many weeks to choose from.
        after_activation: show convolutions after the activation function that follows, not before.
        units: compare units with signals.
        lags: readings by which a unit may come after (before, where negative) a signal.
        shifts: circular shifts that chance is measured by.
        signals: further signals: a function of `heartnet.diagnostics.signals.KnownWeek` that returns a value for each
            reading (NaN where unknown), by name.
        probe: `probe(module, batch)` for a module that has no method `probe(batch) -> Probe`.

    Raises:
        HeartnetError: an argument that cannot work, or a glob that fits no layer.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        "constant: share of units": [r"activation_heatmap/constant/"],
        "silent in dense stretches: share of units": [r"activation_heatmap/silent/"],
        "best unit for each signal: AUC or rank correlation": [r"activation_heatmap/best/"],
    }

    def __init__(
        self,
        layers: Sequence[str] | None = None,
        every_n_epochs: int = 5,
        weeks: int = 6,
        drawn: int = 1,
        among: int = 64,
        after_activation: bool = True,
        units: bool = True,
        lags: Sequence[int] = LAGS,
        shifts: int = 400,
        signals: SignalsOf | None = None,
        probe: ProbeOf | None = None,
    ) -> None:
        numbers = {"every_n_epochs": every_n_epochs, "weeks": weeks, "drawn": drawn, "among": among, "shifts": shifts}
        for name, value in numbers.items():
            if value < 1:
                raise HeartnetError(f"callbacks.activation_heatmap.{name}={value}: must be at least 1")
        if len(lags) == 0:
            raise HeartnetError("callbacks.activation_heatmap.lags=[]: must name at least one; [0] for none")
        if layers is not None and len(layers) == 0:
            raise HeartnetError("callbacks.activation_heatmap.layers=[]: must name at least one, or be null")
        if isinstance(layers, str):
            layers = [layers]
        self.layers = None if layers is None else tuple(layers)
        self.every_n_epochs, self.weeks, self.drawn, self.among = every_n_epochs, weeks, drawn, among
        self.after_activation, self.units = after_activation, units
        self.lags, self.shifts = tuple(lags), shifts
        self.signals = signals or no_signals
        self.probe = probe or _probe_of
        self.orders: dict[str, Order] = {}
        self.untrained: list[Meaning] = []
        self.spreads: dict[str, float] = {}
        self._blind: list[str] = []
        self._fixed: tuple[Probe, list[KnownWeek]] | None = None
        self._panels: dict[int, np.ndarray] = {}
        self._failed = False

    def state_dict(self) -> dict[str, Any]:
        orders = {
            name: {"rows": torch.from_numpy(each.rows), "signs": torch.from_numpy(each.signs)}
            for name, each in self.orders.items()
        }
        return {
            "orders": orders,
            "untrained": to_plain(self.untrained),
            "spreads": dict(self.spreads),
            "blind": list(self._blind),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.orders = {
            name: Order(each["rows"].cpu().numpy(), each["signs"].cpu().numpy())
            for name, each in state_dict["orders"].items()
        }
        self.untrained = from_plain(state_dict["untrained"])
        self.spreads, self._blind = state_dict.get("spreads", {}), state_dict.get("blind", [])

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.global_step == 0:
            self.orders, self.untrained, self.spreads, self._blind = {}, [], {}, []
        self._failed = False
        if trainer.global_step == 0 or not self.orders:  # a resumed run goes on with its own
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        last = trainer.current_epoch + 1 == trainer.max_epochs  # then the look at the end follows at once
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0 and not last:
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._look(trainer, pl_module, last=True)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        del trainer, pl_module, stage
        self._fixed, self._panels = None, {}

    def _look(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *, last: bool = False) -> None:
        folder = run_folder(trainer)  # asks all ranks, as `publish` does; the rest is for rank zero
        found: list[Finding] = []
        if trainer.is_global_zero and not self._failed:
            try:
                found = self._measure(trainer, pl_module, folder, last)
            except _WrongOptionError:
                raise
            except Exception as error:  # a picture is no reason to end a training that runs
                self._failed = True
                found = [_not_measured(error, trainer.global_step)]
        publish(found, trainer)

    def _measure(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, folder: Path, last: bool
    ) -> list[Finding]:
        probe, weeks = self._fixed = self._fixed or self._fix(trainer, pl_module)
        step = trainer.global_step
        layers = collect(probe, self.layers, after_activation=self.after_activation)
        inputs = inputs_of(probe)
        cadences = cadence_of(layers, inputs, probe.channels, weeks)
        scalars = {f"constant/{each.layer}": each.constant for each in layers}
        scalars |= {f"silent/{each.layer}": each.silent for each in cadences if each.silent is not None}
        if step == 0:
            self.spreads = {each.layer: typical_spread(each) for each in layers}
        found = cadence_verdict(cadences, _settings(probe.network), step, failure(layers, self.spreads))
        found += self._over(found, step)
        meanings: list[Meaning] = []
        if self.units and not isinstance(probe.network, Pixels) and (last or step == 0):
            signals = [signals_of(week) | _checked(self.signals(week), week) for week in weeks]
            shifts = self.shifts if last else 0  # chance is asked for once
            meanings = unit_meanings([inputs, *layers], signals, lags=self.lags, shifts=shifts)
            scalars |= {f"best/{each.signal}": _best(each) for each in meanings if each.best() is not None}
            if not last:
                self.untrained = meanings
            else:
                found += self._tell(trainer, folder, layers, weeks, meanings)
        for logger in trainer.loggers:
            logger.log_metrics({f"activation_heatmap/{name}": value for name, value in scalars.items()}, step=step)
        self._draw(trainer, layers, weeks, meanings if last else [])
        return found

    def _over(self, found: Sequence[Finding], step: int) -> list[Finding]:
        """Return that a layer found blind before is blind no more, so that the old verdict does not stand."""
        if not found or found[0].status == "unknown":
            return []
        blind = [each.where for each in found if each.status in BAD]
        over = [each for each in self._blind if each not in blind]
        self._blind = blind
        message = "its units do not fall silent any more, or a layer before is named now"
        return [Finding("cadence", "pass", each, None, BLIND, "", message, step=step) for each in over]

    def _fix(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> tuple[Probe, list[KnownWeek]]:
        """Choose the weeks, and find out what is known of them."""
        data = _data_of(trainer)

        def probe_of(batch: Any) -> Probe:
            return self.probe(pl_module, pl_module.transfer_batch_to_device(batch, pl_module.device, 0))

        if data is None:
            rows = []
            probe = fixed_weeks(
                first_loader(trainer.val_dataloaders, trainer.train_dataloader), probe_of, self.weeks, self.among
            )
        else:
            rows = telling_rows(data, self.weeks, self.among)
            probe = probe_of(data.batch(np.array(rows)))
        if self.layers is not None:
            try:
                find_layers(bare(probe.network)[1], self.layers)
            except HeartnetError as error:
                raise _WrongOptionError(f"callbacks.activation_heatmap.layers={list(self.layers)}: {error}") from error
        known = [known_week(probe, place, data, rows[place] if rows else -1) for place in range(len(probe.lengths))]
        if isinstance(probe.network, Pixels):
            known = [replace(each, along="pixels, row by row") for each in known]
        return probe, known

    def _draw(
        self,
        trainer: lightning.Trainer,
        layers: Sequence[Rows],
        weeks: Sequence[KnownWeek],
        meanings: Sequence[Meaning],
    ) -> None:
        for place, week in enumerate(weeks[: self.drawn] if takes_pictures(trainer) else []):
            if place not in self._panels:
                self._panels[place] = panels(week)
            for layer in layers:
                tag = f"activation_heatmap/{layer.layer}" + (f"/week_{place + 1}" if place else "")
                order = self._order(f"{layer.layer}/{place}", layer.weeks[place], week)
                figure = heatmap_figure(
                    layer, place, week, order,
                    step=trainer.global_step, notes=notes_of(layer.layer, meanings), above=self._panels[place],
                )  # fmt: skip
                log_picture(trainer, tag, figure)

    def _order(self, name: str, rows: np.ndarray, week: KnownWeek) -> Order:
        known = self.orders.get(name)
        if known is None or len(known.rows) != len(rows):
            rate = week.heart_rate
            known = order_of(rows, None if rate is None else at_positions(rate, rows.shape[1]))
            self.orders[name] = known
        return known

    def _tell(
        self,
        trainer: lightning.Trainer,
        folder: Path,
        layers: Sequence[Rows],
        weeks: Sequence[KnownWeek],
        meanings: Sequence[Meaning],
    ) -> list[Finding]:
        """Write the table and the pictures of the best units, and return the verdicts."""
        step, table = trainer.global_step, unit_table(meanings, self.untrained)
        if not getattr(trainer, "fast_dev_run", False):
            folder.mkdir(parents=True, exist_ok=True)
            table.write_csv(folder / "units.csv", float_precision=5)
        log_text(trainer, "activation_heatmap/units", markdown(table))
        for each in worth_telling(meanings, self.untrained) if takes_pictures(trainer) else ():
            figure = best_unit_figure(each, layers, weeks, step=step)
            if figure is not None:
                log_picture(trainer, f"activation_heatmap/unit/{each.signal}", figure)
        return verdict(meanings, self.untrained, step)


class _WrongOptionError(HeartnetError):
    """An option that cannot work, which the user wants to hear of before training."""


def _not_measured(error: Exception, step: int) -> Finding:
    what = str(error) if isinstance(error, HeartnetError) else f"{type(error).__name__}: {error}"
    message = f"no pictures: activation_heatmap shows units over sequences, and {what}"
    message = message.replace("Amnesia(", "ActivationHeatmap(")
    return Finding("activation_heatmap", "warn", "all layers", None, None, "", message, step=step)


def _checked(signals: Mapping[str, Any], week: KnownWeek) -> dict[str, np.ndarray]:
    found = {name: np.asarray(values, dtype=np.float64) for name, values in signals.items()}
    for name, values in found.items():
        if values.shape != (len(week),):
            raise _WrongOptionError(
                f"callbacks.activation_heatmap.signals: {name!r} has shape {values.shape}, expected ({len(week)},), "
                "a value for each reading of the week"
            )
    return found


def _best(meaning: Meaning) -> float:
    best = meaning.best()
    assert best is not None
    return meaning.shown(meaning.effects[best])


def _settings(network: torch.nn.Module) -> dict[str, object]:
    """Return what the network was made with, by Hydra override; empty for a network from elsewhere."""
    arguments = getattr(network, "arguments", None)
    return {f"model.{name}": value for name, value in arguments.items()} if isinstance(arguments, Mapping) else {}


def _probe_of(module: lightning.LightningModule, batch: Any) -> Probe:
    own = own_probe(module)
    if own is not None:
        return own(batch)
    called = part_that_is_called(module)  # what it answers is not asked
    return image_probe(called, batch) or guess_probe(called, batch, outputs=("any",))


def _data_of(trainer: lightning.Trainer) -> WeeksDataModule | None:
    """Return the data module of heartnet that a trainer, or a loader given to it, has its batches from."""
    loaders = (trainer.val_dataloaders, trainer.train_dataloader)
    sets = [getattr(leaf, "dataset", None) for each in loaders for leaf in leaves(each)]
    found = [getattr(trainer, "datamodule", None), *(getattr(each, "data", None) for each in sets)]
    return next((each for each in found if isinstance(each, WeeksDataModule)), None)
