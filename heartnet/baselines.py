"""The simple models that one trusts, fitted on the same split as the network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from heartnet.datamodule import WeeksDataModule
from heartnet.features import hourly_summary, week_statistics
from heartnet.scaling import metadata_values

Features = Callable[[WeeksDataModule, npt.NDArray[np.int64]], npt.NDArray[np.float64]]

FEATURES: dict[str, Features] = {
    "metadata": lambda data, rows: metadata_values(data.weeks.table[rows]),
    "statistics": lambda data, rows: week_statistics(data.weeks, rows),
    "hourly": lambda data, rows: hourly_summary(data.weeks, rows),
}
"""What a baseline sees of a week: age, sex and BMI; eleven statistics of the readings; or mean and spread of the hourly
features (`heartnet.features`)."""


def baseline_scores(
    data: WeeksDataModule, features: str, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32] | None:
    """Fit on the training split and return scores `[row, target]` of the given weeks.

    Logistic regression for conditions (probabilities), ridge regression for synthetic targets (natural units); both on
    standardised features, missing ones at their mean. A condition with one class in the training split gets its base
    rate. None if the training split knows none of the features (no metadata, say).
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = data.rows["train"]
    seen, asked = FEATURES[features](data, train), FEATURES[features](data, rows)
    useful = ~np.isnan(seen).all(axis=0)
    if not useful.any():
        return None
    scores = np.empty((len(rows), len(data.targets)), dtype=np.float32)
    for i in range(len(data.targets)):
        values = data.values[train, i]
        known = ~np.isnan(values)
        if data.task.kind == "conditions" and len(np.unique(values[known])) < 2:
            scores[:, i] = values[known].mean() if known.any() else 0.5
            continue
        last = LogisticRegression(max_iter=2000) if data.task.kind == "conditions" else Ridge()
        model = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), last)
        model.fit(seen[known][:, useful], values[known])
        asked_useful = asked[:, useful]
        answer = (
            model.predict_proba(asked_useful)[:, 1] if data.task.kind == "conditions" else model.predict(asked_useful)
        )
        scores[:, i] = answer
    return scores
