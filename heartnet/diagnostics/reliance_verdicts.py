"""What reliance on metadata means: does a network lean on them, does it waver, or are there too few people to tell."""

from __future__ import annotations

import math
from collections.abc import Mapping

from heartnet.diagnostics.ablation import LITTLE, METADATA, SENSORS, Ablation
from heartnet.diagnostics.comparison import FEWEST
from heartnet.diagnostics.reliance import Reliance
from heartnet.findings import Finding, Status
from heartnet.resampling import Interval

CHECK = "metadata_reliance"

FOLLOWS = math.sqrt(0.5)
"""Rank correlation above which half of what the scores' ranks do is what the metadata model's do."""

WAVERS = 0.5
"""Share of the variance within people above which weeks of one person differ more than people do."""


def reliance_findings(
    it: Reliance,
    split: str,
    *,
    sees_metadata: bool | None = None,
    simulated: bool = False,
    step: int = 0,
) -> list[Finding]:
    """Return the verdicts on the scatter of one target: does it follow the metadata model, does it waver?

    Of too few people there is one finding without a value: an interval of so few is too narrow to be held to a limit.

    Args:
        it: of `heartnet.diagnostics.reliance.reliance`.
        split: `val` or `test`; stands before the target.
        sees_metadata: whether the network does; None is unknown.
        simulated: whether the people are.
        step: optimiser steps taken.
    """
    where = f"{split}: {it.target}"
    if it.diverged:
        message = f"The score is NaN or infinite for {it.diverged} of {it.weeks} weeks: the network has diverged."
        return [Finding(CHECK, "fail", where, None, None, "", message, (), step)]
    few = too_few(it)
    if few:
        found = [Finding(CHECK, "unknown", where, None, None, "", _too_few(it), (), step)]
    else:
        who = _who(f"{it.weeks:,}", it, simulated=simulated)
        found = [_follows(it, f"{where}, metadata", sees_metadata, who, step)]
    if it.kind == "conditions" and not (few and it.several < FEWEST):
        found.append(_wavers(it, f"{where}, week to week", step))
    return found


def too_few(it: Reliance | Ablation) -> bool:
    """Tell whether there are too few people (or weeks, where these were split) with a condition, or without it."""
    if it.kind == "conditions":
        return min(it.having, it.without) < FEWEST
    return (it.users if it.by == "user" else it.weeks) < 2 * FEWEST


def blind(it: Ablation) -> bool:
    """Tell whether scores stay the same with other readings: of few people, too."""
    return it.blind and it.weeks >= FEWEST


def ablation_finding(
    it: Ablation,
    split: str,
    *,
    all_weeks: int,
    settings: Mapping[str, object] | None = None,
    simulated: bool = False,
    step: int = 0,
) -> Finding:
    """Return the verdict on an ablation: does the network lose by losing the sensors?

    Args:
        it: of `heartnet.diagnostics.ablation.losses`.
        split: `val` or `test`; stands before the target.
        all_weeks: of the split, whose target is known.
        settings: of a network of ours, by Hydra override; one from elsewhere gets the remedy in words only.
        simulated: whether the people are.
        step: optimiser steps taken.
    """
    conditions = it.kind == "conditions"
    unit = "AUROC" if conditions else "of the variance"
    where, chance = f"{split}: {it.target}, ablation", 0.5 if conditions else 0.0
    some = f"{it.weeks:,} of {all_weeks:,}" if it.weeks < all_weeks else f"{it.weeks:,}"
    who = _who(some, it, simulated=simulated)
    sensors = it.loss(SENSORS)
    assert sensors is not None
    score = "AUROC" if conditions else "Share of variance explained"
    numbers = f"{score} {it.whole} ({who}); lost when permuted between weeks: {_listed(it)}."

    def finding(status: Status, message: str, *try_: str) -> Finding:
        value = None if math.isnan(sensors.value) else round(sensors.value, 4)
        return Finding(CHECK, status, where, value, None if value is None else 0.0, unit, message, try_, step)

    if blind(it):
        message = (
            "It does not look at the sensors: its scores stay the same with all readings of another week. Do these "
            f"reach it, and is there a gradient (callback wiring)? {'' if too_few(it) else numbers}"
        ).strip()
        return finding("warn", message, *_without_metadata(settings))
    if too_few(it):
        more = f" Of {some} weeks; more may tell (argument `weeks`)." if it.weeks < all_weeks else ""
        message = f"{_too_few(it)}{more}"
        return Finding(CHECK, "unknown", where, None, None, "", message, (), step)
    if it.lean is not None and it.lean.low > 0:
        metadata = it.loss(METADATA)
        assert metadata is not None
        message = (
            f"It leans on age, sex and BMI: with those of others it loses {metadata}, with all sensors of others "
            f"{sensors}, less than {LITTLE:g} of that. Before the readings are said to tell anything, train longer, or "
            "without the metadata, or add a model of the metadata at the end, and compare: "
            f"python train.py -m experiment=ablation. {numbers}"
        )
        return finding("warn", message, *_without_metadata(settings))
    if not it.whole.low > chance:
        return finding("unknown", f"It cannot be told from chance, so there is little to lose. {numbers}")
    return finding("pass", f"It is not seen to lean on age, sex and BMI. {numbers}")


