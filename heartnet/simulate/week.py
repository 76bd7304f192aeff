"""One simulated week of one person: events (sleep, drinks, workouts, walks, watch off), then the readings they give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heartnet.simulate.literature import (
    ALCOHOL_HOURS,
    ALCOHOL_LOG_SD,
    ALCOHOL_RISE,
    BETA_BLOCKER_RESERVE,
    LATE_HOURS,
)
from heartnet.simulate.people import Person
from heartnet.simulate.travel import AT_HOME, WEEK, Clocks
from heartnet.simulate.watches import Watch
from heartnet.thinning import fold_steps, thin
from heartnet.weeks import MAX_READINGS

RECOVERY_SECONDS = 180
"""The watch keeps measuring at the workout's pace for three minutes after it."""

# bpm; assumed, near shared/data/applewatch, where neighbouring readings differ by a standard deviation of 2.8 after 5 s
# and, after 5 minutes, of 2.9 asleep and 5.9 awake; here 3, 3.5 and 6
AWAKE_RISE = 4.0
WEEK_SPREAD = 1.2
SLOW_SPREAD_AWAKE, SLOW_SPREAD_ASLEEP = 3.0, 1.2
READING_SPREAD_AWAKE = 1.5

# bpm; assumed from the irregularly irregular, fast ventricular answer of fibrillation, averaged by the watch
AF_RISE, AF_SPREAD = 15.0, 11.0

# hours of an episode, assumed: median, standard deviation of the logarithm, shortest and longest
AF_HOURS, AF_HOURS_LOG_SD, AF_HOURS_LIMITS = 6.0, 0.9, (0.5, 60.0)

WALKING_MEASURED = 0.3
"""Share of the background's measurements that work while the wrist swings; assumed."""

