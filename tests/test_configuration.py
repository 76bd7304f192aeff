"""The configuration: it names every argument with its default, composes, and explains what does not fit."""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import hydra
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import train
from heartnet.arguments import argument_hints, check_arguments, check_value
from heartnet.configuration import CONF, NODES, check, options_of
from heartnet.errors import HeartnetError
from heartnet.network_inputs import VIEWS

EXPERIMENTS = options_of("experiment")
CALLBACKS = [name for name in options_of("callbacks") if name != "all"]
BY_NAME = {"overfit_check", "preflight", "synthetic_pretraining"}
"""Not in `+callbacks=all`: minutes of training a copy, looks that others in it make too, other weights."""


def compose(*overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True)


def refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run `train.py` with arguments that cannot work; return what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    assert train.main() == 2
    assert list(tmp_path.iterdir()) == []
    output = capsys.readouterr()
    assert output.err.startswith("train.py: ")
    assert "Traceback" not in output.err
    assert len(output.err.splitlines()) == 1
    return output.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("model.readuot=last", ["model.readuot: no such key; model has conv_units", "'readout'?"]),
        ("+model.readuot=last", ["model.readuot: DeepHeart takes no such argument", "'readout'?"]),
        ("model=compact model.convunits=3", ["model.convunits", "'conv_units'?"]),
        ("mdoel=compact", ["mdoel: no such key; there are ", "'model'?"]),
        ("+mdoel=compact", ["mdoel: no such option", "'model'?"]),
        ("model=compcat", ["model=compcat: there is no such file", "compact, deepheart", "'compact'?"]),
        ("+callbacks=amnesai", ["callbacks=amnesai", "amnesia, baseline", "'amnesia'?"]),
        ("+callbacks=[baseline,amnesai]", ["callbacks=amnesai", "'amnesia'?"]),
        ("callbacks=amnesia", ["with a plus: '+callbacks=[amnesia]'"]),
        ("callbacks=[amnesia,baseline]", ["with a plus: '+callbacks=[amnesia,baseline]'"]),
        ("+callbacks=amnesia,baseline", ["needs -m", "'+callbacks=[amnesia,baseline]'"]),
        ("callbacks.amnesia.every_n_epochs=1", ["not switched on; add +callbacks=", "'amnesia'?"]),
        ("callbacks.amnesai.every_n_epochs=1", ["not switched on; add +callbacks=", "'amnesia'?"]),
        ("+callbacks=baseline callbacks.amnesia.every_n_epochs=1", ["not switched on; add +callbacks="]),
        ("+callbacks=amnesia callbacks.amnesia.every=1", ["callbacks.amnesia has every_n_epochs", "'every_n_epochs'?"]),
        (
            "+callbacks.amnesia.every_n_epochs=2",
            ["callbacks.amnesia has no _target_", "+callbacks=…; there are activation_heatmap, all, "],
        ),
        ("callbacks=[amnesia] +callbacks=[baseline]", ["in one argument: '+callbacks=[amnesia,baseline]'"]),
        ("+callbacks=amnesia +callbacks=baseline", ["in one argument: '+callbacks=[amnesia,baseline]'"]),
        ("trainer.max_epoch=1", ["trainer.max_epoch: no such key", "'max_epochs'?"]),
        ("+trainer.limit_train=1", ["trainer.limit_train: Trainer takes no such argument", "'limit_train_batches'?"]),
        ("data.usres=3", ["data.usres: no such key", "'users'?"]),
        ("module.augmentation.levle=1", ["module.augmentation has crop, level, gain, ectopy", "'level'?"]),
        ("threads=0", ["threads=0: must be null or at least 1"]),
        ("+callbacks=null", ["a group takes the name of a file; there are activation_heatmap, all, amnesia"]),
        ("data.users=6 checkpoint.monitor=val/los", ["checkpoint.monitor=val/los: there is train/loss", "'val/loss'?"]),
        ("data.users=6 checkpoint.monitor=val/auroc/diabetes", ["keep and test the worst", "checkpoint.mode=max"]),
        (
            "data.users=12 data.weeks_per_user=1 cross_validate=true data.folds=3 checkpoint.mode=max "
            "checkpoint.monitor=val/auroc/atrial_fibrillation",
            ["in the validation split of fold 1 of 3 all", "atrial_fibrillation 0", "make fewer folds"],
        ),
        ("data.users=6 checkpoint.mode=max", ["checkpoint.monitor=val/loss", "set checkpoint.mode=min"]),
        ("module.augmentation.crop=0.5", ["crop=0.5: must be a whole number"]),
        ("experiment=nope", ["experiment=nope: there is no such file in conf/experiment"]),
        ("+experiment=demonstration", ["leave out the plus"]),
        ("sede=1", ["sede: no such key", "'seed'?"]),
        ("+sede=1", ["sede: no such option", "'seed'?"]),
        ("~model", ["model has no _target_"]),
        ("~model._target_", ["model has no _target_", "compact, deepheart"]),
        ("model._target_=heartnet.model.DeepHaert", ["model._target_=heartnet.model.DeepHaert: cannot be imported"]),
        ("model._target_=heartnet.model.ARCHITECTURES", ["neither a class nor a function"]),
        ("+model.channels=2", ["model.channels: is set by the program"]),
        ("model.dropout=abc", ["model.dropout=abc: must be a number"]),
        ("model.dropout=1.5", ["model.dropout=1.5"]),
        ("model.readout=lsat", ["model.readout=lsat: must be mean, last, midpoint", "Did you mean 'last'?"]),
        ("model.forget_bias=chron", ["default, chrono or a number. Did you mean 'chrono'?"]),
        ("model.kernel_sizes=5", ["model.kernel_sizes=5: must be a list"]),
        ("data.batch_size=0", ["data.batch_size=0"]),
        ("data.batch_size=2.5", ["data.batch_size=2.5: must be auto or a whole number"]),
        ("data.users=null", ["data.users=null: must be a whole number"]),
        ("data.base_rates={diabets:0.5}", ["'diabets'", "'diabetes'?"]),
        ("task.conditions=[diabets]", ["diabets", "'diabetes'?"]),
        ("trainer.precision=foo", ["trainer.precision=foo: must be 64, 32", "bf16-mixed"]),
        ("trainer.accelerator=foo", ["trainer cannot be made as configured", "accelerator='foo'"]),
        ("trainer.accelerator=cpu trainer.devices=2", ["trainer.devices=2: trains on one device"]),
        ("checkpoint.mode=sideways", ["checkpoint", "sideways"]),
        ("+callbacks=amnesia callbacks.amnesia.every_n_epochs=0", ["callbacks.amnesia.every_n_epochs=0"]),
        ("+callbacks=amnesia callbacks.amnesia.weeks=two", ["callbacks.amnesia.weeks=two: must be a whole number"]),
        ("data=weeks", ["data.path is not set; add data.path=…", "heartnet prepare"]),
        ("data.path=weeks/", ["data.path: no such key", "It belongs to data=weeks; add that."]),
        ("model=hourly_cnn model.readout=last", ["model=compact and model=deepheart and model=two_"]),
        ("data=weeks data.path=missing", ["missing does not exist"]),
        ("data.users=6 data.weeks_per_user=1 data.val_share=0", ["checkpoint.monitor=val/loss: no week", "=null"]),
        ("seed=abc", ["seed=abc: must be a whole number or null"]),
        ("seed=-1", ["seed=-1"]),
        ("seed=true", ["seed=True: must be a whole number or null"]),
        ("test=maybe", ["test=maybe: must be true or false"]),
        ("fail_on=wran", ["fail_on=wran: must be warn, fail or null. Did you mean 'warn'?"]),
        ("cross_validate=true", ["data.folds=5"]),
        ("+trainer.overfit_batches=1", ["trainer.overfit_batches", "+trainer.limit_train_batches=N"]),
        ("+trainer.limit_test_batches=0", ["trainer.limit_test_batches=0", "test=false"]),
        ("data.users=6 module.learning_rate=-1", ["module.learning_rate=-1: must be a number of 0 or more"]),
        ("data.users=6 module.weight_decay=nan", ["module.weight_decay=nan"]),
        ("cross_validate=true data.folds=2 ckpt_path=last.ckpt", ["cross_validate=false"]),
        ("ckpt_path=runs/nope/last.ckpt", ["ckpt_path=runs/nope/last.ckpt: no such file"]),
        ("seed=${nope}", ["nope"]),
        ("model", ["model: choose one, model=…; there are compact, deepheart"]),
        ("callbacks", ["callbacks: choose one, +callbacks=…; there are"]),
        ("amnesia", ["amnesia: options are given as key=value. Did you mean +callbacks=amnesia?"]),
        ("compact", ["Did you mean architecture=compact or model=compact?"]),
        ("-m nonsense", ["nonsense: options are given as key=value."]),
        ("--cfg job model=foo", ["model=foo: there is no such file"]),
        ("--resolve", ["--resolve"]),
        ("model.readout=mean,last", ["several values make a sweep, which needs -m"]),
        ("+trainer.limit_train_batches=1,2", ["several values make a sweep, which needs -m"]),
        ("task.conditions=diabetes,hypertension", ["needs -m; one list is 'task.conditions=[diabetes,hypertension]'"]),
        ("data.planted=travel,heavy_exercise", ["one list is 'data.planted=[travel,heavy_exercise]'"]),
        ("data.cohort_seed=-1", ["data.cohort_seed=-1: must be 0 or more"]),
        ("data.split_seed=-1", ["data.split_seed=-1: must be 0 or more"]),
        ("data.labelled_seed=-1", ["data.labelled_seed=-1: must be 0 or more"]),
        ("module.augmentation={foo:1}", ["module.augmentation.foo: no such key; module.augmentation has crop, level"]),
        ("data.planted.foo=1", ["data.planted.foo: data.planted is a list", "'data.planted=[…]'"]),
        ("data.planted={foo:1}", ["data.planted.foo: data.planted is a list"]),
        ("data.base_rates={diabetes:0.5} data.foo=1", ["data.foo: no such key"]),
        ("trainer.accumulate_grad_batches=0", ["trainer.accumulate_grad_batches=0: must be at least 1"]),
        ("data.fold=2", ["data.fold=2: there are no folds; set data.folds as well"]),
        ("ckpt_path=.", ["ckpt_path=.: is a folder; a run keeps"]),
        ("model={readout:", ["model={readout:: cannot be read", "bracket"]),
        ("-m model=compact,foo", ["model=foo", "compact, deepheart"]),
        ("-m model.readuot=mean,last", ["model.readuot", "'readout'?"]),
    ],
)
def test_what_does_not_fit_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, expected: list[str]
) -> None:
    said = refused(monkeypatch, tmp_path, capsys, *words.split(" "))
    for each in expected:
        assert each in said


