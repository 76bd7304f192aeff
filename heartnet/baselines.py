"""The simple models that one trusts, fitted on the same split as the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
"""What a linear baseline sees of a week: age, sex and BMI; eleven statistics of the readings; or mean and spread of the
hourly features (`heartnet.features`)."""

BOOSTING = "boosting"
"""The baseline that is not linear: gradient boosting on `metadata` and `hourly` together."""

BASELINES: tuple[str, ...] = (*FEATURES, BOOSTING)


def baseline_scores(data: WeeksDataModule, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
    """Fit on the training split and return scores `[row, target]` of the given weeks.

    Those named in `FEATURES` are linear: logistic regression for conditions (probabilities), ridge regression for
    synthetic targets (natural units), on standardised features, missing ones at their mean. `boosting` is histogram
    gradient boosting, for which missing is a value of its own. All give the same scores each time.

    A condition with one class in the training split gets its base rate. None if the training split knows none of the
    features (no metadata, say).
    """
    train = data.rows["train"]
    seen, asked = features_of(data, name, train), features_of(data, name, rows)
    useful = ~np.isnan(seen).all(axis=0)
    if not useful.any():
        return None
    conditions = data.task.kind == "conditions"
    scores = np.empty((len(rows), len(data.targets)), dtype=np.float32)
    for i in range(len(data.targets)):
        values = data.values[train, i]
        known = ~np.isnan(values)
        if len(np.unique(values[known])) < 2:
            scores[:, i] = values[known].mean() if known.any() else 0.5 if conditions else np.nan
            continue
        model = simple_model(name, conditions=conditions).fit(seen[known][:, useful], values[known])
        scores[:, i] = model.predict_proba(asked[:, useful])[:, 1] if conditions else model.predict(asked[:, useful])
    return scores


def features_of(data: WeeksDataModule, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return what a baseline sees of weeks, `[row, feature]`, in natural units, NaN where missing."""
    names = ("metadata", "hourly") if name == BOOSTING else (name,)
    return np.concatenate([FEATURES[each](data, rows) for each in names], axis=1)


def simple_model(name: str, *, conditions: bool) -> Any:
    """Return a baseline that is not fitted yet, as scikit-learn has them; arguments as of `baseline_scores`."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == BOOSTING:
        # Small trees, a number of them that does as well on 100 weeks as on 2,400. No early stopping: it would put
        # weeks of one person on both sides of its own split.
        kind = HistGradientBoostingClassifier if conditions else HistGradientBoostingRegressor
        return kind(
            learning_rate=0.05, max_iter=200, max_leaf_nodes=8, l2_regularization=1.0, early_stopping=False,
            random_state=0,
        )  # fmt: skip
    last = LogisticRegression(max_iter=2000) if conditions else Ridge()
    return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), last)