JET_LAG_SHARE = 0.5
"""Of the hours between local and body clock, how many bedtime moves with the body; assumed: half way between both."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class WeekReadings:
    """The readings of one week, one row a reading, in order of time; all arrays `[reading]`.

    Attributes:
        seconds: since Monday 00:00 local, true ones, strictly increasing.
        local: what the local clock shows, seconds since Monday 00:00.
        heart_rate: whole bpm, NaN where the row has only steps. steps: whole count, NaN where only heart rate.
        asleep, in_workout, in_af, after_alcohol: the truth at that second; the last is sleep after drinking.
        last_night: what was drawn for the night into the next Monday, to be handed to the next week.
    """

    seconds: Ints
    local: Ints
    heart_rate: npt.NDArray[np.float32]
    steps: npt.NDArray[np.float32]
    asleep: Flags
    in_workout: Flags
    in_af: Flags
    after_alcohol: Flags
    last_night: Floats


@dataclass(frozen=True)
class _Spans:
    """Spans of time in seconds, `[span]`, in order and apart from one another."""

    start: Ints
    end: Ints

    def last_begun(self, seconds: Ints) -> Ints:
        """Return the span that began last at each time, −1 before the first."""
        return np.searchsorted(self.start, seconds, side="right") - 1

    def cover(self, seconds: Ints) -> Flags:
        if not len(self.start):
            return np.zeros(len(seconds), dtype=bool)
        last = self.last_begun(seconds)
        return (last >= 0) & (seconds < self.end[last])


@dataclass(frozen=True)
class _Nights:
    """Eight nights, from the one that ends on Monday morning to the one that begins on Sunday evening.

    Attributes:
        spans: when they are slept.
        alcohol: bpm by which drinking raises the rate at the beginning of each; 0 without.
        drawn: `[night, number]`, what they follow from: three normal numbers (bedtime, hours, dose), then four even
            ones (whether one drank, whether the watch is worn, minutes it is off before and after).
    """

    spans: _Spans
    alcohol: Floats
    drawn: Floats

    def awake(self) -> tuple[Ints, Ints]:
        """Return when each of the seven days begins by waking up, and how long it is until sleep, seconds."""
        wake = self.spans.end[:-1]
        return wake, self.spans.start[1:] - wake


@dataclass(frozen=True)
class _Exertion:
    """Walks and workouts in order of time: their spans, steps a minute and the rise in bpm they drive at."""

    spans: _Spans
    cadence: Floats
    rise: Floats
    workout: Flags


def draw_week(
    person: Person, rng: np.random.Generator, clocks: Clocks = AT_HOME, last_night: Floats | None = None
) -> WeekReadings:
    """Draw one week of readings; the same person, generator, clocks and last night give the same week.

    A week of more than `MAX_READINGS` rows is thinned as a real one is (`heartnet.thinning`): workouts are measured
    less often, while the span, the background and all steps stay.

    Args:
        clocks: how the local clock and the body clock run.
        last_night: of the week before, so that the night between both is the same in both.
    """
    nights = _nights(person, clocks, last_night, rng)
    workouts = _workouts(person, nights, rng)
    exertion = _in_order(_walks(person, nights, workouts.spans, rng), workouts)
    fibrillation = _fibrillation(person, rng)
    worn = _worn_minutes(person, nights, clocks.end, rng)

    measured_at = _heart_rate_times(exertion, person.watch, clocks.end, rng)
    written_at, counts = _step_rows(exertion, clocks.end, rng)
    seconds, row = np.unique(np.concatenate([measured_at, written_at]), return_inverse=True)
    measured = np.zeros(len(seconds), dtype=bool)
    measured[row[: len(measured_at)]] = True
    steps = np.bincount(row[len(measured_at) :], weights=counts, minlength=len(seconds))
    on = worn[seconds // 60]
    seconds, measured, steps = seconds[on], measured[on], steps[on]

    asleep, in_af = nights.spans.cover(seconds), fibrillation.cover(seconds)
    alcohol = _alcohol(nights, seconds)
    rates = _heart_rates(person, clocks, seconds, asleep, in_af, alcohol, exertion, rng)
    heart_rate = np.where(measured, rates, np.nan).astype(np.float32)
    kept = thin(1_000_000 * seconds, heart_rate, MAX_READINGS)
    return WeekReadings(
        seconds=seconds[kept],
        local=clocks.local(seconds[kept]),
        heart_rate=heart_rate[kept],
        steps=fold_steps(np.where(steps > 0, steps, np.nan).astype(np.float32), kept),
        asleep=asleep[kept],
        in_workout=workouts.spans.cover(seconds[kept]),
        in_af=in_af[kept],
        after_alcohol=alcohol[kept] > 0,
        last_night=nights.drawn[7],
    )


def _nights(person: Person, clocks: Clocks, last_night: Floats | None, rng: np.random.Generator) -> _Nights:
    drawn = np.concatenate([rng.standard_normal((8, 3)), rng.random((8, 4))], axis=1)
    if last_night is not None:
        drawn[0] = last_night
    traits, late = person.traits, np.array([0.0, 0.0, 0.0, 0.0, 0.0, LATE_HOURS, LATE_HOURS, 0.0])
    bedtime = traits["bedtime"] + late + 0.6 * np.clip(drawn[:, 0], -3, 3) + JET_LAG_SHARE * clocks.lag
    hours = np.clip(traits["sleep_hours"] + 0.3 * late + 0.7 * drawn[:, 1], 2.0, 13.0)
    start = clocks.midnights + (3600 * bedtime).astype(np.int64)
    drank = drawn[:, 3] < traits["drinking_nights"] / 7
    alcohol = np.where(drank, ALCOHOL_RISE * np.exp(ALCOHOL_LOG_SD * drawn[:, 2]), 0.0)
    return _Nights(_Spans(start, start + (3600 * hours).astype(np.int64)), alcohol, drawn)


def _workouts(person: Person, nights: _Nights, rng: np.random.Generator) -> _Exertion:
    """Return at most one workout a day, on foot or not, at 30 to 65 % of the heart-rate reserve."""
    wake, awake = nights.awake()
    days = np.flatnonzero(rng.random(7) < person.traits["workouts"] / 7)
    minutes = person.workout_length * np.clip(26 * np.exp(0.4 * rng.standard_normal(len(days))), 10, 90)
    start = wake[days] + ((awake[days] - 7200) * rng.random(len(days))).astype(np.int64)
    minutes = np.minimum(minutes, 120)  # whoever works out for longer is in bed in time all the same
    effort = rng.uniform(0.30, 0.65, len(days))
    on_foot = rng.random(len(days)) < 0.7
    maximum = 208 - 0.7 * person.age  # Tanaka et al. 2001, J Am Coll Cardiol 37:153
    reserve = (maximum - person.traits["resting_rate"]) * (BETA_BLOCKER_RESERVE if person.beta_blocker else 1.0)
    return _Exertion(
        spans=_Spans(start, start + (60 * minutes).astype(np.int64)),
        cadence=np.where(on_foot, 90 + 90 * effort, 0.0),
        rise=effort * reserve,
        workout=np.ones(len(days), dtype=bool),
    )


def _walks(person: Person, nights: _Nights, workouts: _Spans, rng: np.random.Generator) -> _Exertion:
    """Return some 42 walks a day between waking up and going to bed, outside workouts, that hold the daily steps."""
    wake, awake = nights.awake()
    count = int(rng.poisson(7 * 42))
    day = rng.integers(0, 7, count)
    start = wake[day] + ((awake[day] - 900) * rng.random(count)).astype(np.int64)
    cadence = rng.uniform(65, 115, count)
    share = (0.1 + rng.exponential(1.0, count)) * np.exp(0.25 * rng.standard_normal(7))[day]
    minutes = share * 7 * person.traits["daily_steps"] / np.add.reduce(share * cadence)
    rise = person.traits["walking_rise"] * (cadence / 90) * rng.uniform(0.6, 1.4, count)

    order = np.argsort(start, kind="stable")
    start, cadence, rise = start[order], cadence[order], rise[order]
    end = start + np.clip(60 * minutes[order], 8, 3600).astype(np.int64)
    end[:-1] = np.minimum(end[:-1], start[1:] - 5)
    end = np.minimum(end, nights.spans.start[1:][day[order]])
    around = _Spans(workouts.start - 120, workouts.end + RECOVERY_SECONDS)
    free = (end - start >= 8) & ~around.cover(start) & ~around.cover(end)
    return _Exertion(_Spans(start[free], end[free]), cadence[free], rise[free], np.zeros(int(free.sum()), dtype=bool))


def _in_order(one: _Exertion, other: _Exertion) -> _Exertion:
    """Return both in order of time, each ended where the next begins."""
    start = np.concatenate([one.spans.start, other.spans.start])
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.concatenate([one.spans.end, other.spans.end])[order]
    end[:-1] = np.minimum(end[:-1], start[1:] - 1)
    return _Exertion(
        _Spans(start, end),
        np.concatenate([one.cadence, other.cadence])[order],
        np.concatenate([one.rise, other.rise])[order],
        np.concatenate([one.workout, other.workout])[order],
    )


def _fibrillation(person: Person, rng: np.random.Generator) -> _Spans:
    """Return episodes of atrial fibrillation, some hours each; what two of them cover is covered.

    `heartnet.simulate.ceiling` knows this by heart.
    """
    count = int(rng.poisson(person.traits["af_episodes"]))
    start = np.sort(rng.integers(0, WEEK, count))
    hours = np.clip(AF_HOURS * np.exp(AF_HOURS_LOG_SD * rng.standard_normal(count)), *AF_HOURS_LIMITS)
    end = np.maximum.accumulate(start + (3600 * hours).astype(np.int64))
    end[:-1] = np.minimum(end[:-1], start[1:])
    return _Spans(start, end)


def _worn_minutes(person: Person, nights: _Nights, end: int, rng: np.random.Generator) -> Flags:
    """Return `[minute]`: whether the watch is on the wrist and not on its charger."""
    worn = np.ones(-(-end // 60), dtype=bool)

    def take_off(start: float, end: float) -> None:
        worn[max(int(start), 0) : max(int(end), 0)] = False

    at_night = nights.drawn[:, 4] < person.traits["night_wear"]
    margin = 10 + 40 * nights.drawn[:, 5:]
    start, end_of_night = nights.spans.start // 60, nights.spans.end // 60
    for asleep, awake, kept, (before, after) in zip(start, end_of_night, at_night, margin, strict=True):
        if not kept:
            take_off(asleep - before, awake + after)  # charges beside the bed
        elif before < 30:
            take_off(asleep - 40 - 2 * before, asleep - 40)
        else:
            take_off(awake + after, awake + after + 2 * before)
    for day in np.flatnonzero(rng.random(7) < 0.03):  # left at home
        take_off(end_of_night[day], start[day + 1])
    for moment, length in zip(rng.uniform(0, end // 60, 4), rng.uniform(5, 60, 4), strict=True):
        take_off(moment, moment + length)
    return worn


def _heart_rate_times(exertion: _Exertion, watch: Watch, week_end: int, rng: np.random.Generator) -> Ints:
    """Return the times of heart rates: every few minutes; every 5 s in and after workouts and in some walks."""
    gaps = rng.integers(watch.shortest_gap, watch.longest_gap, week_end // (watch.shortest_gap + 60))
    gaps[rng.random(len(gaps)) < watch.skipped] *= 2
    background = np.cumsum(gaps)
    moving = exertion.spans.cover(background)
    background = background[~moving | (rng.random(len(moving)) < WALKING_MEASURED)]

    start, end = exertion.spans.start, exertion.spans.end
    chosen = exertion.workout | (rng.random(len(start)) < 0.10)
    count = (end[chosen] - start[chosen] + np.where(exertion.workout[chosen], RECOVERY_SECONDS, 60)) // 5
    dense = np.repeat(start[chosen], count) + 5 * _within(count)
    dense += rng.integers(-1, 2, len(dense))
    if watch.lost:
        dense = dense[rng.random(len(dense)) >= watch.lost]
    times = np.concatenate([background, dense])
    return times[(times >= 0) & (times < week_end)]


def _step_rows(exertion: _Exertion, week_end: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Return the times at which the watch writes steps, each minute of a walk and at its end, and the counts."""
    start, end = exertion.spans.start, exertion.spans.end
    rows = -(-(end - start) // 60) * (exertion.cadence > 0)
    begun = np.repeat(start, rows) + 60 * _within(rows)
    written = np.minimum(begun + 60, np.repeat(end, rows))
    pace = np.repeat(exertion.cadence, rows) * (1 + 0.1 * rng.standard_normal(len(begun)))
    counts = np.maximum(np.rint(pace * (written - begun) / 60), 1.0)
    inside = (written >= 0) & (written < week_end)
    return written[inside], counts[inside]


def _within(counts: Ints) -> Ints:
    """Return 0 … count − 1 for each count, one after the other."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


def _alcohol(nights: _Nights, seconds: Ints) -> Floats:
    """Return the bpm that drinking adds to each rate asleep: most at the beginning of the night, then ever less."""
    added = np.zeros(len(seconds))
    for night in np.flatnonzero(nights.alcohol):
        start, end = nights.spans.start[night], nights.spans.end[night]
        first, last = np.searchsorted(seconds, (start, min(end, start + 3600 * ALCOHOL_HOURS)))
        added[first:last] = nights.alcohol[night] * (1 - (seconds[first:last] - start) / (3600 * ALCOHOL_HOURS))
    return added


def _heart_rates(
    person: Person,
    clocks: Clocks,
    seconds: Ints,
    asleep: Flags,
    in_af: Flags,
    alcohol: Floats,
    exertion: _Exertion,
    rng: np.random.Generator,
) -> Floats:
    """Return the rate measured at each time, whole bpm from 30 to 220."""
    traits, watch = person.traits, person.watch
    daily = np.cos(2 * math.pi * (clocks.body_hours(seconds) - 15) / 24)
    rate = traits["resting_rate"] + 0.5 * traits["circadian_swing"] * daily + np.where(asleep, 0.0, AWAKE_RISE)
    rate += WEEK_SPREAD * rng.standard_normal() + alcohol
    knots = np.arange(0, clocks.end + 600, 600)
    slow = np.interp(seconds, knots, rng.standard_normal(len(knots)))
    rate += slow * np.where(asleep, SLOW_SPREAD_ASLEEP, SLOW_SPREAD_AWAKE)
    own = np.where(asleep, traits["night_scatter"], READING_SPREAD_AWAKE)
    rate += rng.standard_normal(len(seconds)) * (np.hypot(own, watch.spread) if watch.spread else own)
    rate += _response(exertion, seconds, traits["recovery_time"])
    rate += in_af * (AF_RISE + AF_SPREAD * rng.standard_normal(len(seconds)))
    rate += (rng.random(len(seconds)) < watch.loose) * rng.uniform(-30, 45, len(seconds))
    return np.clip(np.rint(rate), 30, 220)


def _response(exertion: _Exertion, seconds: Ints, recovery_time: float) -> Floats:
    """Return the rise in bpm from walks and workouts: towards each one's own rise, then back with `recovery_time`.

    What is left of the one before when the next begins is carried over; what was left before that is forgotten.
    """
    start, end, rise = exertion.spans.start, exertion.spans.end, exertion.rise
    rise_time = np.where(exertion.workout, 90.0, 30.0)
    reached = rise * -np.expm1(-(end - start) / rise_time)
    carried = np.zeros(len(start))
    carried[1:] = reached[:-1] * np.exp(-(start[1:] - end[:-1]) / recovery_time)
    reached += carried * np.exp(-(end - start) / rise_time)

    last = exertion.spans.last_begun(seconds)
    before_first, last = last < 0, np.maximum(last, 0)
    since = np.clip(seconds - start[last], 0, end[last] - start[last])
    during = rise[last] + (carried[last] - rise[last]) * np.exp(-since / rise_time[last])
    after = reached[last] * np.exp(-np.maximum(seconds - end[last], 0) / recovery_time)
    response: Floats = np.where(seconds < end[last], during, after)
    return np.where(before_first, 0.0, response)
