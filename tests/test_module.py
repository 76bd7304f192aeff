"""Loss and scores against NumPy and scikit-learn; a run that is resumed is the same run; checkpoints."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score, roc_auc_score
from torch import Tensor

from heartnet.datamodule import WeeksDataModule
from heartnet.errors import HeartnetError
from heartnet.metrics import TargetScores
from heartnet.model import DeepHeart
from heartnet.module import HeartnetModule, load_checkpoint, one_cycle
from heartnet.tasks import Conditions, Synthetic, Task
from heartnet.weeks import Weeks

pytestmark = [
    # Lightning's advice on workers for the loader and on logging intervals, and its use of an older pytree.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

MakeWeeks = Callable[..., Weeks]


@pytest.fixture
def data(make_weeks: MakeWeeks) -> WeeksDataModule:
    return data_of(make_weeks())


def data_of(weeks: Weeks, task: Task | None = None, **options: Any) -> WeeksDataModule:
    return WeeksDataModule(weeks, task or Conditions(), **{"batch_size": 4, "val_share": 0.2, "seed": 5} | options)


def module_of(data: WeeksDataModule, model: dict[str, Any] | None = None, **options: Any) -> HeartnetModule:
    small: dict[str, Any] = {
        "conv_units": 8, "lstm_units": 4, "lstm_layers": 2, "kernel_sizes": (4, 3), "dropout": 0.3, "longest": 30,
    }  # fmt: skip
    network = DeepHeart(data.channels, len(data.targets), data.metadata_size, **small | (model or {}))
    mean, std = data.target_statistics()
    return HeartnetModule(
        network,
        kind=data.task.kind,
        targets=data.targets,
        target_mean=mean.tolist(),
        target_std=std.tolist(),
        scaling=data.scaling.as_dict(),
        **{"learning_rate": 0.01, "seed": 5} | options,
    )


def trainer_of(folder: Path, *callbacks: Callback, **options: Any) -> lightning.Trainer:
    keep = ModelCheckpoint(dirpath=folder / "checkpoints", filename="last", enable_version_counter=False)
    return lightning.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*callbacks, keep], **{"max_epochs": 4} | options,
    )  # fmt: skip


def plain(kind: str, count: int = 2, **options: Any) -> HeartnetModule:
    """Return a module of which only the loss and the scores matter."""
    numbers: dict[str, Any] = {"target_mean": [0.3] * count, "target_std": [2.0] * count} | options
    one = [0.0] * 3
    scaling = {"mean": one, "std": [1.0] * 3, "metadata_mean": one, "metadata_std": [1.0] * 3}
    network = DeepHeart(3, count, conv_units=8, lstm_units=4, lstm_layers=1)
    return HeartnetModule(network, kind=kind, targets=[f"t{i}" for i in range(count)], scaling=scaling, **numbers)


# Loss


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["conditions", "synthetic"]),
    batch=st.integers(1, 9),
    missing=st.floats(0, 1),
    scale=st.sampled_from([1.0, 30.0]),
    seed=st.integers(0, 2**31),
)
def test_loss_against_numpy(kind: str, batch: int, missing: float, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.normal(0, scale, (batch, 2))
    mean, std = rng.normal(size=2), rng.uniform(0.5, 3, 2)
    targets = rng.integers(0, 2, (batch, 2)).astype(float) if kind == "conditions" else rng.normal(size=(batch, 2))
    targets[rng.random((batch, 2)) < missing] = np.nan
    losses = []
    for s, y, m, d in zip(score.ravel(), targets.ravel(), np.tile(mean, batch), np.tile(std, batch), strict=True):
        if math.isnan(y):
            continue
        if kind == "conditions":
            losses.append(y * np.logaddexp(0, -s) + (1 - y) * np.logaddexp(0, s))
        else:
            losses.append((s - (y - m) / d) ** 2)
    expected = sum(losses) / len(losses) if losses else 0.0
    module = plain(kind, target_mean=mean.tolist(), target_std=std.tolist())
    logits = torch.tensor(score, dtype=torch.float32, requires_grad=True)
    loss = module.loss(logits, torch.tensor(targets, dtype=torch.float32))
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[torch.tensor(np.isnan(targets))] == 0).all()


@pytest.mark.parametrize("kind", ["conditions", "synthetic"])
def test_a_batch_without_labels_has_no_loss_and_finite_gradients(kind: str) -> None:
    module = plain(kind)
    batch = {"inputs": torch.randn(2, 9, 3), "lengths": torch.tensor([9, 4]), "metadata": torch.zeros(2, 0)}
    loss = module.loss(module(batch).score, torch.full((2, 2), torch.nan))
    loss.backward()
    assert loss.item() == 0
    gradients = [weight.grad for weight in module.parameters()]
    assert all(gradient is not None and (gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("readout", ["mean", "last", "midpoint", "both_ends"])
def test_scores_start_at_the_base_rates(data: WeeksDataModule, readout: str) -> None:
    module = module_of(data, {"readout": readout}).eval()
    rates, _ = data.target_statistics()
    with torch.no_grad():
        module.network.head.weight.zero_()
    batch = data.batch(data.rows["train"])
    scores = module.natural(module(batch).score)
    np.testing.assert_allclose(scores.detach(), np.tile(rates, (len(scores), 1)), rtol=1e-5)
    values = data.values[data.rows["train"]]
    known = ~np.isnan(values)
    entropy = -np.where(values == 1, np.log(rates), np.log1p(-rates))[known]
    assert module.loss(module(batch).score, batch["targets"]).item() == pytest.approx(entropy.mean(), rel=1e-5)


def test_base_rates_of_zero_and_one_start_at_finite_scores() -> None:
    bias = plain("conditions", target_mean=[0.0, 1.0]).network.head.bias
    assert bias.tolist() == pytest.approx([math.log(0.001 / 0.999), math.log(0.999 / 0.001)], rel=1e-3)


def test_natural_units() -> None:
    score = torch.tensor([[0.0, math.log(3.0)]])
    assert plain("conditions").natural(score)[0].tolist() == pytest.approx([0.5, 0.75])
    module = plain("synthetic", target_mean=[10.0, -1.0], target_std=[2.0, 5.0])
    assert module.natural(score)[0].tolist() == pytest.approx([10.0, 5 * math.log(3.0) - 1])


# Scores


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["conditions", "synthetic"]),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    missing=st.floats(0, 0.9),
    seed=st.integers(0, 2**31),
)
def test_scores_against_scikit_learn(kind: str, sizes: list[int], missing: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = sum(sizes)
    scores = rng.random((count, 2)).round(1).astype(np.float32)  # with ties
    values = rng.integers(0, 2, (count, 2)) if kind == "conditions" else rng.normal(size=(count, 2))
    values = values.astype(np.float32)
    values[rng.random((count, 2)) < missing] = np.nan
    metric = TargetScores(kind, ("a", "b"))
    losses = rng.random(len(sizes)).astype(np.float32)
    for rows, loss in zip(np.split(np.arange(count), np.cumsum(sizes)[:-1]), losses, strict=True):
        metric.update(torch.from_numpy(scores[rows]), torch.from_numpy(values[rows]), torch.tensor(loss))
    expected = {"loss": np.average(losses, weights=sizes)}
    for i, name in enumerate(("a", "b")):
        known = ~np.isnan(values[:, i])
        value, score = values[known, i], scores[known, i]
        if kind == "conditions" and len(set(value.tolist())) == 2:
            expected[f"auroc/{name}"] = roc_auc_score(value, score)
            expected[f"average_precision/{name}"] = average_precision_score(value, score)
        if kind == "synthetic" and len(value) >= 1:
            expected[f"mae/{name}"] = mean_absolute_error(value, score)
        if kind == "synthetic" and len(value) >= 2:
            expected[f"r2/{name}"] = r2_score(value, score)
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
@pytest.mark.parametrize("kind", ["conditions", "synthetic"])
def test_what_is_not_defined_is_left_out(kind: str, value: float) -> None:
    metric = TargetScores(kind, ("a",))
    assert metric.compute() == {}
    metric.update(torch.rand(5, 1), torch.full((5, 1), value), torch.tensor(1.0))
    left = {"mae/a"} if kind == "synthetic" and not math.isnan(value) else set()
    assert set(metric.compute()) == {"loss"} | left
    metric.reset()
    assert metric.compute() == {}


test_what_is_not_defined_is_left_out = pytest.mark.filterwarnings(
    "ignore:The ``compute`` method of metric TargetScores was called before"
)(test_what_is_not_defined_is_left_out)


@pytest.mark.parametrize("kind", ["conditions", "synthetic"])
def test_a_test_keeps_what_was_predicted(make_weeks: MakeWeeks, tmp_path: Path, kind: str) -> None:
    long = {"shortest": 150, "longest": 200}
    data = data_of(make_weeks()) if kind == "conditions" else data_of(make_weeks(**long), Synthetic())
    module = module_of(data, {"pool": 4})
    trainer = trainer_of(tmp_path)
    logged = trainer.test(module, datamodule=data, verbose=False)[0]
    rows = data.rows["test"]
    assert sorted(module.test_rows.tolist()) == rows.tolist()
    for row, scores in zip(module.test_rows, module.test_scores, strict=True):
        with torch.no_grad():
            expected = module.natural(module.eval()(data.batch(np.array([row]))).score)[0]
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    values = data.values[module.test_rows]
    for i, name in enumerate(data.targets):
        known = ~np.isnan(values[:, i])
        value, score = values[known, i], module.test_scores[known, i]
        if kind == "synthetic":
            assert logged[f"test/mae/{name}"] == pytest.approx(np.abs(value - score).mean(), rel=1e-4)
        elif 0 < value.sum() < len(value):
            assert logged[f"test/auroc/{name}"] == pytest.approx(roc_auc_score(value, score), rel=1e-4)


# Training


def test_the_schedule() -> None:
    factors = [one_cycle(step, 100) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    for step in range(10, 101):
        assert factors[step] == pytest.approx(0.5 * (1 + math.cos(math.pi * (step - 10) / 90)), abs=1e-12)
    assert all(0 <= one_cycle(step, 1) <= 1 for step in range(3))


def test_the_learning_rate_follows_the_schedule(data: WeeksDataModule, tmp_path: Path) -> None:
    class Rates(Callback):
        seen: list[float] = []  # noqa: RUF012

        def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
            self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    rates = Rates()
    trainer = trainer_of(tmp_path, rates, max_epochs=2)
    trainer.fit(module_of(data), datamodule=data)
    steps = trainer.global_step
    assert rates.seen == pytest.approx([0.01 * one_cycle(step, steps) for step in range(steps)])
    rates.seen.clear()
    trainer_of(tmp_path, rates, max_epochs=1).fit(module_of(data, schedule="constant"), datamodule=data)
    assert set(rates.seen) == {0.01}


def test_training_learns(make_weeks: MakeWeeks, tmp_path: Path) -> None:
    weeks = make_weeks(users=30, missing=0.0)
    level = np.array([weeks.week(i)[:, 0].mean() for i in range(len(weeks))])
    data = data_of(weeks, batch_size=16)
    data.values[:] = (level > np.median(level))[:, None]
    torch.manual_seed(0)
    module = module_of(data, {"dropout": 0.0}, learning_rate=0.02)
    trainer = trainer_of(tmp_path, max_epochs=15)
    trainer.fit(module, datamodule=data)
    assert trainer.callback_metrics["val/auroc/diabetes"] > 0.8


class StoppedError(Exception):
    """Stands for whatever ends a run in the middle."""


class StopAt(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        if trainer.current_epoch == self.epoch:
            raise StoppedError


class Order(Callback):
    """Notes which weeks came in which order, and the loss of each batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[int], float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        del trainer, pl_module, batch_idx
        self.batches.append((batch["index"].tolist(), outputs["loss"].item()))


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
def test_a_resumed_run_is_the_same_run(make_weeks: MakeWeeks, tmp_path: Path, schedule: str) -> None:
    weeks = make_weeks()
    options: dict[str, Any] = {"schedule": schedule, "augmentation": {"level": 0.3, "gain": 0.2, "ectopy": 0.1}}

    def start(seed: int) -> tuple[HeartnetModule, WeeksDataModule]:
        torch.manual_seed(seed)
        data = data_of(weeks)
        return module_of(data, **options), data

    straight, data = start(1)
    whole = Order()
    trainer_of(tmp_path / "straight", whole).fit(straight, datamodule=data)

    broken, data = start(1)
    with pytest.raises(StoppedError):
        trainer_of(tmp_path / "resumed", StopAt(2)).fit(broken, datamodule=data)
    torch.manual_seed(77)  # another process, in another state
    resumed, data = start(2)
    rest = Order()
    last = tmp_path / "resumed" / "checkpoints" / "last.ckpt"
    trainer = trainer_of(tmp_path / "resumed", rest)
    trainer.fit(resumed, datamodule=data, ckpt_path=str(last))

    assert trainer.current_epoch == 4
    assert rest.batches == whole.batches[len(whole.batches) // 2 :]
    ended = resumed.state_dict()
    assert [name for name, weight in straight.state_dict().items() if not torch.equal(weight, ended[name])] == []
    assert not torch.equal(straight.network.head.weight, broken.network.head.weight)


def test_a_seed_decides_dropout_and_order(make_weeks: MakeWeeks, tmp_path: Path) -> None:
    def losses(seed: int, between: int) -> list[tuple[list[int], float]]:
        torch.manual_seed(0)
        data = data_of(make_weeks(), seed=seed)
        module = module_of(data, seed=seed)
        torch.manual_seed(between)
        order = Order()
        trainer_of(tmp_path, order, max_epochs=1, enable_checkpointing=True).fit(module, datamodule=data)
        return order.batches

    assert losses(0, 1) == losses(0, 2)
    assert losses(0, 1) != losses(1, 1)


def test_each_validation_starts_anew(data: WeeksDataModule, tmp_path: Path) -> None:
    class Counted(TargetScores):
        def compute(self) -> dict[str, Tensor]:
            seen.append(sum(map(len, self.values)))
            return super().compute()

    seen: list[int] = []
    module = module_of(data)
    module.scores["val"] = Counted("conditions", data.targets)
    trainer_of(tmp_path, max_epochs=3, num_sanity_val_steps=0).fit(module, datamodule=data)
    assert seen == [len(data.rows["val"])] * 3


@pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero")
def test_training_without_validation(make_weeks: MakeWeeks, tmp_path: Path) -> None:
    data = data_of(make_weeks(), val_share=0.0)
    trainer_of(tmp_path, max_epochs=1).fit(module_of(data), datamodule=data)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_precisions(data: WeeksDataModule, tmp_path: Path, precision: str) -> None:
    order = Order()
    module = module_of(data, {"pool": 2})
    trainer_of(tmp_path, order, max_epochs=1, precision=precision).fit(module, datamodule=data)
    assert all(math.isfinite(loss) for _, loss in order.batches)
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in module.parameters())


