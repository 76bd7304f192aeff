"""Is the run ready to train? All cheap checks together before the first step, and a verdict one can act on."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytorch_lightning as lightning

from heartnet.diagnostics.fixed import leaves
from heartnet.diagnostics.look_ahead import look_ahead
from heartnet.errors import HeartnetError, StoppedError
from heartnet.findings import BAD, FILE, Finding, latest, publish, read_jsonl, run_folder
from heartnet.terminal import print_line


class Preflight(lightning.Callback):
    """Runs the start of other callbacks before the first step, and says whether to train.

    The checks are callbacks of their own, of which only what comes before the first step is done, on a first batch that
    is read past the loader: `setup`, `on_train_start`, `on_train_batch_start`, `teardown`. Their findings stand in
    `findings.jsonl` as usual. One finding more sums them up, and lines on the terminal say `ready to train`, or `do not
    start: first mend …` with the worst finding and what to do. What needs several steps (dead units, amnesia, the
    overfit check) is not part of it.

    Works with any LightningModule. Where the first batch cannot be read beforehand (iterable data sets), the checks are
    done with the one that comes, still before the first step. Training is not disturbed: weights end up the same, bit
    for bit. A callback that is switched on beside it looks once more.

    Logs:
        `findings`: the table of verdicts (text).

    Args:
        checks: the callbacks whose start is done.
        stop_on_fail: a finding `fail` ends the run before its first step.
        only: end after the verdict, without training, whatever it is.

    Raises:
        StoppedError: before the first step, for a finding `fail` if `stop_on_fail`.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __init__(self, checks: Sequence[lightning.Callback], stop_on_fail: bool = False, only: bool = False) -> None:
        for each in checks:
            if not isinstance(each, lightning.Callback):
                raise HeartnetError(f"callbacks.preflight.checks: {each!r} is no callback")
        self.checks, self.stop_on_fail, self.only = tuple(checks), stop_on_fail, only
        self._done = True

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._done = False
        first = _first_batch(trainer, pl_module)
        if first is not None:
            self._check(trainer, pl_module, first)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        del batch_idx
        if not self._done:
            self._check(trainer, pl_module, batch)

    def _check(self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any) -> None:
        self._done = True
        start, file = time.monotonic(), run_folder(trainer) / FILE
        before = len(read_jsonl(file, []))
        failed = [each for check in self.checks for each in _start(check, trainer, module, batch)]
        found = latest(read_jsonl(file, [])[before:])
        done = [type(each).__name__ for each in self.checks]
        verdict = _verdict(found, done, failed, time.monotonic() - start, trainer.global_step)
        publish([verdict], trainer)
        if trainer.is_global_zero:
            for line in _lines(verdict, found):
                print_line(line)
        if self.stop_on_fail and verdict.status == "fail":
            raise StoppedError(f"{verdict.message} (callbacks.preflight.stop_on_fail=false trains all the same)")
        if self.only:
            trainer.should_stop = True


def _start(
    check: lightning.Callback, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any
) -> list[str]:
    """Do what a callback does before the first step; return what went wrong, in words."""
    name = type(check).__name__
    try:
        check.setup(trainer, module, "fit")
        check.on_train_start(trainer, module)
        check.on_train_batch_start(trainer, module, batch, 0)
    except HeartnetError as error:
        return [f"{name}: {error}"]
    except Exception as error:  # one check must not end the others
        line = str(error).strip().partition("\n")[0]
        warnings.warn(f"preflight: {name} ended with {type(error).__name__}: {line}", RuntimeWarning, stacklevel=2)
        return [f"{name} ended with {type(error).__name__}: {line}"]
    finally:
        check.teardown(trainer, module, "fit")
    return []


def _verdict(
    found: Sequence[Finding], done: Sequence[str], failed: Sequence[str], seconds: float, step: int
) -> Finding:
    """Sum up findings, worst first."""
    bad = {status: [each for each in found if each.status == status] for status in ("fail", "warn")}
    not_done = f" Not done: {'; '.join(failed)}." if failed else ""
    if bad["fail"]:
        worst = bad["fail"][0]
        more = len(bad["fail"]) - 1
        others = f", and {more} more" if more else ""
        message = f"do not start: first mend {worst.check}, {worst.where}: {worst.message}{others}.{not_done}"
        return _finding("fail", len(bad["fail"]), message, worst.try_, step)
    if bad["warn"] or failed:
        worst_try = bad["warn"][0].try_ if bad["warn"] else ()
        what = (
            f"look at {bad['warn'][0].check}, {bad['warn'][0].where}: {bad['warn'][0].message}." if bad["warn"] else ""
        )
        return _finding("warn", len(bad["warn"]), f"ready to train, but {what}{not_done}".strip(), worst_try, step)
    unknown = [f"{each.check}, {each.where}" for each in found if each.status == "unknown"]
    message = f"ready to train. {', '.join(done)} found nothing in {seconds:.0f} s"
    return _finding("pass", 0, message + (f". Unknown: {'; '.join(unknown)}" if unknown else ""), (), step)


def _finding(status: Any, count: int, message: str, try_: Sequence[str], step: int) -> Finding:
    return Finding("preflight", status, "run", float(count), 0.0, "findings", message, tuple(try_), step)


def _lines(verdict: Finding, found: Sequence[Finding]) -> list[str]:
    """Return what is printed: the verdict, what to try, and the other findings, one a line."""
    lines = [f"Preflight: {verdict.message}"]
    if verdict.try_:
        lines.append(f"  try: {' or '.join(verdict.try_)}")
    rest = [each for each in found if each.status in BAD][1:]
    return lines + [f"  also {each.status}: {each.check}, {each.where}: {each.message}" for each in rest]


def _first_batch(trainer: lightning.Trainer, module: lightning.LightningModule) -> Any:
    """Return a training batch as the module gets it, read past the loader; None if that cannot be done."""
    loader = trainer.train_dataloader
    if len(leaves(loader)) != 1 or leaves(loader)[0] is not loader:
        return None
    ahead = look_ahead(loader, 1)
    if not ahead:
        return None
    try:
        return module.transfer_batch_to_device(ahead[0][1], module.device, 0)
    except Exception:  # hooks of a foreign module; the batch comes by itself soon
        return None
