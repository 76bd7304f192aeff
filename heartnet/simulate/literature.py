"""What the simulated cohort takes from the literature: one table of base rates, traits and effects, with sources.

A number whose source starts with "assumed" is this project's modelling choice; the reason stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Risk:
    """How common a condition is and whom it meets: a probit liability with a unit residual.

    Attributes:
        condition: name in `heartnet.conditions.CONDITIONS`.
        base_rate: share of people.
        age, male, bmi: shift of the liability for one standard deviation of age, for men against women, and for one
            standard deviation of log BMI.
        shared: correlation of the residual with the one factor that all conditions share.
        beta_blocker: probability that this condition alone brings a beta blocker.
        source: who says so.
    """

    condition: str
    base_rate: float
    age: float
    male: float
    bmi: float
    shared: float
    beta_blocker: float
    source: str


@dataclass(frozen=True)
class Trait:
    """What stays with a person over the weeks: a normal distribution, of the logarithm where `log`.

    Attributes:
        name: the table's column is `true_<name>`.
        unit: of `centre`, `low` and `high`, and of the rest where not `log`.
        centre: mean; median where `log`.
        spread: standard deviation; of the logarithm where `log`.
        low, high: limits of what is plausible; the trait is clipped to them.
        log: whether shifts act on the logarithm.
        age, male, bmi: shifts, scaled as in `Risk`.
        source: who says so.
    """

    name: str
    unit: str
    centre: float
    spread: float
    low: float
    high: float
    log: bool
    age: float
    male: float
    bmi: float
    source: str


@dataclass(frozen=True)
class Effect:
    """What a condition of mean severity does to a trait at `effect_scale=1`: a shift, of the logarithm where `log`."""

    condition: str
    trait: str
    shift: float
    source: str


AGE_MEAN, AGE_SD, MALE_SHARE = 42.0, 12.0, 0.63
"""Years, years, share: Tison et al. 2018, JAMA Cardiology 3:409, 9,750 watch wearers of the Health eHeart Study."""

BMI_MEDIAN, BMI_LOG_SD = 27.8, 0.20
"""kg/m²; mean 28.4, standard deviation 5.8: Quer et al. 2020, PLoS ONE 15:e0227709, 92,457 Fitbit wearers."""

BETA_BLOCKER_RATE = 0.01
"""Without a condition that asks for one; assumed: migraine, tremor, anxiety."""

BETA_BLOCKER_RESTING, BETA_BLOCKER_RESERVE = -8.0, 0.8
"""bpm, share of the heart-rate reserve left; assumed from the drug's purpose: clinicians aim at some 10 bpm less."""

LATE_HOURS = 64 / 60
"""How much later people go to bed before a free day: Fitbit, six billion nights (Pogue 2018, Yahoo Finance)."""

ALCOHOL_RISE, ALCOHOL_LOG_SD, ALCOHOL_HOURS = 4.0, 0.7, 8.0
"""bpm at the beginning of the sleep after drinking (median over nights), its spread, and the hours until it is gone,
falling evenly. That heart rate is raised in the first hours of sleep, more by more: Pietilä et al. 2018, JMIR Mental
Health 5:e23, 4,098 employees. Sizes assumed between the 4.8 % (some 3 bpm) by which alcohol raises the resting rate of
Oura's members in the median, and the 6 bpm over 8 hours after a binge in Bender et al. 2024, Sleep 47, abstract 0091,
or at a breath alcohol of 0.08 % in Rosenzweig et al. 2023, Sleep 46, abstract 0127."""

RISKS: tuple[Risk, ...] = (
    # Weights are a fifth under what the sources' age and BMI groups give: answers to a survey, not measurements.
    Risk(
        "atrial_fibrillation", 0.036, age=0.40, male=0.15, bmi=0.12, shared=0.40, beta_blocker=0.45,
        source="Tison et al. 2018, JAMA Cardiology: 347 of 9,750; age: Go et al. 2001, JAMA 285:2370: 0.1 % under "
        "55 years, 9 % from 80; beta blocker: assumed, first-line rate control in the guidelines",
    ),
    Risk(
        "sleep_apnea", 0.09, age=0.17, male=0.40, bmi=0.32, shared=0.40, beta_blocker=0.0,
        source="Peppard et al. 2013, Am J Epidemiol 177:1006: AHI of 15 or more in 10 % and 17 % of men of 30-49 "
        "and 50-70 years, 3 % and 9 % of women, here 63 % men; strong dependence on BMI",
    ),
    Risk(
        "diabetes", 0.11, age=0.25, male=0.10, bmi=0.28, shared=0.40, beta_blocker=0.05,
        source="CDC, National Diabetes Statistics Report: 11 % of adults diagnosed, rising steeply with age and BMI",
    ),
    Risk(
        "hypertension", 0.32, age=0.33, male=0.15, bmi=0.24, shared=0.40, beta_blocker=0.18,
        source="Samanic et al. 2020, MMWR 69:393: 32.4 % of adults say so; NCHS Data Brief 364 (2020): 22 %, 55 %, "
        "75 % measured at 18-39, 40-59 and 60 or more years; beta blocker: 'Prevalence of Beta Blocker Prescribing "
        "for Hypertension', NAMCS 2013-2018: 21.8 %, here with what other conditions add",
    ),
)  # fmt: skip

