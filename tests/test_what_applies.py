"""What applies to a run: advice names no option that does not apply to it."""

from __future__ import annotations

import faults
import pytest

from heartnet.datamodule import WeeksDataModule
from heartnet.tasks import Conditions
from heartnet.what_applies import more_people


@pytest.mark.parametrize(
    ("options", "val", "test"),
    [
        ({}, "Raise data.val_share, cross-validate by person, or add people.",
         "Raise data.test_share, cross-validate by person, or add people."),
        ({"folds": 3}, "Raise data.val_share or add people.", "Add people."),
        ({"split_by": "week"}, "Raise data.val_share or add weeks.", "Raise data.test_share or add weeks."),
    ],
)  # fmt: skip
def test_more_people(options: dict[str, object], val: str, test: str) -> None:
    data = WeeksDataModule(faults.weeks(0, 20), Conditions(), **options)  # type: ignore[arg-type]
    assert more_people("val", data.split_by, data) == val
    assert more_people("test", data.split_by, data) == test


def test_of_other_data_the_options_are_not_known() -> None:
    assert more_people("test", "user", None) == "Add people."
