"""The report: its numbers against plain ones, whatever a run's folder holds, and nothing in it that runs or loads."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score
from test_page import Reader
from torch.utils.tensorboard import SummaryWriter

from heartnet.cli import main
from heartnet.errors import HeartnetError
from heartnet.findings import Finding, append_jsonl
from heartnet.report import MOST_BYTES, report_if_possible, write_report
from heartnet.report.charts import groups
from heartnet.report.curves import HEIGHT, WIDTH, chart, short, short_labels
from heartnet.report.events import KEPT_PICTURES, Logged, Picture, Series, event_files, read_events
from heartnet.report.findings import shown
from heartnet.report.folder import runs_below
from heartnet.report.pictures import gallery
from heartnet.status import read_status, write_status
from heartnet.tensorboard_layout import layout_of

VILE = "<script>alert(1)</script>\"'><img src=http://x.example onerror=alert(2)>&amp;{{ 7*7 }}‮ url(http://y.example)"


class Words(Reader):
    """Keeps a space between the texts of elements, as a browser does between cells."""

    def handle_data(self, data: str) -> None:
        super().handle_data(f" {data} ")


def words_of(text: str) -> str:
    return " ".join(check_safe(text).text.split())


def finding(status: Any = "fail", where: str = "diabetes/last", **changes: Any) -> Finding:
    values: dict[str, Any] = {"value": 9.25, "limit": 1.0, "unit": "decades", "message": "It forgets."}
    return Finding("amnesia", status, where, **{**values, **changes})


def picture(colour: int = 0, size: tuple[int, int] = (40, 30)) -> np.ndarray[Any, Any]:
    return np.full((3, size[1], size[0]), colour, dtype=np.uint8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run as train.py leaves it, written by hand."""
    folder = tmp_path / "runs" / "2026-01-02" / "03-04-05"
    with SummaryWriter(str(folder)) as writer:
        writer.add_custom_scalars(layout_of([], "conditions"))
        for step in range(40):
            writer.add_scalar("train/loss", 1 / (step + 1), step)
            writer.add_scalar("epoch", step // 20, step)
        for step in (19, 39):
            writer.add_scalar("val/loss", 0.5 - step / 100, step)
            writer.add_scalar("val/auroc/diabetes", 0.5 + step / 100, step)
            writer.add_image("amnesia/profile", picture(step), step)
            writer.add_text("remarks", f"at *{step}*", step)
            writer.add_text("findings", "the table", step)
        writer.add_scalar("test/auroc/diabetes", 0.75, 40)
        writer.add_histogram("weights", np.arange(9), 1)
    append_jsonl(
        [finding("warn", step=0, value=2.0), finding(step=39, try_=("model.forget_bias=chrono",))],
        folder / "findings.jsonl",
    )
    append_jsonl(
        [finding("pass", "a/score", value=0.3), finding("warn", "b", message="So so.")], folder / "findings.jsonl"
    )
    simulated = "data:\n  _target_: heartnet.datamodule.SimulatedData\n"
    (folder / "config.yaml").write_text(f"# python train.py data.users=24\n{simulated}trainer:\n  max_epochs: 2\n")
    predictions(folder / "predictions.parquet", "network", 0)
    predictions(folder / "predictions_baseline.parquet", "metadata", 1)
    write_status(folder, "finished")
    return folder


def predictions(file: Path, model: str, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    value = [None if i % 9 == 8 else float(i % 2) for i in range(40)]
    frame = pl.DataFrame(
        {
            "model": model,
            "user_id": [f"user-{i}" for i in range(40)],
            "start": None,
            "week": range(40),
            "target": ["diabetes", "hypertension"] * 20,
            "value": pl.Series([value[i // 2] for i in range(40)], dtype=pl.Float32),
            "score": pl.Series(rng.random(40), dtype=pl.Float32),
        }
    )
    frame.write_parquet(file)
    return frame


WINS = ("false_positive", "true_positive")


def wins_and_losses(
    folder: Path, *, split: str = "test", targets: tuple[str, ...] = ("diabetes", "sleep_apnea")
) -> None:
    """Leave what the callback wins_and_losses leaves: three weeks of two kinds, each picture of a grey of its own."""
    rows = [
        {"kind": kind, "rank": rank, "error": 0.9, "model": "network", "user_id": f"user-{rank}", "week": rank,
         "start": "2024-01-01T00:00:00.000000", "target": target, "value": 0.0, "score": 0.91234, "split": split,
         "logit": 2.3, "age": 61.0, "sex": "female", "bmi": 27.25, "device": None, "wear_hours": 101.4,
         "readings": 3210, "mean_of_steps": 1.0}
        for target in targets for kind in WINS for rank in (1, 2, 3)
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    pl.DataFrame(rows).write_csv(
        folder / ("wins_and_losses.csv" if split == "test" else f"{split}_wins_and_losses.csv")
    )
    with SummaryWriter(str(folder), filename_suffix=split) as writer:
        for number, row in enumerate(rows):
            tag = f"wins_and_losses/{split}/{row['target']}/{row['kind']}/{row['rank']}"
            writer.add_image(tag, picture(10 * number + 5, (1000, 540)), 7)
            writer.add_text(f"wins_and_losses/{split}/{row['target']}", "| a table |", 7)


def check_safe(text: str) -> Reader:
    """Assert that a page is whole, and that nothing in it runs or comes from elsewhere."""
    reader = Words(text)
    assert reader.open == []
    assert not {tag for tag, _ in reader.elements} & {
        "script",
        "iframe",
        "object",
        "embed",
        "link",
        "base",
        "form",
        "use",
    }
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in reader.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("srcset", "action", "style") or value in ("margin:0", "margin-top:20px")
            if name == "src":
                assert tag == "img"
                assert re.match(r"data:image/(png|webp|jpeg|gif);base64,[A-Za-z0-9+/=]+$", str(value))
            if name == "href":
                assert str(value)[1:] in ids or re.fullmatch(r"[\w/.%-]+/report\.html", str(value))
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|https?:|//", style)
    markup = "".join(re.findall(r"<[^>]*>", re.sub(r"<(style)>.*?</\1>", "", text, flags=re.S)))
    assert not re.search(r"https?:|url\(", re.sub(r"(alt|title|aria-label)=\"[^\"]*\"", "", markup))
    policy = next(a["content"] for tag, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; style-src 'unsafe-inline'")
    return reader


def test_what_a_run_found_stands_on_its_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.perf_counter()
    assert main(["report", str(run)]) == 0
    assert time.perf_counter() - started < 20
    assert capsys.readouterr().out.strip().endswith("2026-01-02/03-04-05/report.html")
    text = (run / "report.html").read_text(encoding="utf-8")
    reader = check_safe(text)
    words = " ".join(reader.text.split())
    for expected in (
        "2026-01-02/03-04-05", "python train.py data.users=24", "nobody lived them", "run finished", "1 fail",
        "1 warn, 1 pass", "epoch 2 of 2", "It forgets.", "model.forget_bias=chrono", "limit 1 decades",
        "fail since step 39, 2 looks", "1 passed", "AUROC, validation", "remarks", "at *39*", "max_epochs: 2",
        "TensorBoard has more of another kind: histogram",
    ):  # fmt: skip
        assert expected in words, expected
    assert words.index("It forgets.") < words.index("So so.") < words.index("1 passed")
    assert "the table" not in words
    assert "not at hand" not in words
    images = [attributes["src"] for tag, attributes in reader.elements if tag == "img"]
    colours = [Image.open(BytesIO(b64decode(str(each).partition(",")[2]))).getpixel((5, 5)) for each in images]
    assert colours == [(39, 39, 39), (19, 19, 19)], "the newest first"


def test_one_can_page_through_wins_and_losses(run: Path) -> None:
    wins_and_losses(run)
    wins_and_losses(run, split="val", targets=("diabetes",))
    wins_and_losses(run / "fold-1", targets=("diabetes",))
    text = write_report(run).read_text(encoding="utf-8")
    reader = check_safe(text)
    inputs = [attributes for tag, attributes in reader.elements if tag == "input"]
    groups_of: dict[str, list[str]] = {}
    for each in inputs:
        groups_of.setdefault(str(each["name"]), []).append(str(each["id"]))
    assert [len(ids) for ids in groups_of.values()] == [6, 6, 6], "test, two conditions; a fold"
    assert [each["id"] for each in inputs if "checked" in each] == [ids[0] for ids in groups_of.values()]
    labels = [str(attributes["for"]) for tag, attributes in reader.elements if tag == "label"]
    assert set(labels) == {str(each["id"]) for each in inputs}
    for ids in groups_of.values():
        for before, after in pairwise(ids):  # previous and next, and each row of the table
            assert labels.count(before) >= 2
            assert labels.count(after) >= 2
    images = [attributes for tag, attributes in reader.elements if tag == "img" and "user-" in str(attributes["alt"])]
    pixels = [Image.open(BytesIO(b64decode(str(each["src"]).partition(",")[2]))).convert("RGB") for each in images]
    shade = [each.getpixel((5, 5))[0] for each in pixels]  # type: ignore[index]
    assert shade[:12] == list(range(5, 125, 10)), "in the order of the table"
    assert images[1]["alt"] == (
        "diabetes, false positive 2: person user-2, week 01 Jan 2024, score 0.912, label has it not, age 61, "
        "sex female, BMI 27.2, hours worn 101, readings 3,210"
    )
    words = " ".join(reader.text.split())
    assert "6 pictures are left out" in words, "the validation's, whose weeks are in a table"
    assert "diabetes validation; 6 weeks" in words
    assert "1 of 6: false positive, has it not, but is called positive" in words
    assert "a table" not in words
    assert "device" not in words[words.index("Wins and losses The weeks") : words.index("Curves Over")]
    assert words.count("wins_and_losses/") == 0, "their pictures stand here alone"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"kind,rank\nfalse_positive,1\n", "wins_and_losses.csv cannot be read"),
        (b"\xff\xfe", "wins_and_losses.csv cannot be read"),
        (b"", "wins_and_losses.csv cannot be read"),
        (
            b"kind,rank,target,user_id,start,score,value,age,sex,bmi,device,wear_hours,readings\n"
            b"odd,x,t,<b>u</b>,never,nan,2,inf,1e999,x,y,,z\n",
            "<b>u</b>",
        ),
    ],
)  # fmt: skip
def test_odd_tables_of_weeks_are_shown_or_noted(run: Path, content: bytes, said: str) -> None:
    (run / "wins_and_losses.csv").write_bytes(content)
    assert said in words_of(write_report(run).read_text(encoding="utf-8"))


def test_pictures_of_weeks_are_bounded(run: Path) -> None:
    wins_and_losses(run)
    noise = np.random.default_rng(0).integers(0, 255, (3, 1100, 1100)).astype(np.uint8)
    with SummaryWriter(str(run), filename_suffix=".noise") as writer:
        for kind in WINS:
            writer.add_image(f"wins_and_losses/test/diabetes/{kind}/1", noise, 8)
            writer.add_image(f"wins_and_losses/test/diabetes/{kind}/2", noise, 8)
    text = write_report(run).read_text(encoding="utf-8")
    assert len(text) < 8_000_000
    words = words_of(text)
    assert re.search(r"[34] pictures are left out", words)
    assert "false positive 1" in words, "in the table it stays"


def test_scores_are_those_of_scikit_learn(run: Path) -> None:
    text = words_of(write_report(run).read_text(encoding="utf-8"))
    for file, target in (("predictions", "diabetes"), ("predictions_baseline", "hypertension")):
        part = pl.read_parquet(run / f"{file}.parquet").filter(pl.col("target") == target).drop_nulls("value")
        assert f"{roc_auc_score(part['value'], part['score']):.3f}" in text
    assert f"{int(part['value'].sum())} of {len(part)}" in text


def test_the_report_needs_no_torch(run: Path) -> None:
    wins_and_losses(run)
    script = (
        "import sys; from heartnet.cli import main; assert main(['report', sys.argv[1]]) == 0; "
        "assert not {'torch', 'pytorch_lightning', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_that_a_file_says_is_run(tmp_path: Path) -> None:
    folder = tmp_path / "run<script>alert(3)"
    with SummaryWriter(str(folder)) as writer:
        for step in range(3):
            writer.add_scalar(f"{VILE}/loss", step, step)
            writer.add_scalar(f"train/{VILE}", float("nan"), step)
        writer.add_scalar(f"once/{VILE}", 1, 0)
        writer.add_image(VILE, picture(), 0)
        writer.add_text(VILE, VILE, 0)
        writer.add_custom_scalars({VILE: {VILE: ["Multiline", [".*loss", "(", VILE]]}})
    append_jsonl(
        [Finding(VILE, "fail", VILE, 1.0, 2.0, VILE, VILE, (VILE,), step) for step in (1, 2)], folder / "findings.jsonl"
    )
    (folder / "config.yaml").write_text(f"# python train.py {VILE}\ndata: {json.dumps(VILE)}\n")
    (folder / "status.json").write_text(json.dumps({"state": "failed", "at": VILE, "message": VILE}))
    frame = predictions(folder / "predictions.parquet", VILE, 0)
    frame.with_columns(pl.lit(VILE).alias("target")).write_parquet(folder / "predictions.parquet")
    reader = check_safe(write_report(folder).read_text(encoding="utf-8"))
    assert reader.text.count("{{ 7*7 }}") > 10
    assert "<script>alert(1)</script>" in reader.text
    shutil.move(folder, tmp_path / "several" / folder.name)
    check_safe(write_report(tmp_path / "several").read_text(encoding="utf-8"))


def without(*names: str) -> Callable[[Path], None]:
    def remove(run: Path) -> None:
        for name in names:
            for file in run.glob(name):
                file.unlink()

    return remove


def damaged(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (next(run.glob(name), run / name)).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("events*"), "There are no event files"),
        (without("findings.jsonl"), "There are none: no technique"),
        (without("predictions*"), "On the page"),
        (without("config.yaml"), "The folder holds none"),
        (without("status.json"), "01-02/03-04-05"),
        (without("events*", "findings.jsonl", "predictions*", "config.yaml"), "There are no event files"),
        (damaged("events*", b"no events at all"), "damaged at byte 0"),
        (damaged("events*", b""), "No numbers were logged"),
        (damaged("findings.jsonl", b'{"check": 1}\n\xff\xfe\n[]\n' + b"[" * 99_999), "line 1: not a finding"),
        (damaged("predictions.parquet", b"PAR1"), "predictions.parquet cannot be read"),
        (damaged("predictions.parquet", b""), "predictions.parquet cannot be read"),
        (damaged("config.yaml", b"a: !!python/object/apply:os.system [true]\n\xff"), "is no plain YAML"),
        (damaged("config.yaml", b"- 1\n- 2\n"), "- 1"),
        (damaged("config.yaml", b"data:\n  path: /no/where\n"), "are not at hand here"),
        (damaged("config.yaml", b"data: 3\ntrainer: [1]\n1: 2\n"), "trainer: [1]"),
        (damaged("status.json", b'{"state": "odd"}'), "Findings"),
        (damaged("status.json", b"[]"), "Findings"),
    ],
)  # fmt: skip
def test_a_folder_that_lacks_something_still_gets_a_page(run: Path, change: Callable[[Path], None], said: str) -> None:
    change(run)
    text = words_of(write_report(run).read_text(encoding="utf-8"))
    if said != "On the page":
        assert said in text
    assert ("On the test split" in text) == bool(list(run.glob("predictions_baseline*")))


def test_a_run_that_was_killed_keeps_all_whole_entries(run: Path) -> None:
    (file,) = event_files(run)
    whole = read_events([file])
    data = file.read_bytes()
    for cut in range(1, len(data), 97):
        file.write_bytes(data[:cut])
        part = read_events([file])
        for tag, series in part.scalars.items():
            assert np.array_equal(series.values, whole.scalars[tag].values[: len(series.values)])
        assert len(part.noted) <= 1
    flipped = bytearray(data)
    flipped[data.index(b"train/loss", len(data) // 4)] ^= 1
    file.write_bytes(flipped)
    assert re.search(r"damaged at byte [\d,]+; the rest", read_events([file]).noted[0])


def test_a_resumed_run_has_one_curve(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path), filename_suffix=".a") as writer:
        for step in range(30):
            writer.add_scalar("loss", step, step)
            writer.add_image("picture", picture(step), step)
    with SummaryWriter(str(tmp_path), filename_suffix=".b") as writer:
        for step in range(20, 40):
            writer.add_scalar("loss", 100 + step, step)
            writer.add_image("picture", picture(100 + step), step)
            writer.add_scalar("lr", 0.1, step)
    logged = read_events(event_files(tmp_path))
    assert logged.scalars["loss"].steps.tolist() == list(range(40))
    assert logged.scalars["loss"].values.tolist() == [*range(20), *range(120, 140)]
    assert [each.step for each in logged.pictures["picture"]] == list(range(40 - KEPT_PICTURES, 40))
    assert logged.older["picture"] == 40 - KEPT_PICTURES
    assert logged.noted == ["10 logged numbers are left out: a later event file begins again before their step"]


def test_somebody_elses_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A LightningModule that knows nothing of heartnet, with Lightning's own logger and its names."""
    import pytorch_lightning as lightning
    import torch
    from pytorch_lightning.demos.boring_classes import BoringModel
    from pytorch_lightning.loggers import TensorBoardLogger

    class Theirs(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("train_loss", loss["loss"], on_step=True, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("val_loss", super().validation_step(batch, batch_idx)["x"])

    torch.manual_seed(0)
    trainer = lightning.Trainer(
        max_epochs=3, limit_train_batches=5, limit_val_batches=2, log_every_n_steps=1, enable_progress_bar=False,
        logger=TensorBoardLogger(str(tmp_path)), enable_model_summary=False, default_root_dir=str(tmp_path),
    )  # fmt: skip
    with pytest.warns():
        trainer.fit(Theirs())
    assert main(["report", str(trainer.log_dir)]) == 0
    text = check_safe((Path(str(trainer.log_dir)) / "report.html").read_text(encoding="utf-8")).text
    assert "lightning_logs/version_0" in text
    assert "train_loss_step" in text
    assert "lived" not in text
    logged = read_events(event_files(Path(str(trainer.log_dir))))
    (group,) = [each for each in groups(logged.scalars) if each.charts]
    assert [(each.title, sorted(line.tag for line in each.lines)) for each in group.charts] == [
        ("loss", ["train_loss_epoch", "train_loss_step", "val_loss"])
    ]
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 0
    assert 'href="lightning_logs/version_0/report.html"' in (tmp_path / "report.html").read_text()


def test_a_folder_of_several_runs_gets_a_page_that_lists_them(run: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for name, users in (("10", 5), ("2", 7), ("1", 5)):
        shutil.copytree(run, sweep / name)
        config = (run / "config.yaml").read_text()
        (sweep / name / "config.yaml").write_text(config.replace("users=24", f"users={users}") + f"seed: {users}\n")
    (sweep / "multirun.yaml").write_text("hydra: {}\n")
    assert [each.name for each in runs_below(sweep)] == ["1", "2", "10"]
    page = write_report(sweep)
    assert page == sweep / "report.html"
    reader = check_safe(page.read_text(encoding="utf-8"))
    links = [attributes["href"] for tag, attributes in reader.elements if tag == "a"]
    assert links == ["1/report.html", "2/report.html", "10/report.html"]
    assert all((sweep / str(link)).is_file() for link in links)
    words = " ".join(reader.text.split())
    assert "run state findings data.users seed" in words
    assert "2 finished 1 fail 1 warn 7 7" in words
    ages = {each: (sweep / each / "report.html").stat().st_mtime_ns for each in ("1", "2", "10")}
    with (sweep / "2" / "findings.jsonl").open("a") as file:
        file.write("\n")
    write_report(sweep)
    again = {each: (sweep / each / "report.html").stat().st_mtime_ns for each in ages}
    assert [each for each in ages if again[each] != ages[each]] == ["2"], "only what has gone on is drawn anew"
    for name in ("1", "2", "10"):  # a group's name is in no configuration; what it brings is
        file = sweep / name / "config.yaml"
        first, rest = file.read_text().split("\n", 1)
        file.write_text(f"{first} architecture=a{name}\n{rest}")
    words = " ".join(check_safe(write_report(sweep).read_text(encoding="utf-8")).text.split())
    assert "run state findings data.users architecture seed" in words
    assert "2 finished 1 fail 1 warn 7 a2 7" in words
    with pytest.raises(HeartnetError, match=r"holds several runs \(1, 2, 10\)"):
        write_report(sweep, tmp_path / "one.html")


def test_folds_stand_on_the_page_of_their_run(run: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    shutil.copy(run / "config.yaml", whole)
    write_status(whole, "finished")
    for fold in ("fold-0", "fold-1"):
        shutil.copytree(run, whole / fold, ignore=shutil.ignore_patterns("status.json", "config.yaml"))
    text = words_of(write_report(whole).read_text(encoding="utf-8"))
    for expected in (
        "diabetes/last (fold-0, fold-1)",
        "fold-1: diabetes/last",
        "All 2",
        "fold-1/amnesia/profile",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no/such"], "no/such does not exist: name the folder of a run"),
        (["empty"], "empty: no run is in this folder"),
        (["file"], "file is no folder"),
        (["run", "--out", "no/such/page.html"], "no/such does not exist"),
        (["run", "--out", "empty"], "is a folder; --out FILE names a file"),
        (["run", "--out", "file"], "file exists and is no page of heartnet"),
    ],
)
def test_what_cannot_be_done_is_said(
    run: Path,
    tmp_path: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "run").symlink_to(run)
    assert main(["report", *words]) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert output.out == ""
    assert (tmp_path / "file").read_text() == "mine"
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_page_is_replaced_whole_or_not_at_all(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = write_report(run).read_text()

    def full(_: Path, __: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(HeartnetError, match="No space left"):
        write_report(run)
    assert report_if_possible(run) is None
    assert "no report.html was written" in capsys.readouterr().err
    assert (run / "report.html").read_text() == before
    assert not list(run.glob("*partial*"))


def test_a_page_stays_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(3):
            for number in range(6):
                writer.add_image(f"noise/{number}", rng.integers(0, 255, (3, 250, 250), dtype=np.uint8), step)
        writer.add_image("huge", rng.integers(0, 255, (3, 1300, 1300), dtype=np.uint8), 0)
        for step in range(400):
            writer.add_scalars("many", {str(n): float(rng.random()) for n in range(3)}, step)
        for number in range(1300):
            for step in range(2):
                writer.add_scalar(f"layer-{number}", rng.random(), step)
        writer.add_text("long", "<" * 400_000)
    append_jsonl([finding(where=f"layer-{n}", message="&" * 3000) for n in range(3000)], tmp_path / "findings.jsonl")
    (tmp_path / "config.yaml").write_text(f"# python train.py\nlong: {'<' * 300_000}\n")
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    words = words_of(text)
    for expected in (
        "2,600 more, none worse than these",
        "are left out, to bound the size",
        "Cut off here.",
        "(cut off)",
        " MB) loads nothing",
    ):
        assert expected in words, expected
    shown_tags = re.findall(r'<img src="data:[^"]*" alt="([^"]*)"', text)
    assert {"noise/0 at step 2", "noise/5 at step 2"} <= set(shown_tags)
    assert "huge at step 0" not in shown_tags
    assert "many_0" in words


numbers = st.one_of(st.floats(), st.floats(-5, 5), st.sampled_from([0.0, 1e308, -1e308, 5e-324, math.nan, math.inf]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 2**40), numbers), min_size=1, max_size=20), min_size=1, max_size=3))
def test_any_numbers_are_drawn_within_the_axes(lines: list[list[tuple[int, float]]]) -> None:
    series = {}
    for number, points in enumerate(lines):
        unique = sorted(dict(points).items())
        series[f"a/{number}"] = Series(
            np.array([step for step, _ in unique], dtype=np.int64),
            np.array([value for _, value in unique], dtype=float),
        )
    drawn = chart("title", series, reference=(0.5, "chance"))
    assert [line.tag for line in drawn.lines] == list(series)
    for line, each in zip(drawn.lines, series.values(), strict=True):
        places = [float(n) for n in re.findall(r"-?[\d.]+", line.path)]
        assert all(-0.1 <= place <= WIDTH + 0.1 for place in places[::2])
        assert all(-0.1 <= place <= HEIGHT + 0.1 for place in places[1::2])
        assert "nan" not in line.path + line.lost
        finite = int(np.isfinite(each.values).sum())
        assert bool(line.remark) == (finite < len(each.values))
        assert len(line.dot) == finite, "each point of a short line is marked"
    assert all(-0.1 <= place <= HEIGHT + 0.1 for place, _ in drawn.up)
    assert all(-0.1 <= place <= WIDTH + 0.1 for place, _ in drawn.across)
    assert 1 <= len(drawn.up) <= 8
    assert 1 <= len(drawn.across) <= 8


def test_a_line_lies_where_its_axis_says() -> None:
    drawn = chart("t", {"x": Series(np.array([0, 10, 20]), np.array([1.0, 3.0, 2.0]))})
    places = np.array([[float(n) for n in pair.split()] for pair in drawn.lines[0].path[1:].split("L")])
    up = {float(label): place for place, label in drawn.up}
    across = {float(label): place for place, label in drawn.across}
    slope = (up[3.0] - up[1.0]) / 2
    assert np.allclose(places[:, 1], [up[1.0] + (value - 1) * slope for value in (1, 3, 2)], atol=0.06)
    assert np.allclose(places[:, 0], [across[0.0], across[10.0], across[20.0]], atol=0.06)
    wide = chart("t", {"x": Series(np.arange(4), np.array([1e-6, 1e-3, 1.0, 1e3]))})
    assert wide.log
    heights = [float(pair.split()[1]) for pair in wide.lines[0].path[1:].split("L")]
    assert np.allclose(np.diff(heights), np.diff(heights)[0], atol=0.11), "equal ratios, equal distances"


@pytest.mark.parametrize("low", [0.0, -3.3, 1234.5])
def test_axes_have_round_and_different_labels(low: float) -> None:
    for span in np.geomspace(1e-3, 1e4, 300):
        drawn = chart("t", {"x": Series(np.arange(2), np.array([low, low + span]))})
        labels = [label for _, label in drawn.up]
        assert 2 <= len(set(labels)) == len(labels) <= 6
        places = [(1 - at / HEIGHT) for at, _ in drawn.up]
        for place, label in zip(places, labels, strict=True):
            value = low - 0.06 * span + place * 1.12 * span
            if not drawn.log:
                assert float(label.replace("−", "-").replace(",", "")) == pytest.approx(value, abs=1e-3 * span)


def test_a_long_line_is_its_mean_within_its_extremes() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=30_000)
    values[15_000:15_200] = np.nan
    drawn = chart("t", {"x": Series(np.arange(30_000), values)})
    (line,) = drawn.lines
    assert line.path.count("M") == 2, "a gap where nothing is finite"
    assert 290 <= line.path.count("L") + 2 <= 300
    assert line.remark == "200 not finite, the first at step 15,000"
    band = [float(n) for n in re.findall(r"-?[\d.]+", line.band)][1::2]
    finite = values[np.isfinite(values)]
    margin = 0.06 * np.ptp(finite)
    for value, place in ((finite.max(), min(band)), (finite.min(), max(band))):
        assert place == pytest.approx(
            HEIGHT * (1 - (value - finite.min() + margin) / (np.ptp(finite) + 2 * margin)), abs=0.1
        )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12, "12"), (0.12345, "0.123"), (-3.21, "−3.21"), (1234.5, "1,234"), (123456, "123 k"), (2.5e6, "2.5 M"),
     (1e12, "1e12"), (3.1e-7, "3.1e−7"), (math.nan, "NaN"), (-math.inf, "−∞"), (999.7, "1e+03")][:-1],
)  # fmt: skip
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_labels_are_what_differs() -> None:
    assert list(short_labels(["val/auroc/a", "val/auroc/b"]).values()) == ["a", "b"]
    assert list(short_labels(["train/mean/x", "val/mean/y"]).values()) == ["train/x", "val/y"]
    assert list(short_labels(["a/b", "a/b/c"]).values()) == ["b", "b/c"]
    assert list(short_labels(["train/loss"]).values()) == ["loss"]
    assert list(short_labels(["train_loss", "val_loss"]).values()) == ["train_loss", "val_loss"]


def test_what_no_layout_speaks_of_stands_together_by_what_it_measures() -> None:
    def titles(*tags: str) -> dict[str, dict[str, list[str]]]:
        series = Series(np.arange(2), np.arange(2.0))
        return {
            group.title: {each.title: [line.label for line in each.lines] for each in group.charts}
            for group in groups(dict.fromkeys(tags, series))
        }

    assert titles("lr-Adam", "val/loss", "train/loss", "val/f1/a") == {
        "training": {"loss": ["val", "train"], "f1/a": ["a"]}, "others": {"lr-Adam": ["lr-Adam"]}
    }  # fmt: skip
    layers = [f"conv{i}" for i in range(5)]
    assert titles(*(f"dead/{layer}/{what}" for layer in layers for what in ("share", "norm"))) == {
        "dead": {"share": layers, "norm": layers}
    }
    assert titles(*(f"health/{what}/{layer}" for layer in layers for what in ("share", "norm")), "health/all") == {
        "health": {"share": layers, "norm": layers, "health/all": ["all"]}
    }
    many = [f"m/a/{i}" for i in range(30)] + ["m/b/0"]
    (group,) = groups(dict.fromkeys(many, Series(np.arange(2), np.arange(2.0))), (("x", (("y", ("m/",)),)),))
    assert [each.title for each in group.charts] == ["y: a (1 of 3)", "y: a (2 of 3)", "y: a (3 of 3)", "y: b"]
    assert sorted(line.tag for each in group.charts for line in each.lines) == sorted(many)


def test_a_figure_keeps_its_colours_in_fewer_bytes() -> None:
    """Against the figure itself: a heatmap's pale tones and its white stay, as does what a picture of noise holds."""
    figure = Figure(figsize=(9, 6), dpi=100)
    walk = np.cumsum(np.random.default_rng(0).normal(size=(40, 300)), axis=1)
    ax = figure.subplots()
    ax.imshow(walk / np.abs(walk).max(), cmap="RdBu", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    ax.set_title("activation, before and after")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    logged = Logged(pictures={"a": [encoded(pixels, 0), encoded(pixels, 5)], "noise": [encoded(noise, 5)]})
    shown = gallery({"": logged}, 5_000_000).parts[""]
    assert [each.step for each in shown["a"]] == [5, 0]
    few = decoded(shown["a"][0].data)
    assert len(shown["a"][0].data) * 3 / 4 < shown["a"][0].bytes * 0.4
    assert np.abs(few.astype(int) - pixels).max() <= 12
    assert np.abs(few.astype(int) - pixels).mean() < 1
    assert (few[pixels.min(axis=-1) == 255] == 255).all()
    assert np.array_equal(decoded(shown["noise"][0].data), noise)


def test_the_newest_of_all_folds_come_before_older_ones() -> None:
    one = encoded(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8), 0)
    pictures = [replace(one, step=step) for step in range(3)]
    parts = {f"fold-{n}": Logged(pictures={"a": pictures, "b": pictures}, older={"a": 7}) for n in range(2)}
    found = gallery(parts, 5 * len(one.data) + 200)
    data = [[[bool(each.data) for each in shown] for shown in tags.values()] for tags in found.parts.values()]
    assert data == [[[True, True, False], [True, False, False]], [[True, False, False], [True, False, False]]]
    assert found.left_out == 7 + 7 + 7
    broken = gallery({"": Logged(pictures={"a": [replace(one, data=one.data[:90])]})}, 10**6)
    assert len(broken.parts[""]["a"][0].data) > 90, "a browser may make more of it"


def encoded(pixels: np.ndarray[Any, Any], step: int) -> Picture:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return Picture(step, "png", stream.getvalue())


def decoded(data: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(BytesIO(b64decode(data.partition(",")[2]))).convert("RGB"))


def test_history_of_a_finding() -> None:
    looks = [
        finding("pass", step=0, value=0.5),
        finding("warn", step=5, value=2.0),
        finding("warn", step=9, value=None),
    ]
    ((row,), left_out) = shown([*looks, finding("warn", step=12, value=1.5)])
    (each,) = row.members
    assert left_out == 0
    assert (each.looks, each.since, each.value, each.limit) == (4, 5, "1.5 decades", "1 decades")
    assert [status for _, _, status in each.dots] == ["pass", "warn", "warn"]
    heights = [y for _, y, _ in each.dots]
    assert heights[0] > each.limit_at > heights[2] > heights[1]  # type: ignore[operator]


def test_status_of_a_run(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    write_status(tmp_path, "running")
    write_status(tmp_path, "failed", "no memory\nleft")
    status = read_status(tmp_path)
    assert status is not None
    assert (status.state, status.message) == ("failed", "no memory\nleft")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
