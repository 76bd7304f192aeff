"""Shapes in the signatures of heartnet and of the callbacks are checked while the tests run; and a small cohort."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook

# Before torch is imported: several tests at a time with several threads each get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def check_shapes(function: Any) -> Any:
    """Check arguments and results whose annotation names a shape, and only those.

    Other arguments are not checked, so that wrong ones reach heartnet's own checks, whose messages are tested.
    """
    hints = {name: hint for name, hint in function.__annotations__.items() if _names_a_shape(hint)}
    function.__annotations__ = hints
    return beartype(function) if hints else function


def _names_a_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_names_a_shape(part) for part in get_args(hint))


install_import_hook(["heartnet", "callbacks"], "conftest.check_shapes")


@pytest.fixture(scope="session")
def make_weeks() -> Callable[..., Any]:
    """Return a function that draws short weeks of a few people, with gaps, missing labels and missing metadata."""
    from heartnet.weeks import Weeks

    def make(
        users: int = 12,
        weeks_each: int = 3,
        *,
        seed: int = 0,
        shortest: int = 5,
        longest: int = 30,
        conditions: tuple[str, ...] = ("sleep_apnea", "diabetes"),
        missing: float = 0.1,
    ) -> Weeks:
        rng = np.random.default_rng(seed)
        count = users * weeks_each
        lengths = rng.integers(shortest, longest + 1, count)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        total = int(offsets[-1])
        dt = rng.choice([5.0, 300.0, 4000.0], total)
        rate = rng.normal(70, 12, total).clip(35, 190)
        steps = rng.poisson(3, total) * rng.integers(0, 40, total)
        readings = np.stack([rate, steps, dt], axis=1).astype(np.float32)
        readings[rng.random(readings.shape) < missing] = np.nan
        readings[offsets[:-1], 2] = np.nan
        person = np.repeat(np.arange(users), weeks_each)
        starts = [datetime(2024, 1, 1) + timedelta(weeks=int(i % weeks_each)) for i in range(count)]
        first = np.array(starts, dtype="datetime64[us]").astype(np.int64)
        local = np.concatenate([
            first[i] + np.cumsum(dt[offsets[i] : offsets[i + 1]] * 1e6).astype(np.int64) for i in range(count)
        ])  # fmt: skip
        sex = rng.choice(np.array(["female", "male", None], dtype=object), users)
        labels = rng.integers(0, 2, (users, len(conditions)))[person]
        unknown = rng.random(labels.shape) < missing
        table = pl.DataFrame(
            {
                "user_id": [f"user-{i:02d}" for i in person],
                "start": starts,
                "readings": lengths,
                "wear_hours": rng.uniform(30, 160, count),
                "device": pl.Series([None] * count, dtype=pl.String),
                "age": [None if i % 7 == 3 else float(20 + i) for i in person],
                "sex": pl.Series([sex[i] for i in person], dtype=pl.String),
                "bmi": (20 + rng.normal(5, 2, users))[person],
                **{
                    name: pl.Series(
                        [None if u else int(v) for u, v in zip(unknown[:, c], labels[:, c], strict=True)], dtype=pl.Int8
                    )
                    for c, name in enumerate(conditions)
                },
            }
        )
        return Weeks(readings, local, offsets, table, conditions)

    return make


@pytest.fixture
def interrupted_at_mkdir(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt once a hidden folder, in which something is to grow, has appeared."""
    real = Path.mkdir

    def mkdir(self: Path, *arguments: Any, **named: Any) -> None:
        real(self, *arguments, **named)
        if ".partial-" in self.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", mkdir)
