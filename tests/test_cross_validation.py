"""A cross-validation: the callbacks look at the tests of all folds together, each week with the network of its fold."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faults
import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.metrics import roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_within_folds import naive_pairs

import train
from callbacks import loss_patterns
from callbacks.loss_patterns import LossPatterns
from callbacks.metadata_reliance import MetadataReliance
from callbacks.people import People
from callbacks.predictions import Predictions
from callbacks.wins_and_losses import WinsAndLosses
from heartnet.ablation_weeks import some_weeks
from heartnet.card_scores import read_test
from heartnet.compare import compare_runs
from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.loss_patterns import find_patterns
from heartnet.diagnostics.within_folds import EACH_WEEK
from heartnet.findings import FILE, Finding, latest, of_all_parts, read_jsonl
from heartnet.metadata_scores import metadata_score
from heartnet.on_predictions import Fold, PredictedSplit
from heartnet.pooled import CrossValidation
from heartnet.predictions import COLUMNS, FOLD, prediction_files, read_predictions
from heartnet.report.folder import read_run
from heartnet.tasks import Conditions
from heartnet.weeks import Weeks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

FOLDS, DRAWS = 3, 100


def two_weeks_each(people: int = 45) -> Weeks:
    weeks = faults.weeks(0, 2 * people)
    person = np.arange(2 * people) // 2
    table = weeks.table.with_columns(
        pl.Series("user_id", [f"user-{i:03d}" for i in person]),
        *(pl.col(name).gather(person * 2).alias(name) for name in (*weeks.conditions, "age", "bmi")),
    )
    return replace(weeks, table=table)


def all_callbacks() -> list[Any]:
    return [
        Predictions(draws=DRAWS, every_n_epochs=1), MetadataReliance(draws=DRAWS, weeks=1000, permutations=1),
        People(draws=DRAWS), WinsAndLosses(count=1), LossPatterns(draws=DRAWS),
    ]  # fmt: skip


class Whole:
    """A finished cross-validation: its folder, and by fold the module and the data."""

    def __init__(self, folder: Path, val_share: float = 0.3) -> None:
        self.folder = folder
        self.modules: list[Any] = []
        self.data: list[WeeksDataModule] = []
        self.people: list[People] = []
        weeks, whole = two_weeks_each(), CrossValidation(folder)
        for fold in range(FOLDS):
            place = folder / f"fold-{fold}"
            made = faults.training("deepheart", fold)
            data = WeeksDataModule(weeks, Conditions(), batch_size=16, val_share=val_share, folds=FOLDS, fold=fold)
            made.module.scaling = data.scaling
            callbacks = all_callbacks()
            trainer = lightning.Trainer(
                default_root_dir=place, logger=TensorBoardLogger(str(place), name="", version=""), callbacks=callbacks,
                accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
                max_epochs=1, num_sanity_val_steps=0,
            )  # fmt: skip
            whole.begin(trainer)
            trainer.fit(made.module, datamodule=data)
            trainer.test(made.module, datamodule=data, verbose=False)
            whole.add(place, trainer, made.module, data)
            self.modules.append(made.module)
            self.data.append(data)
            self.people.append(callbacks[2])
        self.before = [each.detach().clone() for module in self.modules for each in module.parameters()]
        random_state = random.getstate()
        for seeded in (torch.manual_seed, np.random.seed):
            seeded(5)
        whole.finish(trainer, made.module, data)
        self.drawn = (float(torch.rand(1)), float(np.random.rand()), random.getstate() == random_state)
        self.trainer = trainer
        self.frame = pl.read_parquet(folder / "predictions.parquet")
        self.findings = latest(read_jsonl(folder / FILE))
        self.events = EventAccumulator(str(folder), size_guidance={"images": 0})
        self.events.Reload()

    def part(self, target: str) -> pl.DataFrame:
        return self.frame.filter(pl.col("target") == target)

    def scalar(self, tag: str) -> float:
        return float(self.events.Scalars(tag)[-1].value)

    def finding(self, check: str, where: str) -> Finding:
        [found] = [each for each in self.findings if (each.check, each.where) == (check, where)]
        return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


def test_the_file_of_all_folds_is_that_of_each(whole: Whole) -> None:
    assert list(whole.frame.columns) == [*COLUMNS, FOLD]
    for fold in range(FOLDS):
        own = pl.read_parquet(whole.folder / f"fold-{fold}" / "predictions.parquet")
        assert whole.frame.filter(pl.col(FOLD) == f"fold-{fold}").drop(FOLD).equals(own)
    assert whole.frame["week"].n_unique() * 2 == len(whole.frame) == 2 * 90
    assert not list(whole.folder.glob(".*"))


def test_nobody_counts_a_week_twice(whole: Whole) -> None:
    assert [file.parent for file in prediction_files(whole.folder)] == [whole.folder]
    run = read_run(whole.folder)
    assert run.predictions is not None
    assert len(read_predictions(whole.folder)) == len(read_test(whole.folder)) == len(run.predictions) == 180
    assert "" in run.weeks
    assert "fold" in run.weeks[""].columns
    [row] = compare_runs([whole.folder], draws=10)
    assert row.scored is not None
    assert len(row.scored.users) == 90
    simple = pl.read_parquet(whole.folder / "fold-0" / "predictions.parquet").with_columns(model=pl.lit("hourly"))
    simple.write_parquet(whole.folder / "fold-0" / "predictions_baseline.parquet")
    assert read_predictions(whole.folder)["model"].value_counts().sort("count")["count"].to_list()[-1] == 180
    (whole.folder / "fold-0" / "predictions_baseline.parquet").unlink()


def test_only_all_folds_are_looked_at_after_a_test(whole: Whole) -> None:
    checks = {"predictions", "metadata_reliance", "people", "wins_and_losses", "loss_patterns"}
    assert {each.check for each in whole.findings} == checks
    assert all(each.where.startswith("test") for each in whole.findings)
    assert [each.message for each in whole.findings if "could not be" in each.message] == []
    parts = {"": whole.findings}
    for fold in range(FOLDS):
        place = whole.folder / f"fold-{fold}"
        parts[place.name] = found = read_jsonl(place / FILE)
        assert {each.check for each in found} == checks
        assert all(each.where.startswith("val") for each in found), "validation looks stay, those of the test do not"
        assert not (place / "wins_and_losses.csv").exists()
        events = EventAccumulator(str(place))
        events.Reload()
        assert not [tag for tag in events.Tags()["scalars"] if "/test/" in tag]
        assert "predictions/val/auroc/diabetes" in events.Tags()["scalars"]
    assert [each for each in of_all_parts(parts) if each.where.startswith("fold-")] == []
    tags = set(whole.events.Tags()["images"])
    assert {"predictions/test/diabetes", "metadata_reliance/test/diabetes", "people/test/diabetes"} <= tags
    assert "wins_and_losses/test/diabetes/false_positive/1" in tags


def test_scores_of_all_weeks_and_within_folds(whole: Whole) -> None:
    for target in ("sleep_apnea", "diabetes"):
        part = whole.part(target)
        value, score = part["value"].to_numpy(), part["score"].to_numpy()
        assert whole.scalar(f"predictions/test/auroc/{target}") == pytest.approx(roc_auc_score(value, score), abs=1e-6)
        right, pairs = naive_pairs(score, value, part[FOLD].to_numpy())
        assert whole.scalar(f"predictions/test/within_folds_auroc/{target}") == pytest.approx(right / pairs, abs=1e-6)
        message = whole.finding("predictions", f"test: {target}").message
        assert "within folds 0." in message
        assert "90 weeks of 45 people, scored by 3 networks" in message


def test_each_input_is_taken_from_the_network_of_the_week(whole: Whole) -> None:
    """Without any channel, a week scored by its fold's module, by hand; and the metadata model of its fold.

    What each network says is moved by its mean, and so is the metadata model.
    """
    for place, target in enumerate(("sleep_apnea", "diabetes")):
        part = whole.part(target)
        before, after, metadata = np.zeros((3, len(part)))
        for fold, (module, data) in enumerate(zip(whole.modules, whole.data, strict=True)):
            mine = np.flatnonzero((part[FOLD] == f"fold-{fold}").to_numpy())
            rows = part["week"].to_numpy()[mine]
            batch = data.batch(rows)
            with torch.no_grad():
                blank = torch.zeros_like(batch["inputs"])
                out = module.eval().network(blank, batch["lengths"], batch["metadata"])
            logit = part["logit"].to_numpy()[mine].astype(np.float64)
            before[mine], after[mine] = logit - logit.mean(), out.score[:, place].numpy() - logit.mean()
            own = metadata_score(part[mine], target, "conditions", data)
            assert own is not None
            own = np.log(own / (1 - own))
            metadata[mine] = own - own.mean()
        value = part["value"].to_numpy()
        lost = roc_auc_score(value, before) - roc_auc_score(value, after)
        # Blank weeks of a network score nearly the same: padding may turn a pair or two of the 1,800.
        assert whole.scalar(f"metadata_reliance/test/removed/sensors/{target}") == pytest.approx(lost, abs=2e-3)
        gain = roc_auc_score(value, before) - roc_auc_score(value, metadata)
        assert whole.scalar(f"metadata_reliance/test/gain/{target}") == pytest.approx(gain, abs=2e-3)
        said = [each.message for each in whole.findings if each.check == "metadata_reliance" and target in each.where]
        assert said
        assert all("The logits of each fold were moved to one mean." in each for each in said if "too few" not in each)
    assert len(some_weeks(whole.frame, 1000)) == 90


def test_weeks_are_drawn_with_the_network_of_their_fold(whole: Whole) -> None:
    """Each score is computed again for its picture; another network would say something else, and that is told."""
    chosen = pl.read_csv(whole.folder / "wins_and_losses.csv")
    assert chosen[FOLD].n_unique() > 1
    assert not [each for each in whole.findings if each.where.endswith("pictures")]
    drawn = [tag for tag in whole.events.Tags()["images"] if tag.startswith("wins_and_losses")]
    assert len(drawn) == len(chosen)
    for row in chosen.filter(pl.col("target") == "diabetes").iter_rows(named=True):
        fold = int(row[FOLD].removeprefix("fold-"))
        batch = whole.data[fold].batch(np.array([row["week"]]))
        with torch.no_grad():
            out = whole.modules[fold].eval().network(batch["inputs"], batch["lengths"], batch["metadata"])
        assert float(out.score[0, 1].sigmoid()) == pytest.approx(row["score"], abs=1e-4)


def test_people_are_scored_as_their_fold_chose(whole: Whole) -> None:
    for target in ("sleep_apnea", "diabetes"):
        part = whole.part(target)
        kinds = {each.chosen[target].kind for each in whole.people}
        assert kinds == {"mean_logit"}, "30 people of a validation find nothing better"
        person = part.group_by("user_id").agg(pl.col("value", FOLD).first(), pl.col("logit").mean())
        right, pairs = naive_pairs(*(person[name].to_numpy() for name in ("logit", "value", FOLD)))
        assert whole.scalar(f"people/test/mean_logit_auroc/{target}") == pytest.approx(right / pairs, abs=1e-6)
        finding = whole.finding("people", f"test: {target}")
        assert f"of {len(person)} people" in finding.message
        assert f"For {target} mean_logit was chosen. AUROC within folds 0." in finding.message


def test_patterns_are_looked_for_on_one_level_and_not_in_folds(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def found(known: pl.DataFrame, targets: Any, scores: Any, *rest: Any, **options: Any) -> Any:
        asked.append((known, scores))
        return find_patterns(known, targets, scores, *rest, **options)

    monkeypatch.setattr(loss_patterns, "find_patterns", found)
    last = whole.data[-1]
    split = PredictedSplit(
        whole.folder / "predictions.parquet", "test", tuple(last.targets), "conditions", 90, last, False, "user", 3,
        tuple(Fold(f"fold-{i}", module, None, ()) for i, module in enumerate(whole.modules)),  # type: ignore[arg-type]
    )  # fmt: skip
    trainer: Any = SimpleNamespace(loggers=[], global_step=3)
    LossPatterns(draws=DRAWS).look(trainer, whole.modules[-1], split)
    [(known, scores)] = asked
    assert FOLD not in known.columns
    fold = known.join(whole.part("diabetes").select("week", FOLD), on="week", how="left", maintain_order="left")[FOLD]
    logit = np.log(scores / (1 - scores))
    means = np.stack([logit[(fold == f"fold-{i}").to_numpy()].mean(axis=0) for i in range(FOLDS)])
    assert np.allclose(means, means[0])


def test_it_leaves_no_trace(whole: Whole) -> None:
    now = [each for module in whole.modules for each in module.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(whole.before, now, strict=True))
    torch.manual_seed(5)
    np.random.seed(5)
    assert whole.drawn == (float(torch.rand(1)), float(np.random.rand()), True)
    assert all(module._trainer is None for module in whole.modules), "the states of all optimisers would stay"


# The command

TINY = (
    "data.users=6", "data.weeks_per_user=1", "data.base_rates={diabetes:0.5}", "data.missing_labels=0",
    "task.conditions=[diabetes]", "model=compact", "model.conv_units=4", "model.lstm_units=4", "model.lstm_layers=1",
    "data.batch_size=2", "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false",
    "cross_validate=true", "data.folds=2", "data.val_share=0", "checkpoint.monitor=null",
)  # fmt: skip

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `train.py` in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def run_train(*overrides: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train.py", *TINY, *overrides])
        return train.main()

    return run_train


def test_the_command_says_what_is_of_all_folds(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("+callbacks=[predictions,wins_and_losses]", "hydra.run.dir=run") == 0
    output = capsys.readouterr().out
    assert "All 2 folds together" in output
    assert "fold-0" not in output.partition("Findings, worst first")[2].partition("Everything is in")[0]
    assert {"predictions.parquet", "findings.jsonl", "wins_and_losses.csv", "report.html"} <= {
        path.name for path in Path("run").iterdir()
    }
    page = Path("run/report.html").read_text()
    assert "Wins and losses" in page
    assert EACH_WEEK in page
    assert len(pl.read_parquet("run/predictions.parquet")) == 6


def test_an_interrupted_one_pools_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("+callbacks=predictions", "hydra.run.dir=run") == 0
    assert Path("run/predictions.parquet").is_file()
    fit, begun = lightning.Trainer.fit, []

    def interrupt(self: Any, *arguments: Any, **options: Any) -> Any:
        begun.append(1)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return fit(self, *arguments, **options)

    monkeypatch.setattr(lightning.Trainer, "fit", interrupt)
    said = Path("run/findings.jsonl").read_text()
    assert run("+callbacks=predictions", "hydra.run.dir=run") == 130
    assert not Path("run/predictions.parquet").exists(), "nor what another left there"
    assert Path("run/findings.jsonl").read_text() == said
    assert Path("run/fold-0/predictions.parquet").is_file()


def test_fewer_folds_in_the_folder_of_one_before(run: Run) -> None:
    assert run("data.folds=3", "hydra.run.dir=run") == 0
    assert run("hydra.run.dir=run") == 0
    assert not list(Path("run/fold-2").glob("*.parquet"))
    assert not Path("run/fold-2/tested.json").exists()
    models = read_predictions(Path("run"))["model"].value_counts()
    assert set(models["count"]) == {6}, "the ceiling's too are each of one week"


def test_a_fast_dev_run(run: Run) -> None:
    assert run("+callbacks=[predictions,people]", "+trainer.fast_dev_run=true", "hydra.run.dir=run") == 0


def test_a_sweep_of_them(run: Run) -> None:
    assert run("-m", "seed=0,1", "+callbacks=[predictions]", "hydra.sweep.dir=sweep") == 0
    for number in "01":
        assert len(pl.read_parquet(f"sweep/{number}/predictions.parquet")) == 6
        assert Path(f"sweep/{number}/findings.jsonl").is_file()


def test_what_cannot_be_written_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = pl.LazyFrame.sink_parquet

    def full(self: pl.LazyFrame, path: Any, **options: Any) -> Any:
        if str(path).endswith("run/.predictions.parquet.partial"):
            raise OSError(28, "No space left on device")
        return sink(self, path, **options)

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full)
    assert run("hydra.run.dir=run") == 0
    assert not list(Path("run").glob(".*"))
    [found] = read_jsonl(Path("run") / FILE)
    assert (found.check, found.status) == ("cross_validation", "warn")
    assert "No space left on device" in found.message
