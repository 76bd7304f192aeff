"""Training a copy of a module to learn a few batches by heart, without regularisation and without a trace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from heartnet.diagnostics.isolate import rng_untouched
from heartnet.diagnostics.overfit_answers import LIMITS, Answer, Answers, Kind, costs, fits
from heartnet.diagnostics.replay import Replay, Streams, loss_of, tensors_in

Normalisation = Literal["batch", "off"]
"""`batch`: layers normalise by the batch, as in training; `off`: by the statistics they start with."""

_FALLEN = 0.7
"""Of the cross-entropy at the start, what may be left of it."""

Scores = Callable[[Any, Any], tuple[Tensor, Tensor]]
"""`(module, batch)` → scores and targets, each `[sample, output]`; NaN is an unknown target."""


@dataclass(frozen=True)
class Setting:
    """How a copy is trained.

    Attributes:
        module: what is copied; never changed.
        batches: to learn by heart, on the module's device.
        normalisation: see `Normalisation`.
        scores: what to judge by; None takes what torch's loss functions are given.
        context: entered for each step, for example autocast.
        trainer: what the copy takes for its trainer.
        clip: does to the gradients of some parameters what the trainer does.
        deadline: `time.monotonic()` at which to give up.
        told: called after each step.
    """

    module: nn.Module
    batches: Sequence[Any]
    normalisation: Normalisation = "batch"
    scores: Scores | None = None
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    trainer: Any = None
    clip: Callable[[Sequence[nn.Parameter]], None] | None = None
    deadline: float = math.inf
    told: Callable[[], None] | None = None


@dataclass
class Fit:
    """What came of it. A pass is once over all batches; what it shows is from before each step.

    Attributes:
        losses: mean loss of each pass.
        fits: `[pass][output]`, how well each output is learned (see `overfit_answers.LIMITS`).
        costs: `[pass][output]`, cross-entropy of each output; NaN where it cannot be told.
        kind: of the task; None if no loss function with scores and targets was seen.
        steps: taken.
        rate: the learning rate of the first group of weights.
        update: root mean square, over steps of the first pass, of change over weights; NaN if nothing changed.
        still: names of weights that asked for a gradient, and got none in the whole first pass.
        left_out: names of weights that ask for a gradient, and that no optimiser has.
        asked: how many weights ask for a gradient.
        frozen: share of the weights that ask for no gradient.
        first, last: the answers of a pass, side by side.
        margins: `[sample]`, score in favour of what is right, mean over outputs and passes, in spreads of the scores.
        ended: `"reached"`, `"steps"`, `"seconds"` or `"not finite"`.
        optimiser: in words.
    """

    losses: list[float] = field(default_factory=list)
    fits: list[list[float]] = field(default_factory=list)
    costs: list[list[float]] = field(default_factory=list)
    kind: Kind | None = None
    steps: int = 0
    rate: float = math.nan
    update: float = math.nan
    still: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    asked: int = 0
    frozen: float = 0.0
    first: Answer | None = None
    last: Answer | None = None
    margins: Float[np.ndarray, " sample"] | None = None
    ended: str = "steps"
    optimiser: str = ""

    @property
    def reached(self) -> bool:
        return self.ended == "reached"

    @property
    def learned(self) -> list[bool | None]:
        """Whether each output is learned by heart, as far as the last pass shows; None where that cannot be told.

        Its fit is above the limit, and its cross-entropy has fallen by a third: scores of few weeks are in order by
        chance, or because their order was right before.
        """
        fitted, costs = zip(self.fits[-1], self.costs[0], self.costs[-1], strict=True), []
        for value, first, last in fitted:
            costs.append(None if math.isnan(value) else value >= self.limit and not last > _FALLEN * first)
        return costs

    @property
    def limit(self) -> float:
        return LIMITS[self.kind or "binary"]

    @property
    def best(self) -> float:
        """Lowest loss of a pass, NaN before the first."""
        return float(np.nanmin(self.losses)) if np.isfinite(self.losses).any() else math.nan


def learn(setting: Setting, steps: int, *, factor: float = 1.0, shuffle: int | None = None) -> Fit:
    """Train a copy of the module on the same batches again and again until all is learned, for at most some steps.

    Off: dropout, weight decay, schedules (the rate stays at its peak), augmentation by heartnet, gradients of other
    batches. Each step draws the same random numbers, so that what else is random is always the same for a batch.

    Args:
        factor: of the learning rate.
        shuffle: a seed, by which targets change places within their batch; None leaves them.

    Raises:
        HeartnetError: the module cannot be copied.
    """
    with rng_untouched(), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        streams = Streams.now()
        replay = Replay(setting.module, setting.context, setting.trainer)
        _no_regularisation(replay.twin, setting.normalisation)
        optimisers, said = _optimisers(replay, factor)
        fit = Fit(optimiser=said, rate=_rate(optimisers))
        weights = dict(replay.twin.named_parameters())
        held = {id(each) for one in optimisers for group in one.param_groups for each in group["params"]}
        fit.left_out = [name for name, each in weights.items() if each.requires_grad and id(each) not in held]
        fit.asked = sum(each.requires_grad for each in weights.values())
        fit.frozen = _share(weights.values(), lambda each: not each.requires_grad)
        _passes(fit, setting, replay, optimisers, streams, steps, shuffle)
    return fit


def _passes(
    fit: Fit,
    setting: Setting,
    replay: Replay,
    optimisers: Sequence[torch.optim.Optimizer],
    streams: Streams,
    steps: int,
    shuffle: int | None,
) -> None:
    touched, moved, margins = set[str](), list[float](), list[Tensor]()
    weights = {name: each for name, each in replay.twin.named_parameters() if each.requires_grad}
    while fit.steps < steps:
        losses, answers = list[float](), list[Answer]()
        for index, batch in enumerate(setting.batches):
            before = {name: each.detach().clone() for name, each in weights.items()} if not fit.losses else {}
            loss, answer = _step(setting, replay, optimisers, streams, batch, index, shuffle)
            losses.append(loss)
            answers += [answer] if answer is not None else []
            if before:
                touched |= {name for name, each in weights.items() if each.grad is not None and each.grad.any()}
                moved.append(_moved(before, weights))
            fit.steps += 1
            if setting.told is not None:
                setting.told()
        if not fit.losses:
            fit.still = [name for name in weights if name not in touched]
            fit.update = float(np.sqrt(np.mean(np.square(moved))))
        fit.losses.append(float(np.mean(losses)))
        _judge(fit, answers, margins)
        if fit.ended != "steps":
            break
        if time.monotonic() > setting.deadline:
            fit.ended = "seconds"
            break
    if margins:
        fit.margins = torch.stack(margins).mean(dim=0).cpu().numpy().astype(np.float64)


def _step(
    setting: Setting,
    replay: Replay,
    optimisers: Sequence[torch.optim.Optimizer],
    streams: Streams,
    batch: Any,
    index: int,
    shuffle: int | None,
) -> tuple[float, Answer | None]:
    """Take one step; under manual optimisation the module takes it itself."""
    order = None
    if shuffle is not None:
        size = max((len(each) for each in _first_dimension(batch)), default=0)
        order = np.random.default_rng((shuffle, index)).permutation(size).tolist()
    with Answers(batch, order) as seen:
        result = replay.step(batch, index, streams, backward=True)
    loss = loss_of(result)
    answer = seen.answer()
    if setting.scores is not None:
        with rng_untouched(), torch.no_grad(), Answers(batch):
            scores, targets = (each.detach().float() for each in setting.scores(replay.twin, batch))
        answer = Answer(_kind(targets), scores, targets, "" if answer is None else answer.squashed_by)
    if not replay.manual:
        for each in optimisers:
            parameters = [one for group in each.param_groups for one in group["params"] if one.grad is not None]
            if setting.clip is not None and parameters:
                setting.clip(parameters)
            each.step()
    return (math.nan if loss is None else float(loss.detach())), answer


def _judge(fit: Fit, answers: Sequence[Answer], margins: list[Tensor]) -> None:
    """Note how well the pass's scores fit, and whether that ends it."""
    if answers:
        same = [each for each in answers if each.kind == answers[0].kind]
        one = Answer(
            same[0].kind,
            torch.cat([each.scores for each in same]),
            torch.cat([each.targets for each in same]),
            next((each.squashed_by for each in same if each.squashed_by), ""),
            are_logits=same[0].are_logits,
            gradient=_total([each.gradient for each in same]),
        )
        fit.kind, fit.first, fit.last = one.kind, fit.first or one, one
        fit.fits.append(fits(one.kind, one.scores.double().cpu().numpy(), one.targets.double().cpu().numpy()))
        if one.kind != "values":
            margins.append(_margins(one))
        fit.costs.append(costs(one))
        told = [each for each in fit.learned if each is not None]
        if told and all(told):
            fit.ended = "reached"
        if math.isnan(fit.losses[-1]):  # of a step that returns no loss
            fit.losses[-1] = float(np.mean(fit.costs[-1]))
        if not bool(one.scores.isfinite().all()) or math.isinf(fit.losses[-1]):
            fit.ended = "not finite"
    elif not math.isfinite(fit.losses[-1]):
        fit.ended = "not finite"