def test_a_group_is_not_a_mapping(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "optimiser" in refused(monkeypatch, tmp_path, capsys, "+optimiser={lr: 1}")
    assert "no _target_" in refused(monkeypatch, tmp_path, capsys, "+callbacks.mine={weeks: 1}")


def test_not_a_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    (tmp_path / "here").mkdir()
    assert str(empty) in refused(monkeypatch, tmp_path / "here", capsys, "data=weeks", f"data.path={empty}")


@pytest.mark.parametrize("group", ["data", "task", "model", "module", *(f"callbacks.{name}" for name in CALLBACKS)])
def test_every_argument_stands_in_its_file_with_its_default(group: str) -> None:
    group, _, callback = group.partition(".")
    names = [callback] if callback else options_of(group)
    for name in names:
        config = OmegaConf.load(CONF / group / f"{name}.yaml")
        values: Any = OmegaConf.to_container(config[callback] if callback else config)
        constructor = pkgutil.resolve_name(values.pop("_target_"))
        provided = NODES.get(group, ())
        assert [key for key in argument_hints(constructor) if key not in provided] == [*values] or set(values) == set(
            argument_hints(constructor)
        ) - set(provided), f"conf/{group}/{name}.yaml"
        for key, parameter in signature(constructor).items():
            if key not in values or parameter.default is parameter.empty or (group, name, key) in DIFFERENT:
                continue  # not in the file: what a base class takes and the program passes
            default = parameter.default
            shown = list(default) if isinstance(default, tuple) else default
            assert values[key] == shown or (shown is None and inert(values[key])), f"{group}.{key}"


DIFFERENT = {
    # The small sibling is small.
    ("model", "compact", "conv_units"), ("model", "compact", "pool"), ("model", "compact", "lstm_layers"),
}  # fmt: skip
"""Values that a file changes on purpose; each has to differ still."""


def inert(value: Any) -> bool:
    """Whether a value spells out what None stands for."""
    return value is None or (isinstance(value, dict) and all(each == 0 for each in value.values()))


def signature(constructor: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a constructor; of one that passes `**options` on, those of its base too."""
    found = dict(inspect.signature(constructor).parameters)
    if any(each.kind is each.VAR_KEYWORD for each in found.values()) and inspect.isclass(constructor):
        found = {**signature(constructor.__mro__[1]), **found}
    return {name: each for name, each in found.items() if each.kind is not each.VAR_KEYWORD}


def test_differences_are_still_differences() -> None:
    for group, name, key in DIFFERENT:
        values = OmegaConf.load(CONF / group / f"{name}.yaml")
        default = signature(pkgutil.resolve_name(values["_target_"]))[key].default
        assert values[key] != (list(default) if isinstance(default, tuple) else default)


def test_all_names_every_callback() -> None:
    listed = OmegaConf.to_container(OmegaConf.load(CONF / "callbacks" / "all.yaml").defaults)
    assert listed == sorted(set(CALLBACKS) - BY_NAME)
    modules = {path.stem for path in (CONF.parent / "callbacks").glob("*.py")} - {"__init__"}
    assert modules == set(CALLBACKS)
    assert set(compose("+callbacks=all").callbacks) == set(CALLBACKS) - BY_NAME
    for name in CALLBACKS:
        config = OmegaConf.load(CONF / "callbacks" / f"{name}.yaml")
        assert list(config) == [name]
        assert config[name]["_target_"].startswith(f"callbacks.{name}.")


def test_callbacks_compose() -> None:
    assert list(compose("+callbacks=amnesia").callbacks) == ["amnesia"]
    assert list(compose("+callbacks=[amnesia,baseline]").callbacks) == ["amnesia", "baseline"]
    config = compose("+callbacks=amnesia", "callbacks.amnesia.every_n_epochs=2")
    assert config.callbacks.amnesia.every_n_epochs == 2
    assert "callbacks" not in compose()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_compose_and_their_nodes_can_be_made(experiment: str, tmp_path: Path) -> None:
    config = compose(f"experiment={experiment}", "+callbacks=amnesia")
    assert set(config.callbacks) >= set(compose(f"experiment={experiment}").get("callbacks") or {}) | {"amnesia"}
    if OmegaConf.is_missing(config.data, "path"):
        config.data.path = str(tmp_path)
    check(plain(config))
    instantiate(config.task, _convert_="all")
    channels = len(VIEWS[config.data.view]) + (config.data.view == "hourly")
    instantiate(config.model, channels=channels, outputs=1, metadata_size=2, _convert_="all")
    instantiate(config.trainer, logger=False, accelerator="cpu", _convert_="all")
    instantiate(config.checkpoint, dirpath=str(tmp_path))
    for node in config.callbacks.values():
        instantiate(node, _convert_="all")


@pytest.mark.parametrize("value", ["1", "-5", "default", "chrono"])
def test_forget_biases(value: str) -> None:
    config = compose("model=compact", f"model.forget_bias={value}")
    check(plain(config))
    made = instantiate(config.model, _convert_="all")
    assert str(made.arguments["forget_bias"]) == value


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("+trainer.limit_train_batches=2", 2),
        ("+trainer.limit_val_batches=0.5", 0.5),
        ("seed=null", None),
        ("data.folds=5", 5),
    ],
)
def test_what_fits_passes(override: str, value: object) -> None:
    config = compose(override)
    check(plain(config))
    assert OmegaConf.select(config, override.strip("+").partition("=")[0]) == value


class Options(TypedDict, total=False):
    size: int


def make(
    name: str,
    *,
    share: float = 0.5,
    kind: Literal["a", "b"] | float = "a",
    parts: Sequence[int] = (),
    rates: Mapping[str, float] | None = None,
    **options: Unpack[Options],
) -> None:
    del name, share, kind, parts, rates, options


@pytest.mark.parametrize(
    "values",
    [
        {}, {"share": 1}, {"kind": "b", "size": 3}, {"kind": 2.5}, {"parts": [1, 2]}, {"rates": {"x": 0.5}},
        {"rates": None}, {"share": {"_target_": "made.elsewhere"}},
    ],
)  # fmt: skip
def test_fitting_arguments(values: dict[str, Any]) -> None:
    check_arguments(make, {"name": "x", **values}, "node")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shar": 1}, r"node.shar: make takes no such argument; it takes name, share.* Did you mean 'share'\?"),
        ({"share": True}, "node.share=True: must be a number"),
        ({"share": "1"}, "node.share=1: must be a number"),
        ({"kind": "c"}, r"node.kind=c: must be a, b or a number"),
        ({"parts": [1, "x"]}, r"must be a list \(\[a whole number, …\]\)"),
        ({"parts": "12"}, "must be a list"),
        ({"rates": {"x": "y"}}, r"must be \{name: a number\} or null"),
        ({"rates": [1]}, r"must be \{name: a number\} or null"),
        ({"size": 1.5}, "node.size=1.5: must be a whole number"),
        ({"given": 1}, "node.given: is set by the program"),
    ],
)
def test_arguments_that_do_not_fit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(HeartnetError, match=message):
        check_arguments(make, {"name": "x", **values}, "node", provided=["given"])


def test_missing_arguments_and_paths() -> None:
    with pytest.raises(HeartnetError, match=r"node\.name is missing; make needs it"):
        check_arguments(make, {}, "node")
    check_arguments(make, {}, "node", provided=["name"])
    check_value("path", "a/b", str | Path)
    check_value("path", "a/b", Path)
    with pytest.raises(HeartnetError, match="path=3: must be a path"):
        check_value("path", 3, Path)