def test_sixteen_bits_score_alike(data: WeeksDataModule) -> None:
    module = module_of(data).eval()
    batch = data.batch(data.rows["test"])
    with torch.no_grad():
        exact = module.natural(module(batch).score)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = module.natural(module(batch).score.float())
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)


def test_the_probe_calls_the_network_as_training_does(make_weeks: MakeWeeks) -> None:
    data = data_of(make_weeks(), mask_channel=True)
    module = module_of(data).eval()
    batch = data.batch(data.rows["train"][:3])
    probe = module.probe(batch)
    assert probe.channels == ("heart_rate", "steps", "dt", "missing")
    assert probe.outputs == data.targets
    with torch.no_grad():
        assert torch.equal(probe.network(probe.inputs, *probe.rest).score, module(batch).score)
    week = data.weeks.week(batch["index"][0].item())[1:, 2]
    known = ~np.isnan(week)
    assert probe.dt is not None
    np.testing.assert_allclose(probe.dt[0, 1 : 1 + len(week)][torch.from_numpy(known)], week[known], rtol=1e-4)


# Checkpoints


@pytest.fixture(scope="module")
def checkpoint(make_weeks: MakeWeeks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = data_of(make_weeks())
    trainer_of(folder, max_epochs=1).fit(module_of(data, {"metadata": "lstm_state"}), datamodule=data)
    return folder / "checkpoints" / "last.ckpt"


def test_a_checkpoint_gives_the_same_scores(make_weeks: MakeWeeks, tmp_path: Path) -> None:
    for task, options in ((Conditions(), {}), (Synthetic(), {"shortest": 150, "longest": 200})):
        data = data_of(make_weeks(**options), task)
        module = module_of(data, {"pool": 2, "readout": "both_ends", "forget_bias": 1.5, "metadata": "lstm_state"})
        trainer = trainer_of(tmp_path / task.kind, max_epochs=1)
        trainer.fit(module, datamodule=data)
        again = HeartnetModule.from_checkpoint(tmp_path / task.kind / "checkpoints" / "last.ckpt")
        batch = data.batch(data.rows["test"])
        assert not again.training
        with torch.no_grad():
            expected = module.eval().natural(module(batch).score)
            assert torch.equal(again.predict_step(batch, 0)["scores"], expected)
        assert (again.targets, again.kind, again.scaling) == (module.targets, module.kind, module.scaling)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ({"lstm_units": 5}, {}, r"the checkpoint's arguments\.lstm_units is 4, this run's is 5"),
        ({"readout": "last"}, {}, r"the checkpoint's arguments\.readout is mean, this run's is last"),
        ({}, {"users": 13}, r"the checkpoint's scaling\."),
        ({}, {"conditions": ("sleep_apnea", "hypertension")}, r"the checkpoint's targets is .*diabetes.*hypertension"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    make_weeks: MakeWeeks, checkpoint: Path, tmp_path: Path, model: dict[str, Any], options: Any, words: str
) -> None:
    data = data_of(make_weeks(**options))
    module = module_of(data, {"metadata": "lstm_state"} | model)
    with pytest.raises(HeartnetError, match=words):
        trainer_of(tmp_path).fit(module, datamodule=data, ckpt_path=str(checkpoint))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"learning_rate": 0.5}, r"the checkpoint's module\.learning_rate is .*, this run's is 0\.5"),
        ({"seed": 7}, r"the checkpoint's module\.seed is .*, this run's is 7"),
    ],
)
def test_a_checkpoint_of_other_training_is_refused(
    data: WeeksDataModule, checkpoint: Path, option: dict[str, Any], words: str
) -> None:
    module = module_of(data, {"metadata": "lstm_state"})
    for name, value in option.items():
        setattr(module, name, value)
    with pytest.raises(HeartnetError, match=words):
        module.on_load_checkpoint(torch.load(checkpoint))


