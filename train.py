"""Compose the configuration, seed, train, test, and print what came out. The only file that imports Hydra."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, to be explained, instead of being cut short

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from heartnet.allocator import keep_memory
from heartnet.configuration import CONF, check, groups, last_line, options_of, there_are, who_has
from heartnet.errors import HeartnetError, StoppedError, did_you_mean
from heartnet.folders import new_run_folder, newest_checkpoint, remove_empty_folders, remove_if_empty, short
from heartnet.status import State, read_status, write_status

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

    from heartnet.datamodule import WeeksDataModule
    from heartnet.module import HeartnetModule

SWEEP = ("-m", "--multirun")
PRETRAINING = "pretraining.ckpt"  # how far callbacks/synthetic_pretraining.py has come, in a run's checkpoints/


def main() -> int:
    """Run what the command line says.

    Returns:
        0 if it worked; 1 if findings are as bad as `fail_on`, or a check stopped the run; 2 with a message for bad
        input; 130 when interrupted.
    """
    statuses: list[int] = []
    keep_memory()  # before any library starts threads

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(config: DictConfig) -> None:
        statuses.append(run(config, Path(HydraConfig.get().runtime.output_dir)))

    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in SWEEP)  # Hydra takes -m in front or behind only
    try:
        check_callbacks_once(sys.argv[1:])
        job()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return report(error)
    finally:
        remove_empty_folders()
    return max(statuses, default=0)


def run(config: DictConfig, folder: Path) -> int:
    """Do one run and return its exit status; a sweep goes on after a run that failed for bad input."""
    from heartnet import terminal

    try:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            check_sweep(config)
            terminal.print_line(f"\nRun {HydraConfig.get().job.num}: {shlex.join(HydraConfig.get().overrides.task)}")
        return train(config, folder)
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning makes the second of the first
        if not any(isinstance(cause, KeyboardInterrupt) for cause in causes(stop)):
            raise
        print(f"\ntrain.py: interrupted. {how_to_resume(folder)}", file=sys.stderr)
        end(folder, "interrupted", how_to_resume(folder))
        raise KeyboardInterrupt from None
    except Exception as error:
        end(folder, "failed", explain(error) or f"{type(error).__name__}: {error}")
        return report(error)
    finally:
        remove_if_empty(folder)


def end(folder: Path, state: State, message: str = "") -> Path | None:
    """Keep how a run ended, if it had begun, and write its page; return where that is."""
    from heartnet.report import report_if_possible

    if (status := read_status(folder)) is None or status.state != "running":
        return None
    write_status(folder, state, message)
    return report_if_possible(folder)


def train(config: DictConfig, folder: Path) -> int:
    """Train and test as `config` says, keep everything in `folder`, print the scores and the findings.

    Returns:
        1 if there is a finding as bad as `fail_on`, otherwise 0.

    Raises:
        HeartnetError: the configuration or the data cannot work.
    """
    from heartnet import terminal
    from heartnet.pooled import CrossValidation

    values: Any = OmegaConf.to_container(config, resolve=True)
    check(values)
    if config.seed is None:
        config.seed = seed_of(folder) if config.ckpt_path else secrets.randbelow(2**31)
    if config.ckpt_path and Path(config.ckpt_path).name == PRETRAINING:
        if "synthetic_pretraining" not in (config.get("callbacks") or {}):
            raise HeartnetError(
                f"ckpt_path={config.ckpt_path}: needs +callbacks=synthetic_pretraining, to go on with it"
            )
        config.ckpt_path = None  # the callback finds it in the run's folder, and training has not begun
    terminal.quiet_lightning()
    whole, trained = CrossValidation(folder) if config.cross_validate and config.test else None, True
    for fold in range(config.data.folds) if config.cross_validate else (None,):
        place = folder
        if fold is not None:
            terminal.print_line(f"Fold {fold + 1} of {config.data.folds}")
            config.data.fold, place = fold, folder / f"fold-{fold}"
        data, module, trainer = build(config, place)
        if not fold:  # only now: a run that cannot start leaves nothing behind
            write_config(config, folder)
            write_status(folder, "running")
        if whole is not None:
            whole.begin(trainer)
        trained = fit_and_test(config, place, data, module, trainer) and trained
        if whole is not None:
            whole.add(place, trainer, module, data)
    if not trained:
        terminal.print_line("Nothing was trained, so nothing is tested.")
    elif config.test:
        if whole is not None:
            terminal.print_line(f"All {config.data.folds} folds together")
            whole.finish(trainer, module, data)
        terminal.print_scores(folder, data)
    worst = terminal.print_findings(folder)
    shown = shlex.quote(short(folder))
    page = end(folder, "finished")
    terminal.print_line(f"Everything is in {shown}; to look:")
    if page is not None:
        terminal.print_line(f"{shlex.quote(short(page))} in a browser, or")
    # By default TensorBoard keeps ten pictures a tag, chosen at random.
    terminal.print_line(f"tensorboard --logdir {shown} --samples_per_plugin images=1000")
    return int(config.fail_on is not None and worst in {"warn": ("warn", "fail"), "fail": ("fail",)}[config.fail_on])


def build(config: DictConfig, folder: Path) -> tuple[WeeksDataModule, HeartnetModule, Trainer]:
    """Seed, and make everything that training needs."""
    import pytorch_lightning as lightning
    import torch

    from heartnet import terminal
    from heartnet.batch_size import batch_size_of, fitting_batch_size
    from heartnet.model import pieces
    from heartnet.model.compiled import compile_convolutions
    from heartnet.run_checks import check_monitor, check_resumable

    torch.set_num_threads(1)  # more would wait for one another at each step of an LSTM
    pieces.use_threads(config.threads)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    trainer = build_trainer(config, folder)
    if trainer.world_size != 1:
        raise HeartnetError(f"trainer.devices={config.trainer.devices}: trains on one device; set trainer.devices=1")
    data: WeeksDataModule = instantiate(
        config.data, task=instantiate(config.task, _convert_="all"), seed=config.seed, _convert_="all"
    )
    terminal.print_data(data)
    mode = config.checkpoint.get("mode", "min")
    check_monitor(config.checkpoint.get("monitor"), data, mode, every_fold=bool(config.cross_validate))
    module = build_module(config, data)
    if config.data.get("batch_size") == "auto":
        begun = config.ckpt_path or (folder / "checkpoints" / PRETRAINING).is_file()
        size = batch_size_of(folder) if begun else fitting_batch_size(data, module, trainer)
        data.batch_size = config.data.batch_size = size.weeks
        terminal.print_line(size.why)
    if config.get("compile"):
        compile_convolutions(module.network, trainer.strategy.root_device)
    if config.ckpt_path:
        told = check_resumable(config.ckpt_path, module, trainer.max_epochs)
        if told is not None:
            terminal.print_line(told)
    return data, module, trainer


def build_module(config: DictConfig, data: WeeksDataModule) -> HeartnetModule:
    """Return the network that fits the data, in its LightningModule."""
    network = instantiate(
        config.model,
        channels=data.channels,
        outputs=len(data.targets),
        metadata_size=data.metadata_size,
        _convert_="all",
    )
    mean, std = data.target_statistics()
    module: HeartnetModule = instantiate(
        config.module,
        network=network,
        kind=data.task.kind,
        targets=list(data.targets),
        target_mean=mean.tolist(),
        target_std=std.tolist(),
        scaling=data.scaling.as_dict(),
        seed=config.seed,
        _convert_="all",
    )
    return module


def build_trainer(config: DictConfig, folder: Path) -> Trainer:
    """Return the trainer with its callbacks; it writes into `folder` only."""
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.loggers import TensorBoardLogger

    from heartnet.step_losses import LossesOfABrokenRun
    from heartnet.tensorboard_layout import TensorBoardLayout
    from heartnet.training_bar import TrainingBar

    callbacks: list[Callback] = [
        instantiate(config.checkpoint, dirpath=str(folder / "checkpoints")),
        # `save_last` would skip the epochs that `monitor` does not like. The mode only makes its state another one's.
        ModelCheckpoint(folder / "checkpoints", "last", mode="max", enable_version_counter=False),
        TensorBoardLayout(),
        LossesOfABrokenRun(),
    ]
    if config.trainer.get("enable_progress_bar", True):
        callbacks.append(TrainingBar())
    callbacks += [instantiate(node, _convert_="all") for node in (config.get("callbacks") or {}).values()]
    trainer: Trainer = instantiate(
        config.trainer,
        callbacks=callbacks,
        logger=TensorBoardLogger(str(folder), name="", version="", default_hp_metric=False),
        default_root_dir=str(folder),
        _convert_="all",
    )
    return trainer


def fit_and_test(
    config: DictConfig, folder: Path, data: WeeksDataModule, module: HeartnetModule, trainer: Trainer
) -> bool:
    """Train the network, or go on training it, and keep what its best weights predict for the test split.

    Returns:
        False if a callback ended the run before its first step; then nothing is tested.
    """
    from heartnet import terminal
    from heartnet.predictions import NETWORK, ceiling_predictions, predictions_frame
    from heartnet.tested import FILE, load_tested

    trainer.fit(module, datamodule=data, ckpt_path=config.ckpt_path)
    if trainer.should_stop and trainer.global_step == 0:
        return False
    if config.test and len(data.rows["test"]) > 0:
        for old in (*folder.glob("predictions*.parquet"), folder / FILE):  # of a run before, perhaps on other data
            old.unlink(missing_ok=True)
        tested = load_tested(folder, module, trainer)
        trainer.test(module, datamodule=data, verbose=False)
        if tested is not None:
            tested.write(folder)
        terminal.print_line(f"Tested: {tested or 'the weights at the end, of which no checkpoint was kept'}.")
        if not (folder / "predictions.parquet").is_file():  # else the callback wrote it, with more columns
            frame = predictions_frame(data, module.test_rows, module.test_scores, NETWORK)
            folder.mkdir(parents=True, exist_ok=True)  # of a fold's fast_dev_run, which keeps nothing else
            frame.write_parquet(folder / "predictions.parquet")
        if (best := ceiling_predictions(data, data.rows["test"])) is not None:
            best.write_parquet(folder / "predictions_ceiling.parquet")
    return True


OmegaConf.register_new_resolver("run_dir", new_run_folder, use_cache=True, replace=True)


def write_config(config: DictConfig, folder: Path) -> None:
    """Write the whole configuration to `config.yaml`, with the command line that gave it on top."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"# {command()}\n{OmegaConf.to_yaml(config, resolve=True)}"
    partial = folder / "config.yaml.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / "config.yaml")


