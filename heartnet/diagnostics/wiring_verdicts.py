"""Verdicts on the wiring: what is wrong, where, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from heartnet.diagnostics.wiring_flow import Flow
from heartnet.diagnostics.wiring_heads import Heads
from heartnet.diagnostics.wiring_linear import Linearity
from heartnet.diagnostics.wiring_loss import LossValue, StartLoss
from heartnet.diagnostics.wiring_neighbours import Neighbours
from heartnet.diagnostics.wiring_padding import Padding
from heartnet.diagnostics.wiring_range import Range
from heartnet.diagnostics.wiring_repeat import Repeated
from heartnet.diagnostics.wiring_saved import Saved
from heartnet.diagnostics.wiring_start import Zero
from heartnet.findings import Finding, Status

Names = Sequence[str]
Settings = Mapping[str, object]

LOSS_OFF = 1e-3
"""Relative difference of a loss from NumPy's; rounding in 32 bits is a thousandth of it."""
START_KNOWN = 0.3
"""Nats by which the first loss of a heartnet module may exceed that of the base rates."""
START_FOREIGN = 3.0
"""Times the loss of knowing nothing at which a foreign module's first loss is far."""
ZERO_FAR = 1.0
"""Logits by which the answer to zeros may miss the base rate."""


def finding(
    status: Status, where: str, message: str, value: float | None = None, limit: float | None = None, unit: str = "",
    try_: Sequence[str] = (),
) -> Finding:  # fmt: skip
    value = None if value is None or not math.isfinite(value) else value
    return Finding("wiring", status, where, value, limit, unit, message, tuple(try_))


def name_of(names: Names, i: int) -> str:
    return names[i] if i < len(names) else f"output_{i}"


def mixed(found: Neighbours, limit: float, mode: str) -> list[Finding]:
    """`mode` is `"evaluation"` or `"training"`."""
    if found.value is None:
        return []
    aside = (
        "Samples do not meet. Batch normalisation mixes them in training, as it should, and was held fixed"
        if found.normalised
        else ""
    )
    if found.value <= limit:
        return [finding("pass", f"{mode}/mixing", aside, found.value, limit, "of the own gradient")]
    message = (
        f"the score of a sample depends on the other samples of its batch, in {mode} mode; "
        f"{found.layer or 'something between layers'} is where it first shows. Look there, and just before it, for a "
        "view or reshape where permute or transpose was meant, or a mean over the batch"
    )
    return [finding("fail", f"{found.layer or mode}/mixing", message, found.value, limit, "of the own gradient")]


def padded(found: Padding, tolerance: float) -> list[Finding]:
    """Scores that change with padding, company or order."""
    made = []
    if found.longer is not None and found.longer > tolerance:
        message = (
            "scores change when a batch is padded further, with zeros: padded steps are counted (a mean over all "
            "steps), read out (the last step where the last valid one was meant), or reach valid ones through a layer "
            "that does not stop at the end of a sequence. Go by lengths in each of them"
        )
        made.append(finding("fail", "network/padding", message, found.longer, tolerance, "of the score"))
    elif found.alone is not None and found.alone > tolerance:
        message = (
            "a sample has another score when it comes alone than in its batch: something depends on the batch, or on "
            "how far its neighbours pad it"
        )
        made.append(finding("fail", "network/alone", message, found.alone, tolerance, "of the score"))
    if found.order is not None and found.order > tolerance:
        message = "scores change with the order of the batch: some state is carried on, or samples meet"
        made.append(finding("fail", "network/order", message, found.order, tolerance, "of the score"))
    known = [each for each in (found.longer, found.alone, found.order) if each is not None]
    if not made and known:
        where = "network/order" if found.longer is None else "network/padding"
        made.append(finding("pass", where, "", max(known), tolerance, "of the score"))
    return made


def _place(found: Repeated) -> str:
    return f"what comes just before {found.module}" if found.before else found.module or "what comes after all layers"


def not_repeatable(found: Repeated, tolerance: float, dropout: bool) -> list[Finding]:
    """Two passes in evaluation mode that differ; `dropout`: the module named is one."""
    if found.value is None or found.given:
        return []
    if found.value <= tolerance:
        return [finding("pass", "evaluation/repeatable", "", found.value, tolerance, "of the score")]
    where = _place(found)
    message = f"two passes in evaluation mode give other scores: {where} is random. " + (
        "Its dropout stays on: look for training=True, or a train() that eval() cannot undo"
        if dropout
        else "Look for dropout that stays on (F.dropout is on unless it is told training=self.training), or for noise "
        "that is drawn in evaluation too"
    )
    return [finding("fail", f"{found.module or 'network'}/repeatable", message, found.value, tolerance, "of the score")]