@pytest.mark.parametrize("lost", ["optimizer_states", "loops", "state_dict"])
def test_an_incomplete_checkpoint_is_refused(data: WeeksDataModule, checkpoint: Path, lost: str) -> None:
    saved = {name: value for name, value in torch.load(checkpoint).items() if name != lost}
    with pytest.raises(HeartnetError, match=f"the checkpoint lacks {lost}, so training cannot go on"):
        module_of(data, {"metadata": "lstm_state"}).on_load_checkpoint(saved)


def test_a_checkpoint_from_elsewhere_is_refused(data: WeeksDataModule, checkpoint: Path, tmp_path: Path) -> None:
    foreign = {name: value for name, value in torch.load(checkpoint).items() if name != "heartnet"}
    torch.save(foreign, tmp_path / "foreign.ckpt")
    with pytest.raises(HeartnetError, match="not written by heartnet"):
        trainer_of(tmp_path).fit(module_of(data), datamodule=data, ckpt_path=str(tmp_path / "foreign.ckpt"))
    with pytest.raises(HeartnetError, match=r"foreign\.ckpt: a checkpoint, but not one that heartnet wrote"):
        HeartnetModule.from_checkpoint(tmp_path / "foreign.ckpt")


def without(*path: str) -> Callable[[dict[str, Any]], object]:
    def change(saved: dict[str, Any]) -> None:
        for name in path[:-1]:
            saved = saved[name]
        del saved[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda saved: saved["heartnet"].update(architecture="os.system"), "architecture 'os.system' is not known"),
        (lambda saved: saved["heartnet"]["arguments"].update(lstm_units=3), "damaged checkpoint.*RuntimeError"),
        (lambda saved: saved["heartnet"]["arguments"].update(shell="rm"), "damaged checkpoint.*TypeError"),
        (lambda saved: saved["heartnet"]["arguments"].update(readout="x"), "damaged checkpoint.*readout=x"),
        (lambda saved: saved.update(heartnet="yes"), "not one that heartnet wrote"),
        (without("heartnet", "architecture"), "architecture None is not known"),
        (without("heartnet", "targets"), "damaged checkpoint.*KeyError: 'targets'"),
        (without("heartnet", "scaling", "std"), "damaged checkpoint.*std"),
        (without("state_dict"), "damaged checkpoint.*KeyError: 'state_dict'"),
        (without("state_dict", "network.head.bias"), r"(?s)damaged checkpoint.*network\.head\.bias"),
    ],
)
def test_damaged_checkpoints_are_said(checkpoint: Path, tmp_path: Path, change: Any, words: str) -> None:
    saved = torch.load(checkpoint)
    change(saved)
    torch.save(saved, tmp_path / "damaged.ckpt")
    with pytest.raises(HeartnetError, match=words):
        HeartnetModule.from_checkpoint(tmp_path / "damaged.ckpt")