def _follows(it: Reliance, where: str, sees_metadata: bool | None, who: str, step: int) -> Finding:
    def finding(status: Status, message: str) -> Finding:
        value = None if math.isnan(it.rank.value) else round(it.rank.value, 4)
        limit = None if value is None else round(FOLLOWS, 4)
        return Finding(CHECK, status, where, value, limit, "rank correlation", message, (), step)

    if math.isnan(it.rank.value):
        return finding("unknown", f"No metadata model to compare with, or a score that is the same for all ({who}).")
    numbers = f"Rank correlation {it.rank} with a model on age, sex and BMI"
    if not math.isnan(it.given_metadata.value):
        numbers += (
            f"; with the target {it.given_metadata} for what the network knows beyond that model, and {it.given_score} "
            "for what that model knows beyond the network"
        )
    numbers += f" ({who})."
    if not math.isnan(it.auroc.value) and not math.isnan(it.metadata_auroc.value):
        numbers += f" AUROC {it.auroc}, of the metadata model {it.metadata_auroc}, difference {it.gain}."
    more = it.gain if it.kind == "conditions" else it.given_metadata
    if it.rank.low > FOLLOWS and not more.low > 0:
        how = (
            "it does not see them, so the readings give them away"
            if sees_metadata is False
            else "is it only regressing over them? The ablation at the test tells, or training without them"
        )
        message = f"Its scores follow age, sex and BMI, and cannot be told to know more: {how}. {numbers}"
        return finding("warn", message)
    return finding("pass", f"Scores are not seen to follow age, sex and BMI alone. {numbers}")


def _wavers(it: Reliance, where: str, step: int) -> Finding:
    share = it.share_within if it.several > 1 else Interval(math.nan, math.nan, math.nan)

    def finding(status: Status, message: str) -> Finding:
        value = None if math.isnan(share.value) else round(share.value, 4)
        return Finding(CHECK, status, where, value, None if value is None else WAVERS, "of variance", message, (), step)

    if it.several < 2:
        return finding("unknown", "Fewer than two people with several weeks: how scores move is not known.")
    if it.several < FEWEST:
        message = f"People with several weeks: {it.several}; fewer than {FEWEST} are too few to tell whether it wavers."
        return Finding(CHECK, "unknown", where, None, None, "", message, (), step)
    numbers = (
        f"Between weeks of a person lies a share of the logits' variance of {share} (spread {it.within}; between "
        f"people {it.between}). Of {it.several} people with several weeks the score ranges over {it.range} on average, "
        f"and of one from {it.widest[0]:.2f} to {it.widest[1]:.2f}."
    )
    if share.low > WAVERS:
        message = "It wavers: weeks of one person lie further apart than people do."
        if not math.isnan(it.auroc.value) and not it.auroc.low > 0.5:
            message += " Nor can it be told from chance, so what wavers is likely noise."
        else:
            message += (
                " Average a person's weeks before saying anything of the person, and look at what the weeks hold."
            )
        if it.wear.high < 0:
            message += (
                f" The fewer hours were worn, the further off a week is (rank correlation {it.wear}): leave out weeks "
                "worn little, or weigh by wear."
            )
        return finding("warn", f"{message} {numbers}")
    return finding("pass", f"Scores are not seen to waver from week to week. {numbers}")


def _listed(it: Ablation) -> str:
    """Return what is lost, all sensors and all metadata first, then each input by how much it is."""
    permuted = [each for each in it.parts if each.how == "permuted"]
    together = {each.what: each.loss for each in permuted if each.what in (SENSORS, METADATA)}
    said = [f"all sensors {together[SENSORS]}"]
    if METADATA in together:
        said.append("metadata nothing, for it does not look at them" if it.lean is None else
                    f"all metadata {together[METADATA]}")  # fmt: skip
    alone = sorted((each for each in permuted if each.what not in together), key=lambda each: -each.loss.value)
    return ", ".join([*said, *(f"{each.what} {each.loss}" for each in alone)])


def _without_metadata(settings: Mapping[str, object] | None) -> tuple[str, ...]:
    seen = (settings or {}).get("model.metadata", "none")
    return () if seen in ("none", "only") else ("model.metadata=none",)


def _too_few(it: Reliance | Ablation) -> str:
    """Return words that are the same of one as of many, so that targets fold into one row."""
    who, count = ("People", it.users) if it.by == "user" else ("Weeks", it.weeks)
    if it.kind == "conditions":
        has, fewest = f"{who} with it: {it.having:,}, without it: {it.without:,}", f"{FEWEST} of each"
    else:
        has, fewest = f"{who}: {count:,}", f"{2 * FEWEST}"
    few = f"{has}; fewer than {fewest} are too few to tell what it relies on."
    return f"{few} TensorBoard has the numbers of these few."


def _who(weeks: str, it: Reliance | Ablation, *, simulated: bool) -> str:
    own = f"{weeks} {'simulated ' if simulated else ''}weeks of {_people(it.users)}"
    # Not people: the same ones were trained on.
    return own if it.by == "user" else f"{own}, resampled week by week: nothing is said of new people"


def _people(count: int) -> str:
    return f"{count:,} {'person' if count == 1 else 'people'}"