def modes_differ(found: Repeated, tolerance: float) -> list[Finding]:
    """Training mode that is another function than evaluation mode, beyond dropout and batch normalisation."""
    if found.value is None or found.given:
        return []
    norms = (
        f"Both modes compute the same. Batch normalisation ({found.norms[0]} …) was held at its running statistics"
        if found.norms
        else ""
    )
    if found.value <= tolerance:
        return [finding("pass", "training/same", norms, found.value, tolerance, "of the score")]
    where = _place(found)
    if found.random:
        message = f"{where} is random in training, beside dropout; so its two modes were not compared"
        return [finding("unknown", "training/same", message, None, tolerance, "of the score")]
    message = (
        f"without dropout, and with fixed batch normalisation, training mode still computes something else than "
        f"evaluation mode; {where} is the first to differ. What is trained is not what is evaluated: look there for "
        "`if self.training`"
    )
    return [finding("warn", f"{found.module or 'network'}/modes", message, found.value, tolerance, "of the score")]


def loss_off(found: Sequence[LossValue]) -> list[Finding]:
    """A loss that plain NumPy does not give, and shapes that meet by broadcasting."""
    made = []
    for each in found:
        if each.shapes:
            message = (
                f"{each.what} is given shapes {each.shapes}: by broadcasting, each output meets the targets of other "
                "samples. Give both the same shape"
            )
            made.append(finding("fail", "loss/shapes", message))
        if each.found is None or each.expected is None or not math.isfinite(each.expected):
            continue
        off = abs(each.found - each.expected) / max(abs(each.expected), 1e-9)
        if off > LOSS_OFF:
            message = (
                f"{each.what} is {each.found:.5g}, and NumPy computes {each.expected:.5g} from the same logits and "
                "labels. Look at weights, masks of missing labels, and what the mean is taken over"
            )
            made.append(finding("fail", "loss/value", message, off, LOSS_OFF, "relative"))
        elif not made:
            made.append(finding("pass", "loss/value", f"{each.what} is what NumPy computes", off, LOSS_OFF, "relative"))
    return made


def far_start(found: StartLoss | None) -> list[Finding]:
    """A first loss far above that of the base rates."""
    if found is None:
        return []
    limit = found.base + START_KNOWN if found.known else START_FOREIGN * found.base
    base = "the base rates alone cost" if found.known else "knowing nothing costs"
    if found.found <= limit:
        near = f"the first loss is {found.found:.3g} nats, and {base} {found.base:.3g}"
        return [finding("pass", "loss/initial", near, found.found, limit, "nats")]
    message = (
        f"the first loss is {found.found:.3g}, and {base} {found.base:.3g}: the network is sure of wrong answers "
        "before its first step. Look at the scale of inputs and initial weights, at the last layer's bias "
        "(the logit of the base rate) and at what the labels mean to the loss"
    )
    return [finding("warn", "loss/initial", message, found.found, limit, "nats")]


def far_from_base(found: Zero, names: Names) -> list[Finding]:
    """An answer to zeros that is not the base rate."""
    distance = found.distance
    made = []
    for i, (far, score, base) in enumerate(
        zip(distance.tolist(), found.score.tolist(), found.base.tolist(), strict=True)
    ):
        if far > ZERO_FAR:
            message = (
                f"to an input of zeros the untrained network answers {score:.2g} for {name_of(names, i)}, and the base "
                f"rate is {base:.2g} (logits). Set the last layer's bias to it, and look for constants that reach it"
            )
            made.append(finding("warn", f"{name_of(names, i)}/zero", message, far, ZERO_FAR, "logits"))
    return made or [finding("pass", "network/zero", "", float(distance.max()), ZERO_FAR, "logits")]


def cut_off(found: Flow, names: Names, *, classes: bool) -> list[Finding]:
    """Outputs whose loss reaches no weight, and layers that no loss reaches."""
    if not found.layers:
        return []
    made = []
    for i, reaches in enumerate(found.reaches):
        name, weighed = name_of(names, i), found.weighed[i] if i < len(found.weighed) else None
        if not reaches and any(found.reaches):
            message = (
                f"no weight moves the score of {name}, so that it learns nothing: look for detach(), no_grad() or an "
                "activation that is 0 (ReLU) between its layer and the loss"
            )
            made.append(finding("fail", f"{name}/gradient", message, 0.0, None, "weights reached"))
        elif weighed is False:
            what = f"samples of class {i} do" if classes else f"{name} does"
            message = f"{what} not count in the loss, so that {name} is not learned: look at its weight in the loss"
            made.append(finding("fail", f"{name}/gradient", message, 0.0, None, "gradient"))
    first = [each for each in found.silent if each]
    if first:
        last = first[-1]
        rest = f" (so with {len(first) - 1} before it)" if len(first) > 1 else ""
        message = (
            f"the loss reaches no weight of {last}{rest}: look at it, and at what follows it, for detach(), no_grad(), "
            "or an activation that is dead"
        )
        made.append(finding("fail", f"{last}/gradient", message, len(first), 0, "layers"))
    return made or [finding("pass", "network/gradient", "", 0.0, 0, "outputs or layers not reached")]