def seed_of(folder: Path) -> int:
    """Return the seed that a run drew for itself, to go on with it."""
    file = folder / "config.yaml"
    if not file.is_file():
        raise HeartnetError(f"seed=null: {file} does not exist, so the seed of the run is unknown; give it: seed=…")
    return int(OmegaConf.load(file).seed)


def command(*further: str) -> str:
    """Return the command line of this run, with some overrides in place of those with the same key."""
    keys = {override.partition("=")[0] for override in further}
    given = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    return shlex.join(["python", "train.py", *(each for each in given if each.partition("=")[0] not in keys), *further])


def how_to_resume(folder: Path) -> str:
    """Say how to go on with an interrupted run."""
    newest = newest_checkpoint(folder) or next(iter(folder.glob(f"checkpoints/{PRETRAINING}")), None)
    if newest is None:
        return "There is no checkpoint yet: the first one comes after the first epoch."
    if newest.parent.parent != folder:
        return f"The folds that are done are in {short(folder)}; a cross-validation has to be started again."
    return f"To go on: {command(f'ckpt_path={short(newest)}')}"


def check_sweep(config: DictConfig) -> None:
    """Refuse what cannot be swept."""
    devices = config.trainer.get("devices")
    if devices not in (1, "1") and not (OmegaConf.is_list(devices) and len(devices) == 1):
        raise HeartnetError(
            f"trainer.devices={devices}: a sweep (-m) trains on one device a run, because each further process would "
            "start the sweep again; set trainer.devices=1"
        )
    if config.ckpt_path is not None:
        raise HeartnetError("ckpt_path goes on with one run in its own folder, so it cannot be part of a sweep (-m)")


