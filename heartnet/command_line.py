"""The command line of `train.py`: what it cannot ask for, how a run keeps it, and how to go on with that run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from heartnet.errors import HeartnetError
from heartnet.folders import newest_checkpoint, short

PRETRAINING = "pretraining.ckpt"
"""How far callbacks/synthetic_pretraining.py has come, in a run's checkpoints/."""


def check_callbacks_once(arguments: Sequence[str]) -> None:
    """Refuse callbacks in more than one argument, of which Hydra would drop some without a word."""
    given = [argument for argument in arguments if re.match(r"\+{0,2}callbacks(@[\w.]+)?=", argument)]
    if len(given) > 1:
        names = [name for argument in given for name in re.findall(r"\w+", argument.partition("=")[2])]
        raise HeartnetError(f"{' '.join(given)}: name all callbacks in one argument: '+callbacks=[{','.join(names)}]'")


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


def go_on_with_pretraining(config: DictConfig) -> None:
    """Leave `ckpt_path` empty where it names a pretraining: training has not begun, and the callback finds its file."""
    if config.ckpt_path is None or Path(config.ckpt_path).name != PRETRAINING:
        return
    if "synthetic_pretraining" not in (config.get("callbacks") or {}):
        raise HeartnetError(f"ckpt_path={config.ckpt_path}: needs +callbacks=synthetic_pretraining, to go on with it")
    config.ckpt_path = None


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
