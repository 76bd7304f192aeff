"""The simulated cohort: weeks of people who do not exist, with all that is true of them; the embedded default data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import numpy as np
import polars as pl

from heartnet.conditions import CONDITIONS
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.simulate.literature import RISKS, TRAITS
from heartnet.simulate.people import Person, draw_person, liability_threshold
from heartnet.simulate.planted import as_a_stranger, check_planted, is_touched, planted_in
from heartnet.simulate.travel import Clocks, draw_clocks
from heartnet.simulate.week import WeekReadings, draw_week
from heartnet.weeks import WEAR_GAP_SECONDS, Weeks

__all__ = ["simulate"]

FIRST_MONDAY = datetime(2024, 1, 1)
_PLANTED = 1 << 20  # generators of what is planted, apart from those of blocks of days
ANNOTATIONS = ("asleep", "in_workout", "in_af", "after_alcohol")


def simulate(
    users: int,
    weeks_per_user: int,
    seed: int,
    effect_scale: float = 1.0,
    missing_labels: float = 0.1,
    base_rates: Mapping[str, float] | None = None,
    planted: Sequence[str] = (),
) -> Weeks:
    """Draw a cohort: people, their conditions, their traits, then week after week of readings.

    Everything follows from `seed`: person k is the same whatever the number of users, week w whatever the number of
    weeks, and people and survey are the same at every `effect_scale`. Weeks are calendar weeks from Monday, local
    time, one after the other, and the night between two is the same in both. Some people travel: their local time then
    jumps within a week, while `dt` stays true. Times are whole seconds and rates whole bpm, so that machines agree;
    another numpy may draw other random numbers (NEP 19).

    Args:
        users: number of people, at least 1.
        weeks_per_user: number of weeks of each, at least 1.
        seed: 0 or more.
        effect_scale: factor on what the conditions do to the traits, from 0 to 1e6; 1 is
            `heartnet.simulate.literature`, 0 leaves nothing of a condition in the readings beyond what metadata and
            medication explain.
        missing_labels: share of survey answers left blank (null labels), from 0 up to but not including 1.
        base_rates: share of people with a condition, by name, in place of the literature's; for example a cohort
            enriched in atrial fibrillation.
        planted: what makes heart rate tell less in some people, of `heartnet.simulate.planted.PLANTED`, for
            `loss_patterns` to find; nothing else of the cohort changes by it.

    Returns:
        Weeks with `table` as the container says, and `utc_offset` (Int32, seconds from home as the week begins),
        `beta_blocker` (Int8), `true_<condition>` (severity, 0 without the condition, otherwise 0.5 to 1.5, before the
        effect scale), `true_<trait>` (Float64, units in `heartnet.simulate.literature.TRAITS`) and
        `true_travel_hours` (Float64, local clock minus body clock where they differ most in the week, 0 at home); and
        with `annotations` `asleep`, `in_workout`, `in_af` and `after_alcohol` (asleep after drinking). `device` is one
        of `heartnet.simulate.watches`. With something planted, `true_touched` (Boolean): whether it
        touches the week.

    Raises:
        HeartnetError: an argument is out of its range, or a condition or what is to be planted is unknown.
    """
    rates = {risk.condition: risk.base_rate for risk in RISKS} | dict(base_rates or {})
    _check(users, weeks_per_user, seed, effect_scale, missing_labels, rates)
    planted = check_planted(planted)
    thresholds = {risk.condition: liability_threshold(risk, rates[risk.condition]) for risk in RISKS}
    people: list[Person] = []
    weeks: list[WeekReadings] = []
    clocks: list[Clocks] = []
    touched: list[bool] = []
    for user in range(users):
        person = draw_person(_generator(seed, user, 0), thresholds, effect_scale, missing_labels)
        if planted:
            person = planted_in(person, planted, _generator(seed, user, 0, _PLANTED))
        people.append(person)
        last_night = None
        for w in range(weeks_per_user):
            blocks = partial(_generator, seed, user, 0)
            clocks.append(draw_clocks(person.first_day + 7 * w, person.traits["journeys"], blocks))
            measured = person
            if planted:
                touched.append(is_touched(person, clocks[-1], planted))
            if planted and touched[-1]:
                rng = _generator(seed, user, 0, _PLANTED + 1 + w)
                measured = as_a_stranger(person, draw_person(rng, thresholds, effect_scale, missing_labels))
            weeks.append(draw_week(measured, _generator(seed, user, 1 + w), clocks[-1], last_night))
            last_night = weeks[-1].last_night

    seconds = np.concatenate([week.seconds for week in weeks])
    offsets = np.concatenate([[0], np.cumsum([len(week.seconds) for week in weeks])]).astype(np.int64)
    dt = np.diff(seconds, prepend=0).astype(np.float32)
    dt[offsets[:-1]] = np.nan
    channels = [np.concatenate([w.heart_rate for w in weeks]), np.concatenate([w.steps for w in weeks]), dt]
    starts = [FIRST_MONDAY + timedelta(weeks=person.first_week + w) for person in people for w in range(weeks_per_user)]
    monday = np.array(starts, dtype="datetime64[us]").astype(np.int64)
    local = np.concatenate([week.local for week in weeks])
    return Weeks(
        readings=np.stack(channels, axis=1).astype(np.float32),
        local_time=np.repeat(monday, np.diff(offsets)) + local * 1_000_000,
        offsets=offsets,
        table=_table(people, weeks_per_user, starts, offsets, dt, clocks, touched),
        conditions=CONDITIONS,
        annotations={
            name: np.concatenate([getattr(week, name) for week in weeks]).astype(np.uint8) for name in ANNOTATIONS
        },
        provenance={
            "kind": "simulated",
            "users": users,
            "weeks_per_user": weeks_per_user,
            "seed": seed,
            "effect_scale": effect_scale,
            "missing_labels": missing_labels,
            "base_rates": rates,
            "planted": list(planted),
        },
    )


def _check(
    users: int, weeks_per_user: int, seed: int, effect_scale: float, missing_labels: float, rates: Mapping[str, float]
) -> None:
    for name, count, least in (("users", users, 1), ("weeks_per_user", weeks_per_user, 1), ("seed", seed, 0)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise HeartnetError(f"simulate: {name} is {count!r}; it must be a whole number, {least} or more.")
    if not _is_within(effect_scale, 0, 1e6):
        raise HeartnetError(
            f"simulate: effect_scale is {effect_scale!r}; it must be a number from 0 to 1e6 "
            "(1 is the literature, 3 is strong)."
        )
    if not _is_within(missing_labels, 0, 1) or missing_labels == 1:
        raise HeartnetError(
            f"simulate: missing_labels is {missing_labels!r}; it must be a share from 0 up to, not including, 1."
        )
    for condition, rate in rates.items():
        if condition not in CONDITIONS:
            raise HeartnetError(
                f"simulate: base_rates names {condition!r}, which is not simulated; there are "
                f"{', '.join(CONDITIONS)}.{did_you_mean(condition, CONDITIONS)}"
            )
        if not _is_within(rate, 0, 1):
            raise HeartnetError(f"simulate: base_rates[{condition!r}] is {rate!r}; it must be from 0 to 1.")


def _is_within(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and low <= value <= high


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def _table(
    people: list[Person],
    weeks_per_user: int,
    starts: list[datetime],
    offsets: np.ndarray[tuple[int], np.dtype[np.int64]],
    dt: np.ndarray[tuple[int], np.dtype[np.float32]],
    clocks: list[Clocks],
    touched: list[bool],
) -> pl.DataFrame:
    """Return one row a week; wear hours are the pauses of at most `WEAR_GAP_SECONDS`, summed."""
    worn = np.concatenate([[0.0], np.cumsum(np.where(dt <= WEAR_GAP_SECONDS, dt, 0.0), dtype=np.float64)])
    by_person = pl.DataFrame(
        {
            "user_id": [f"user-{k:06d}" for k in range(len(people))],
            "device": [person.watch.name for person in people],
            "age": [person.age for person in people],
            "sex": ["male" if person.male else "female" for person in people],
            "bmi": [person.bmi for person in people],
            "beta_blocker": pl.Series([int(person.beta_blocker) for person in people], dtype=pl.Int8),
            **{c: pl.Series([person.answers[c] for person in people], dtype=pl.Int8) for c in CONDITIONS},
            **{f"true_{c}": [person.severity[c] for person in people] for c in CONDITIONS},
            **{f"true_{t.name}": [person.traits[t.name] for person in people] for t in TRAITS},
        }
    )
    by_week = pl.DataFrame(
        {
            "start": pl.Series(starts, dtype=pl.Datetime("us")),
            "readings": np.diff(offsets),
            "wear_hours": (worn[offsets[1:]] - worn[offsets[:-1]]) / 3600,
            "utc_offset": pl.Series([int(3600 * each.offset[0]) for each in clocks], dtype=pl.Int32),
            "true_travel_hours": [each.farthest for each in clocks],
        }
    )
    repeated = by_person.select(pl.all().repeat_by(weeks_per_user).explode())
    table = pl.concat([repeated.select("user_id"), by_week, repeated.drop("user_id")], how="horizontal")
    table = table.select(pl.exclude("true_travel_hours"), "true_travel_hours")
    return table.with_columns(pl.Series("true_touched", touched)) if touched else table