TRAITS: tuple[Trait, ...] = (
    Trait(
        "resting_rate", "bpm", 64.5, 11.3, 40.0, 108.0, log=False, age=-0.5, male=-2.2, bmi=2.0,
        source="Feng et al. 2024, JMIR 26:e60493 (Project Baseline): 66.6 ± 11.2 in women, 64.4 ± 12.3 in men, "
        "higher with BMI; Quer et al. 2020: mean 65, range 40-109; metadata explain less than 10 %",
    ),
    Trait(
        "circadian_swing", "bpm, peak to trough", 9.0, 3.0, 0.0, 25.0, log=False, age=-0.4, male=0.0, bmi=-0.3,
        source="assumed: sleeping rates 8-12 bpm under quiet waking ones, as in recording P355472 (docs/results.md)",
    ),
    Trait(
        "night_scatter", "bpm", 2.3, 0.27, 0.8, 15.0, log=True, age=-0.02, male=0.0, bmi=0.0,
        source="assumed: spread of one reading asleep; in P355472 (docs/results.md) neighbours differ by 2.9, √2 × 2",
    ),
    Trait(
        "recovery_time", "s", 75.0, 0.30, 20.0, 400.0, log=True, age=0.06, male=-0.04, bmi=0.05,
        source="assumed: e-folding time; Cole et al. 1999, NEJM 341:1351: a median fall of 17 bpm after 1 minute "
        "of cool-down, faster without; e-folding 75 s loses 55 % in a minute",
    ),
    Trait(
        "daily_steps", "count", 8650.0, 0.415, 800.0, 30000.0, log=True, age=-0.03, male=0.03, bmi=-0.10,
        source="Master et al. 2022, Nature Medicine 28:2301: median 7,731 a day, quartiles 5,867 and 9,827",
    ),
    Trait(
        "workouts", "per week", 1.5, 0.80, 0.0, 6.5, log=True, age=-0.05, male=0.05, bmi=-0.15,
        source="assumed: most people record none to four; spread wide",
    ),
    Trait(
        "walking_rise", "bpm", 20.0, 5.0, 5.0, 50.0, log=False, age=0.5, male=-1.5, bmi=1.5,
        source="assumed: from sitting to an easy walk, as in recording P355472 (docs/results.md)",
    ),
    Trait(
        "sleep_hours", "h", 6.55, 0.75, 4.0, 10.0, log=False, age=-0.05, male=-0.42, bmi=-0.08,
        source="Fitbit, six billion nights (Pogue 2018, Yahoo Finance): women 6 h 50 min, 25 minutes more than men; "
        "spread assumed",
    ),
    Trait(
        "bedtime", "h after midnight", -0.95, 1.0, -3.5, 3.5, log=False, age=-0.3, male=0.1, bmi=0.0,
        source="before a working day; mean of all days 23:21: Fitbit, six billion nights (Pogue 2018, Yahoo Finance); "
        "assumed: spread by about an hour, and earlier with age",
    ),
    Trait(
        "night_wear", "share of nights", 0.55, 0.55, 0.0, 1.0, log=False, age=0.0, male=0.0, bmi=0.0,
        source="assumed: clipped, so that about a fifth never and a sixth always sleep with the watch",
    ),
    Trait(
        "drinking_nights", "per week", 0.3, 2.4, 0.0, 7.0, log=False, age=0.0, male=0.7, bmi=0.0,
        source="NSDUH report of 12 December 2003: 54 % of those aged 26 or more drank in the past 30 days, on 9 days; "
        "57 % of males, 45 % of females aged 12 or more; as nights, clipped at none",
    ),
    Trait(
        "journeys", "per year", 0.5, 3.0, 0.0, 13.0, log=False, age=0.0, male=0.0, bmi=0.0,
        source="assumed: across two time zones or more, there and back; clipped, so that four in ten never go",
    ),
    Trait(
        "af_episodes", "per week", 0.0, 0.0, 0.0, 7.0, log=False, age=0.0, male=0.0, bmi=0.0,
        source="by definition none without the condition",
    ),
)  # fmt: skip

EFFECTS: tuple[Effect, ...] = (
    Effect(
        "atrial_fibrillation", "af_episodes", 0.5,
        "assumed: paroxysmal and often treated; most weeks of most patients hold no episode. So chosen that an "
        "irregularity marker of one week stays within AUROC 0.53-0.65; inside an episode it is plain",
    ),
    Effect(
        "sleep_apnea", "night_scatter", 0.13,
        "direction: Guilleminault et al. 1984, Lancet 1:126, cyclical variation of heart rate; size assumed, so "
        "that the marker stays within AUROC 0.53-0.65 at readings five minutes apart",
    ),
    Effect("sleep_apnea", "sleep_hours", -0.15, "assumed: fragmented sleep, a little shorter"),
    Effect("sleep_apnea", "circadian_swing", -0.6, "assumed: arousals raise the rate asleep"),
    Effect(
        "diabetes", "resting_rate", 3.8,
        "direction: Carnethon et al. 2003, Circulation 107:2190 (ARIC), autonomic dysfunction and diabetes; size "
        "assumed: 2-4 bpm is what cross-sectional comparisons show",
    ),
    Effect(
        "diabetes", "recovery_time", 0.09,
        "direction: Qiu et al. 2017, Diabetic Medicine 34:1676, four cohorts, slow recovery goes with diabetes "
        "(hazard ratio 1.29 for 10 bpm less); size assumed",
    ),
    Effect(
        "diabetes", "daily_steps", -0.08,
        "direction: Master et al. 2022, fewer steps go with diabetes; size assumed",
    ),
    Effect(
        "hypertension", "resting_rate", 3.4,
        "direction: Palatini & Julius 1997, J Hypertension 15:3, fast heart rate goes with hypertension; size "
        "assumed, before beta blockers, which hide it",
    ),
    Effect(
        "hypertension", "circadian_swing", -0.9,
        "assumed: as in non-dippers, whom O'Brien et al. 1988, Lancet 2:397, name for pressure",
    ),
    Effect("hypertension", "recovery_time", 0.05, "assumed: a little less vagal tone"),
)  # fmt: skip
