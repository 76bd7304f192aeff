"""Compose the configuration, seed, train, test, and print what came out."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, to be explained, instead of being cut short

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from heartnet.allocator import keep_memory
from heartnet.built import build
from heartnet.closed_pipe import end_quietly, nobody_reads, print_all
from heartnet.command_line import (
    check_callbacks_once,
    check_sweep,
    go_on_with_pretraining,
    how_to_resume,
    seed_of,
    write_config,
)
from heartnet.configuration import CONF, check
from heartnet.errors import StoppedError
from heartnet.explained import SWEEP, causes, explain
from heartnet.folders import new_run_folder, remove_empty_folders, remove_if_empty, short
from heartnet.status import State, read_status, write_status

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from heartnet.datamodule import WeeksDataModule
    from heartnet.module import HeartnetModule

OmegaConf.register_new_resolver("run_dir", new_run_folder, use_cache=True, replace=True)


def main() -> int:
    """Run what the command line says.

    Returns:
        0 if it worked; 1 if findings are as bad as `fail_on`, or a check stopped the run; 2 with a message for bad
        input; 130 when interrupted; `heartnet.closed_pipe.CLOSED` when nobody reads what it prints.
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
        print_all()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return end_quietly() if nobody_reads(error) else report(error)
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
        if nobody_reads(stop):
            end_unread(folder)
        if not any(isinstance(cause, KeyboardInterrupt) for cause in causes(stop)):
            raise
        print(f"\ntrain.py: interrupted. {how_to_resume(folder)}", file=sys.stderr)
        end(folder, "interrupted", how_to_resume(folder))
        raise KeyboardInterrupt from None
    except Exception as error:
        if nobody_reads(error):
            end_unread(folder)
        end(folder, "failed", explain(error) or f"{type(error).__name__}: {error}")
        return report(error)
    finally:
        remove_if_empty(folder)


def train(config: DictConfig, folder: Path) -> int:
    """Train and test as `config` says, keep everything in `folder`, print the scores and the findings.

    Returns:
        1 if there is a finding as bad as `fail_on`, otherwise 0.

    Raises:
        HeartnetError: the configuration or the data cannot work.
    """
    from heartnet import terminal

    values: Any = OmegaConf.to_container(config, resolve=True)
    check(values)
    if config.seed is None:
        config.seed = seed_of(folder) if config.ckpt_path else secrets.randbelow(2**31)
    go_on_with_pretraining(config)
    terminal.quiet_lightning()
    data = train_folds(config, folder) if config.cross_validate else train_once(config, folder)
    if data is None:
        terminal.print_line("Nothing was trained, so nothing is tested.")
    elif config.test:
        terminal.print_scores(folder, data)
    worst = terminal.print_findings(folder)
    say_where(folder, end(folder, "finished"))
    return int(config.fail_on is not None and worst in {"warn": ("warn", "fail"), "fail": ("fail",)}[config.fail_on])


def train_once(config: DictConfig, folder: Path) -> WeeksDataModule | None:
    """Train and test one network; return its data, or None if nothing was trained."""
    data, module, trainer = build(config, folder)
    begin(config, folder)
    return data if fit_and_test(config, folder, data, module, trainer) else None


def train_folds(config: DictConfig, folder: Path) -> WeeksDataModule | None:
    """Train and test a network for each fold, in folders of their own, and look at the tests of all together."""
    from heartnet import terminal
    from heartnet.pooled import CrossValidation

    whole, trained = CrossValidation(folder) if config.test else None, True
    for fold in range(config.data.folds):
        terminal.print_line(f"Fold {fold + 1} of {config.data.folds}")
        config.data.fold, place = fold, folder / f"fold-{fold}"
        data, module, trainer = build(config, place)
        if fold == 0:
            begin(config, folder)
        if whole is not None:
            whole.begin(trainer)
        trained = fit_and_test(config, place, data, module, trainer) and trained
        if whole is not None:
            whole.add(place, trainer, module, data)
    if trained and whole is not None:
        terminal.print_line(f"All {config.data.folds} folds together")
        whole.finish(trainer, module, data)
    return data if trained else None


def fit_and_test(
    config: DictConfig, folder: Path, data: WeeksDataModule, module: HeartnetModule, trainer: Trainer
) -> bool:
    """Train the network, or go on training it, and keep what its best weights predict for the test split.

    Returns:
        False if a callback ended the run before its first step; then nothing is tested.
    """
    from heartnet.tested import keep_test

    trainer.fit(module, datamodule=data, ckpt_path=config.ckpt_path)
    if trainer.should_stop and trainer.global_step == 0:
        return False
    if config.test and len(data.rows["test"]) > 0:
        keep_test(folder, data, module, trainer)
    return True


def begin(config: DictConfig, folder: Path) -> None:
    """Keep how a run was asked for; only now, so that one which cannot start leaves nothing behind."""
    write_config(config, folder)
    write_status(folder, "running")


def end(folder: Path, state: State, message: str = "") -> Path | None:
    """Keep how a run ended, if it had begun, and write its page; return where that is."""
    from heartnet.report import report_if_possible

    if (status := read_status(folder)) is None or status.state != "running":
        return None
    write_status(folder, state, message)
    return report_if_possible(folder)


def end_unread(folder: Path) -> NoReturn:
    """End a run, and all of its sweep, whose output nobody reads any more."""
    end(folder, "interrupted", f"Nobody read what it printed. {how_to_resume(folder)}")
    sys.exit(end_quietly())


def say_where(folder: Path, page: Path | None) -> None:
    """Print where everything is, and what shows it."""
    from heartnet import terminal

    shown = shlex.quote(short(folder))
    terminal.print_line(f"Everything is in {shown}; to look:")
    if page is not None:
        terminal.print_line(f"{shlex.quote(short(page))} in a browser, or")
    # By default TensorBoard keeps ten pictures a tag, chosen at random.
    terminal.print_line(f"tensorboard --logdir {shown} --samples_per_plugin images=1000")


def report(error: Exception) -> int:
    """Print what a person can do about an error, and return exit status 2, or 1 if a check stopped the run.

    An error that is not of that kind is raised again.
    """
    message = explain(error)
    if message is None:
        raise error
    print(f"train.py: {message}", file=sys.stderr)
    return 1 if any(isinstance(cause, StoppedError) for cause in causes(error)) else 2


if __name__ == "__main__":
    sys.exit(main())