def check_callbacks_once(arguments: Sequence[str]) -> None:
    """Refuse callbacks in more than one argument, of which Hydra would drop some without a word."""
    given = [argument for argument in arguments if re.match(r"\+{0,2}callbacks(@[\w.]+)?=", argument)]
    if len(given) > 1:
        names = [name for argument in given for name in re.findall(r"\w+", argument.partition("=")[2])]
        raise HeartnetError(f"{' '.join(given)}: name all callbacks in one argument: '+callbacks=[{','.join(names)}]'")


# What went wrong, in words.


def report(error: Exception) -> int:
    """Print what a person can do about an error, and return exit status 2, or 1 if a check stopped the run.

    An error that is not of that kind is raised again.
    """
    message = explain(error)
    if message is None:
        raise error
    print(f"train.py: {message}", file=sys.stderr)
    return 1 if any(isinstance(cause, StoppedError) for cause in causes(error)) else 2


def explain(error: Exception) -> str | None:
    """Return what to tell a person about an error; None if it is not theirs."""
    for cause in causes(error):
        if isinstance(cause, HeartnetError):
            return str(cause)
    if isinstance(error, InstantiationException):
        node = re.search(r"full_key: (\S+)", str(error))
        return f"{node[1] if node else 'a node'} cannot be made as configured: {error.__cause__ or error}"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return explain_overrides(sys.argv[1:]) or " ".join(str(error).split())
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    if type(error).__name__ == "MisconfigurationException":  # by name: this file does not import Lightning
        return str(error)
    if isinstance(error, ValueError) and "group override" in str(error):  # Hydra's, for +callbacks=null
        return explain_overrides(sys.argv[1:]) or str(error)
    if type(error).__name__ == "OutOfMemoryError":
        return f"the accelerator's memory is full; lower data.batch_size, or set it to auto ({last_line(error)})"
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain_overrides(arguments: Sequence[str]) -> str | None:
    """Return what is wrong with the first override that fits nothing; None if all fit."""
    parser, overrides = OverridesParser.create(), []
    for argument in (each for each in arguments if "=" in each and not each.startswith("-")):
        try:
            overrides.append(parser.parse_override(argument))
        except HydraException as error:
            return f"{argument}: cannot be read as key=value; is a quote or a bracket missing? ({last_line(error)})"
    for override in overrides:
        if override.is_sweep_override() and not set(SWEEP).intersection(arguments):
            key, _, values = str(override.input_line).partition("=")
            return f"{override.input_line}: several values make a sweep, which needs -m; one list is '{key}=[{values}]'"
        if override.key_or_group in groups() and (message := explain_group(override)) is not None:
            return message
    config = compose(each.input_line or "" for each in overrides if each.key_or_group in groups())
    for override in overrides:
        if override.key_or_group not in groups() and not override.is_add():
            message = explain_key(override.key_or_group, config)
            if message is not None:
                return message
    return None