def _total(gradients: Sequence[Tensor | None]) -> Tensor | None:
    known = [each for each in gradients if each is not None]
    return torch.stack(known).sum(dim=0) if known else None


def _margins(answer: Answer) -> Float[Tensor, " sample"]:
    """Score in favour of the right class: of each condition around its mean, of classes against the best other."""
    scores, targets = answer.scores, answer.targets
    if answer.kind == "classes":
        right = targets > 0.5
        own = torch.where(right, scores, 0).sum(dim=1)
        return own - scores.masked_fill(right, -torch.inf).amax(dim=1)
    centred = (scores - scores.mean(dim=0)) / scores.std(dim=0).clamp(min=1e-12)
    return ((2 * targets - 1) * centred).nanmean(dim=1).nan_to_num()


def _no_regularisation(twin: nn.Module, normalisation: Normalisation) -> None:
    for each in twin.modules():
        each.train()
        if isinstance(each, nn.RNNBase | nn.MultiheadAttention):
            each.dropout = 0.0
        if normalisation == "off" and isinstance(each, nn.modules.batchnorm._NormBase) and each.track_running_stats:
            each.eval()
        augmentation = vars(each).get("augmentation")
        if isinstance(augmentation, Mapping) and all(isinstance(value, int | float) for value in augmentation.values()):
            vars(each)["augmentation"] = dict.fromkeys(augmentation, 0)