def cut_ranges(found: Sequence[Range], names: Names) -> list[Finding]:
    """Scores whose range an activation cuts before a loss that expects logits."""
    if not found:
        return []
    cut = [each for each in found if each.cut_by]
    effect = {
        "sigmoid": "probabilities stay between 0.5 and 0.73",
        "ReLU": "probabilities cannot fall below 0.5, and where it is 0 nothing is learned",
        "tanh": "probabilities stay between 0.27 and 0.73",
        "softmax": "classes can differ by a factor of 2.7 at most",
    }
    made = []
    if len(cut) == len(found) and len({each.cut_by for each in cut}) == 1 and len(found) > 1:
        cut, everywhere = cut[:1], True
    else:
        everywhere = False
    for each in cut:
        name = "logits" if everywhere else name_of(names, each.output)
        message = (
            f"over random weights, {'all scores lie' if everywhere else f'the score of {name} lies'} from "
            f"{each.lowest:.2g} to {each.highest:.2g}, as after a {each.cut_by}, and the loss expects logits: "
            f"{effect[each.cut_by]}. Leave the {each.cut_by} out"
        )
        made.append(finding("fail", f"{name}/range", message, each.lowest, None, "lowest score"))
    return made or [finding("pass", "logits/range", "", min(each.lowest for each in found), None, "lowest score")]


def collapsed(found: Linearity, settings: Settings) -> list[Finding]:
    """Layers in a row without an activation function between them."""
    if found.layers < 2:
        return []
    if not found.collapsed:
        looked = (
            "" if found.looked == found.layers else f"{found.looked} of {found.layers} layers were looked at in time"
        )
        return [finding("pass", "network/linear", looked, 0.0, 0, "layers")]
    first = found.collapsed[0]
    rest = [f"{each.first} and {each.last}" for each in found.collapsed[1:]]
    others = f" (so with {', '.join(rest[:3])}{' …' if len(rest) > 3 else ''})" if rest else ""
    whole = (
        " The scores are a linear function of the inputs: the network can do no more than a regression." * found.whole
    )
    message = (
        f"there is no activation function between {first.first} and {first.last}{others}: together they are one linear "
        f"layer.{whole} Put one after {first.first}"
    )
    try_ = ("model.activation=leaky_relu",) if settings.get("activation", "leaky_relu") not in ("leaky_relu",) else ()
    status: Status = "fail" if found.whole or len(found.collapsed) > 1 else "warn"
    return [finding(status, f"{first.last}/linear", message, len(found.collapsed), 0, "layers", try_)]


def not_saved(found: Saved, tolerance: float) -> list[Finding]:
    """Scores that do not survive saving and loading."""
    made = []
    if found.lost:
        more = f" (and {len(found.lost) - 1} more)" if len(found.lost) > 1 else ""
        message = (
            f"{found.lost[0]}{more} stands in a plain list or dict: no checkpoint keeps its weights, and no optimiser "
            "has them. Use nn.ModuleList, nn.ModuleDict or nn.ParameterList"
        )
        made.append(finding("fail", f"{found.lost[0]}/saved", message, len(found.lost), 0, "modules"))
    if found.value is not None and found.value > tolerance:
        way = "a checkpoint file" if found.way == "file" else "its state_dict"
        message = f"after saving and loading by {way}, scores are others: some of what they are made of is not kept"
        made.append(finding("fail", "network/saved", message, found.value, tolerance, "of the score"))
    if not made and found.value is not None:
        made.append(finding("pass", "network/saved", "", found.value, tolerance, "of the score"))
    return made


def wrong_heads(found: Heads | None, names: Names, what: str, split: str, *, classes: bool = False) -> list[Finding]:
    """Labels of other heads, opposite or neighbouring samples that scores tell better than their own.

    Args:
        what: whose scores they are, for example `"the trained scores"`.
        split: of the data, where the finding stands.
    """
    if found is None:
        return []
    kind = "class " if classes else ""
    moved = [i for i, j in enumerate(found.order) if i != j]
    if moved:
        pairs = ", ".join(
            f"{kind}{name_of(names, found.order[i])} (AUROC {found.area[i, found.order[i]]:.2f}; its own "
            f"{found.area[i, i]:.2f}) by that of {name_of(names, i)}"
            for i in moved
        )
        message = (
            f"in {split}, {what} tell the labels of other heads better than their own: {pairs}. The columns of the "
            f"labels stand in another order in {split} than in training: put them in order by name"
        )
        where = f"{split}/{'+'.join(name_of(names, i) for i in sorted(moved))}"
        return [finding("fail", where, message, found.sigmas, 0, "standard errors")]
    made = []
    for i in found.opposite:
        message = (
            f"in {split}, {what} tell the opposite of {name_of(names, i)} (AUROC {found.area[i, i]:.2f}): 0 and 1 are "
            f"exchanged in {split} or in training"
        )
        made.append(finding("fail", f"{split}/{name_of(names, i)}", message, float(found.area[i, i]), 0.5, "AUROC"))
    if found.shift:
        message = (
            f"in {split}, {what} tell the labels of the sample {abs(found.shift)} "
            f"{'before' if found.shift > 0 else 'after'} (AUROC {found.shifted:.2f}) and not their own: inputs and "
            "labels are shifted against one another"
        )
        made.append(finding("fail", f"{split}/aligned", message, found.shifted, 0.5, "AUROC"))
    return made or [finding("pass", f"{split}/heads", "", found.sigmas, 0, "standard errors")]