def explain_group(override: Override) -> str | None:
    """Say what a group can be, if an override asks for something else."""
    group, there = override.key_or_group, options_of(override.key_or_group)
    chosen = [name for value in values_of(override) for name in (value if isinstance(value, list) else [value])]
    for name in chosen:
        if not isinstance(name, str) and (name is not None or override.is_add()):
            return f"{override.input_line}: a group takes the name of a file; {there_are(group)}"
        if name is not None and name not in there:
            return f"{group}={name}: there is no such file in conf/{group}; {there_are(group, name)}"
    if group == "callbacks" and not override.is_add():
        return f"{override.input_line}: callbacks are added, with a plus: '+callbacks=[{','.join(map(str, chosen))}]'"
    if group != "callbacks" and override.is_add():
        return f"{override.input_line}: leave out the plus; only callbacks are added"
    return None


def explain_key(key: str, config: DictConfig) -> str | None:
    """Say which keys stand beside one that is not there."""
    *path, _ = parts = key.split(".")
    if parts[0] == "hydra":
        return None
    if parts[0] == "callbacks" and (len(parts) == 1 or parts[1] not in (config.get("callbacks") or {})):
        return (
            f"{key}: that callback is not switched on; add +callbacks=…; {there_are('callbacks', ''.join(parts[1:2]))}"
        )
    there: Any = config
    for depth, part in enumerate(parts):
        names = [str(name) for name in there if name != "_target_"] if OmegaConf.is_dict(there) else []
        if part not in names and part != "_target_":
            options = names if depth else sorted({*names, *groups()})
            has = f"{'.'.join(path[:depth])} has" if depth else "there are"
            hint = who_has(key) or did_you_mean(part, options)
            return f"{key}: no such key; {has} {', '.join(options)}.{hint}"
        there = there.get(part) if not OmegaConf.is_missing(there, part) else None
    return None


def values_of(override: Override) -> list[Any]:
    """Return the values of an override, which are several in a sweep."""
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]


def compose(choices: Iterable[str]) -> DictConfig:
    """Return the configuration with some groups chosen; of a sweep, its first choice."""
    GlobalHydra.instance().clear()
    first = [choice.partition(",")[0] if "[" not in choice else choice for choice in choices]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", overrides=first)


if __name__ == "__main__":
    sys.exit(main())