def _optimisers(replay: Replay, factor: float) -> tuple[list[torch.optim.Optimizer], str]:
    """Return the copy's own optimisers without weight decay and schedule; Adam if it does not give any."""
    try:
        found = list(_optimisers_in(replay.twin.configure_optimizers()))
        why = "configure_optimizers gave none"
    except Exception as error:  # it may ask the trainer for what it does not have yet
        found, why = [], f"configure_optimizers: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    said = ", ".join(type(each).__name__ for each in found)
    if not found:
        asked = [each for each in replay.twin.parameters() if each.requires_grad]
        found = [torch.optim.Adam(asked, 1e-3)] if asked else []
        said = f"Adam at 0.001, since {why}"
    for each in found:
        for group in each.param_groups:
            group["lr"] = factor * float(group.get("max_lr", group.get("initial_lr", group["lr"])))
            if "weight_decay" in group:
                group["weight_decay"] = 0.0
    if replay.manual:
        vars(replay.twin)["optimizers"] = lambda *_, **__: found[0] if len(found) == 1 else found
    return found, said


def _optimisers_in(value: Any) -> Iterator[torch.optim.Optimizer]:
    if isinstance(value, torch.optim.Optimizer):
        yield value
    elif isinstance(value, Mapping):
        yield from _optimisers_in(value.get("optimizer"))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _optimisers_in(each)


def _rate(optimisers: Sequence[torch.optim.Optimizer]) -> float:
    return float(optimisers[0].param_groups[0]["lr"]) if optimisers else math.nan


def _moved(before: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> float:
    """Return the norm of the change over that of the weights, of matrices only."""
    matrices = {name: old.double() for name, old in before.items() if old.dim() > 1}
    change = sum(float((weights[name].detach().double() - old).square().sum()) for name, old in matrices.items())
    size = sum(float(old.square().sum()) for old in matrices.values())
    return math.sqrt(change / size) if size else math.nan


def _share(weights: Any, which: Callable[[Tensor], bool]) -> float:
    sizes = [(int(each.numel()), which(each)) for each in weights]
    return sum(size for size, yes in sizes if yes) / max(sum(size for size, _ in sizes), 1)


def _first_dimension(batch: Any) -> Iterator[Tensor]:
    for each in tensors_in(batch):
        if each.dim():
            yield each
            return


def _kind(targets: Tensor) -> Kind:
    known = targets[~targets.isnan()]
    return "binary" if bool(((known == 0) | (known == 1)).all()) else "values"
