"""Who the simulated people are: metadata, correlated conditions, survey answers and traits that last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from heartnet.simulate.literature import (
    AGE_MEAN,
    AGE_SD,
    BETA_BLOCKER_RATE,
    BETA_BLOCKER_RESTING,
    BMI_LOG_SD,
    BMI_MEDIAN,
    EFFECTS,
    MALE_SHARE,
    RISKS,
    TRAITS,
    Risk,
)
from heartnet.simulate.travel import BLOCK_DAYS
from heartnet.simulate.watches import CURRENT, FIRST_GENERATION, FIRST_GENERATION_SHARE, Watch

AGE_LIMITS = (18.0, 90.0)
BMI_LIMITS = (16.0, 60.0)


@dataclass(frozen=True)
class Person:
    """One simulated person.

    Attributes:
        age: years. bmi: kg/m². male, beta_blocker: flags.
        severity: of each condition; 0 without it, otherwise 0.5 to 1.5, whatever the effect scale.
        answers: what the survey says of each condition; None where it was left blank.
        traits: by name, in the units of `literature.TRAITS`.
        watch: which one is worn.
        first_week: number of the first week after the cohort's first Monday.
        first_day: day of the person's own calendar (`heartnet.simulate.travel`) on which the first week begins.
        workout_length: how many times as long as those of others workouts are.
    """

    age: float
    male: bool
    bmi: float
    beta_blocker: bool
    severity: Mapping[str, float]
    answers: Mapping[str, int | None]
    traits: Mapping[str, float]
    watch: Watch
    first_week: int
    first_day: int
    workout_length: float = 1.0


def draw_person(
    rng: np.random.Generator, thresholds: Mapping[str, float], effect_scale: float, missing_labels: float
) -> Person:
    """Draw one person; the same draws are made whatever the arguments, so that cohorts differ only by their effects.

    Args:
        rng: the person's own generator.
        thresholds: liability above which a condition is present, from `liability_threshold`.
        effect_scale: factor on every effect of a condition on a trait.
        missing_labels: share of the survey's answers left blank.
    """
    age_z, log_bmi_z, shared = (float(z) for z in rng.standard_normal(3))
    residuals, trait_z = rng.standard_normal(len(RISKS)), rng.standard_normal(len(TRAITS))
    male = bool(rng.random() < MALE_SHARE)
    severities = rng.uniform(0.5, 1.5, len(RISKS))
    blank, blocker = rng.random(len(RISKS)), rng.random()
    first_week, first_day = int(rng.integers(0, 52)), int(rng.integers(0, BLOCK_DAYS))
    first_generation = rng.random() < FIRST_GENERATION_SHARE

    # Everything depends on age and BMI as stated, so that who reads the table knows all that there is to know.
    age = round(min(max(AGE_MEAN + AGE_SD * age_z, AGE_LIMITS[0]), AGE_LIMITS[1]), 1)
    bmi = round(min(max(BMI_MEDIAN * math.exp(BMI_LOG_SD * log_bmi_z), BMI_LIMITS[0]), BMI_LIMITS[1]), 1)
    age_z, log_bmi_z, sex = standardized(age, bmi, male)
    severity, answers, no_blocker = {}, {}, 1.0 - BETA_BLOCKER_RATE
    for i, risk in enumerate(RISKS):
        residual = risk.shared * shared + math.sqrt(1 - risk.shared**2) * float(residuals[i])
        liability = risk.age * age_z + risk.male * sex + risk.bmi * log_bmi_z + residual
        present = liability > thresholds[risk.condition]
        severity[risk.condition] = round(float(severities[i]), 3) if present else 0.0
        answers[risk.condition] = None if blank[i] < missing_labels else int(present)
        no_blocker *= 1.0 - risk.beta_blocker * present
    beta_blocker = bool(blocker < 1.0 - no_blocker)
    return Person(
        age=age,
        male=male,
        bmi=bmi,
        beta_blocker=beta_blocker,
        severity=severity,
        answers=answers,
        traits=_traits(trait_z, (age_z, log_bmi_z, sex), severity, beta_blocker, effect_scale),
        watch=FIRST_GENERATION if first_generation else CURRENT,
        first_week=first_week,
        first_day=first_day,
    )


def standardized(age: float, bmi: float, male: bool) -> tuple[float, float, float]:
    """Return what risks and traits are shifted by: age and log BMI in standard deviations, sex around its mean."""
    return (age - AGE_MEAN) / AGE_SD, math.log(bmi / BMI_MEDIAN) / BMI_LOG_SD, float(male) - MALE_SHARE


def liability_threshold(risk: Risk, base_rate: float) -> float:
    """Return the liability that a share `base_rate` of people exceeds; a mixture of two normals, one a sex."""
    spread = math.sqrt(1.0 + risk.age**2 + risk.bmi**2)
    women, men = NormalDist(-MALE_SHARE * risk.male, spread), NormalDist((1 - MALE_SHARE) * risk.male, spread)
    low, high = -12.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        above = 1.0 - (1 - MALE_SHARE) * women.cdf(middle) - MALE_SHARE * men.cdf(middle)
        low, high = (middle, high) if above > base_rate else (low, middle)
    return (low + high) / 2


def _traits(
    z: np.ndarray[tuple[int], np.dtype[np.float64]],
    metadata: tuple[float, float, float],
    severity: Mapping[str, float],
    beta_blocker: bool,
    effect_scale: float,
) -> dict[str, float]:
    """Return the traits: centre, own spread, metadata, then conditions times `effect_scale`, then medication."""
    age_z, log_bmi_z, sex = metadata
    traits = {}
    for trait, own in zip(TRAITS, z, strict=True):
        shift = trait.spread * float(own) + trait.age * age_z + trait.male * sex + trait.bmi * log_bmi_z
        shift += effect_scale * sum(e.shift * severity[e.condition] for e in EFFECTS if e.trait == trait.name)
        if trait.name == "resting_rate" and beta_blocker:
            shift += BETA_BLOCKER_RESTING
        value = trait.centre * math.exp(min(shift, 20.0)) if trait.log else trait.centre + shift
        traits[trait.name] = round(min(max(value, trait.low), trait.high), 3)
    return traits