def test_other_weights_in_a_checkpoint_are_noticed(checkpoint: Path, tmp_path: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    weights = next(iter(torch.load(checkpoint)["state_dict"].values())).numpy().tobytes()
    content[content.index(weights)] ^= 1
    (tmp_path / "flipped.ckpt").write_bytes(content)
    with pytest.raises(HeartnetError, match=r"flipped\.ckpt: not a checkpoint that can be read .* match its checksum"):
        load_checkpoint(tmp_path / "flipped.ckpt")


class Malicious:
    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return Path.touch, (self.sign,)


def test_files_that_are_no_checkpoints_are_refused_and_never_run(checkpoint: Path, tmp_path: Path) -> None:
    sign, bad = tmp_path / "was-run", tmp_path / "bad.ckpt"
    content = checkpoint.read_bytes()
    with bad.open("wb") as file:
        torch.save({"heartnet": Malicious(sign)}, file)
    evil = bad.read_bytes()
    for written in (b"", b"garbage", content[: len(content) // 2], evil, pickle.dumps(Malicious(sign))):
        bad.write_bytes(written)
        with pytest.raises(HeartnetError, match=r"bad\.ckpt: not a checkpoint that can be read"):
            load_checkpoint(bad)
        assert not sign.exists()
    with pytest.raises(HeartnetError, match="no such checkpoint"):
        HeartnetModule.from_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(HeartnetError, match="no such checkpoint"):
        HeartnetModule.from_checkpoint(tmp_path)


def test_other_values_in_a_file_are_no_checkpoint(tmp_path: Path) -> None:
    value: Any
    for value in (torch.zeros(3), [1, 2], {"weights": torch.zeros(2)}):
        torch.save(value, tmp_path / "other.ckpt")
        with pytest.raises(HeartnetError, match="not one that heartnet wrote"):
            load_checkpoint(tmp_path / "other.ckpt")
