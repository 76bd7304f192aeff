"""Compose the configuration, seed, train, test, and print what came out. The only file that imports Hydra."""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, to be explained, instead of being cut short

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from heartnet.errors import HeartnetError, did_you_mean

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

    from heartnet.datamodule import WeeksDataModule
    from heartnet.module import HeartnetModule

CONF = Path(__file__).resolve().parent / "conf"
NODES = ("data", "task", "model", "module", "trainer", "checkpoint")


def run_folder(ckpt_path: str | None) -> str:
    """Return the folder of the run that a checkpoint belongs to, or a new one named by date and time."""
    if ckpt_path and Path(ckpt_path).parent.name == "checkpoints":
        return str(Path(ckpt_path).parent.parent)
    folder = Path(datetime.now().strftime("runs/%Y-%m-%d/%H-%M-%S"))
    taken = (folder.with_name(f"{folder.name}-{i}") for i in range(2, 1000))
    return str(folder if not folder.exists() else next(path for path in taken if not path.exists()))


OmegaConf.register_new_resolver("run_dir", run_folder, use_cache=True, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(config: DictConfig) -> None:
    """Run one job of Hydra's, in its folder."""
    if HydraConfig.get().mode == RunMode.MULTIRUN and config.trainer.get("devices") not in (1, "1"):
        raise HeartnetError(
            f"trainer.devices={config.trainer.get('devices')}: a sweep (-m) trains on one device a run, because each "
            "further process would start the sweep again; set trainer.devices=1"
        )
    train(config, Path(HydraConfig.get().runtime.output_dir))


def train(config: DictConfig, folder: Path) -> None:
    """Train and test as `config` says, keep everything in `folder`, print the scores and the findings.

    Raises:
        HeartnetError: the configuration or the data cannot work.
        SystemExit: 1, if there is a finding as bad as `fail_on`.
    """
    from heartnet import terminal

    check_nodes(config)
    if config.seed is None:
        config.seed = secrets.randbelow(2**31)
    write_config(config, folder)
    if config.cross_validate:
        if not config.data.get("folds"):
            raise HeartnetError("cross_validate=true needs a number of folds, for example data.folds=5")
        for fold in range(config.data.folds):
            terminal.print_line(f"Fold {fold + 1} of {config.data.folds}")
            config.data.fold = fold
            data = fit_and_test(config, folder / f"fold-{fold}")
    else:
        data = fit_and_test(config, folder)
    if config.test:
        terminal.print_scores(folder, data)
    worst = terminal.print_findings(folder)
    terminal.print_line(f"Everything is in {folder}; to look: tensorboard --logdir {folder}")
    if config.fail_on is not None and worst in {"warn": ("warn", "fail"), "fail": ("fail",)}[config.fail_on]:
        raise SystemExit(1)


def fit_and_test(config: DictConfig, folder: Path) -> WeeksDataModule:
    """Train one network on one split and test it; returns the data that it was trained on."""
    import pytorch_lightning as lightning

    from heartnet import terminal
    from heartnet.predictions import NETWORK, predictions_frame

    terminal.quiet_lightning()
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    data: WeeksDataModule = instantiate(config.data, task=instantiate(config.task), seed=config.seed)
    terminal.print_data(data)
    module = build_module(config, data)
    trainer = build_trainer(config, folder)
    trainer.fit(module, datamodule=data, ckpt_path=config.ckpt_path)
    rows = data.rows["test"]
    if not config.test or len(rows) == 0:
        return data
    trainer.test(module, datamodule=data, verbose=False)
    frame = predictions_frame(data, module.test_rows, module.test_scores, NETWORK)
    frame.write_parquet(folder / "predictions.parquet")
    return data


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
    from pytorch_lightning.loggers import TensorBoardLogger

    folder.mkdir(parents=True, exist_ok=True)
    callbacks: list[Callback] = [instantiate(config.checkpoint, dirpath=str(folder / "checkpoints"))]
    callbacks += [instantiate(node, _convert_="all") for node in (config.get("callbacks") or {}).values()]
    trainer: Trainer = instantiate(
        config.trainer,
        callbacks=callbacks,
        logger=TensorBoardLogger(str(folder), name="", version="", default_hp_metric=False),
        default_root_dir=str(folder),
        _convert_="all",
    )
    return trainer


def check_nodes(config: DictConfig) -> None:
    """Refuse a node that names no constructor, and options that contradict each other.

    Raises:
        HeartnetError: naming the node.
    """
    nodes = {name: config.get(name) for name in NODES}
    nodes |= {f"callbacks.{name}": node for name, node in (config.get("callbacks") or {}).items()}
    for name, node in nodes.items():
        if not OmegaConf.is_dict(node) or not node.get("_target_"):
            raise HeartnetError(
                f"{name} has no _target_, so nothing says what it is; choose it as a whole first: {selection(name)}"
            )
    if config.fail_on not in (None, "warn", "fail"):
        raise HeartnetError(f"fail_on={config.fail_on}: must be null, warn or fail")
    if config.seed is not None and not 0 <= config.seed < 2**32:
        raise HeartnetError(f"seed={config.seed}: must be null or from 0 to {2**32 - 1}")
    if config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
        raise HeartnetError(
            f"ckpt_path={config.ckpt_path}: no such file; "
            "a run keeps its checkpoints in checkpoints/, the newest as last.ckpt"
        )


def selection(node: str) -> str:
    """Return the override that chooses a whole node, with the names that there are."""
    group, _, name = node.partition(".")
    names = options_of(group)
    if group == "callbacks":
        nearest = did_you_mean(name, names)
        return f"+callbacks={name if name in names else '…'}, where there are {', '.join(names)}.{nearest}"
    return f"{group}=…, where there are {', '.join(names)}."


def options_of(group: str) -> list[str]:
    """Return the names of the files in a group of the configuration."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def groups() -> list[str]:
    """Return the names of the groups of the configuration."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


def write_config(config: DictConfig, folder: Path) -> None:
    """Write the whole configuration to `config.yaml`, with the command line that gave it on top."""
    folder.mkdir(parents=True, exist_ok=True)
    overrides = " ".join(HydraConfig.get().overrides.task) if HydraConfig.initialized() else ""
    text = f"# python train.py {overrides}".rstrip() + "\n" + OmegaConf.to_yaml(config, resolve=True)
    partial = folder / "config.yaml.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / "config.yaml")


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse what Hydra would drop without a word.

    Raises:
        HeartnetError: callbacks given in more than one argument.
    """
    given = [argument for argument in arguments if re.match(r"\+{0,2}callbacks(@[\w.]+)?=", argument)]
    if len(given) > 1:
        names = [name for argument in given for name in re.findall(r"\w+", argument.partition("=")[2])]
        raise HeartnetError(f"{' '.join(given)}: name all callbacks in one argument: '+callbacks=[{','.join(names)}]'")


def explain(error: Exception) -> str | None:
    """Return what to tell a person about an error of the configuration; None if it is not one."""
    for cause in causes(error):
        if isinstance(cause, HeartnetError):
            return str(cause)
    text = str(error)
    if (
        match := re.search(r"In '.*?': Could not find '([\w./-]+)/([^'/]+)'|Could not find '([\w-]+)/([^']+)'", text)
    ) is not None:
        group, name = [part for part in match.groups() if part]
        names = options_of(group)
        there = f"there are {', '.join(names)}.{did_you_mean(name, names)}"
        return f"{group}={name}: there is no such file in conf/{group}; {there}"
    if (match := re.search(r"Could not override '([\w@./-]+)'\.\s+No match in the defaults list", text)) is not None:
        return explain_group(match[1])
    if (match := re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')\s+full_key: (\S+)", text)) is not None:
        return explain_key(match[1], match[2])
    if (match := re.search(r"unexpected keyword argument '(\w+)'", text)) is not None:
        node = (re.search(r"full_key: (\S+)", text) or ["", ""])[1]
        return explain_argument(match[1], node)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return text
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain_group(name: str) -> str:
    """Say which groups there are, or which keys, when an override names none of them."""
    if name == "callbacks":
        return "callbacks=…: callbacks are added, with a plus: +callbacks=amnesia, or '+callbacks=[amnesia,baseline]'"
    return f"{name}=…: there is no such group; there are {', '.join(groups())}.{did_you_mean(name, groups())}"


def explain_key(key: str, full_key: str) -> str:
    """Say which keys stand beside the one that is not there."""
    parent = full_key.rpartition(".")[0]
    if full_key == "callbacks" or parent.startswith("callbacks"):
        name = full_key.partition(".")[2].partition(".")[0] or "amnesia"
        return (
            f"{full_key}: no such callback is switched on; do so in the same command: {selection(f'callbacks.{name}')}"
        )
    there: Any = OmegaConf.select(composed_without(full_key), parent) if parent else composed_without(full_key)
    keys = [str(name) for name in there] if OmegaConf.is_dict(there) else []
    where = f"{parent} has" if parent else "there are"
    return f"{full_key}: no such key; {where} {', '.join(k for k in keys if k != '_target_')}.{did_you_mean(key, keys)}"


def composed_without(full_key: str) -> DictConfig:
    """Compose the configuration of this command line without the overrides of one key."""
    GlobalHydra.instance().clear()
    kept = [a for a in sys.argv[1:] if "=" in a and not a.startswith(("-", f"{full_key}=", f"+{full_key}=", "hydra"))]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return hydra.compose("config", overrides=[a for a in kept if "," not in a])
        except HydraException:
            return hydra.compose("config")


def explain_argument(name: str, node: str) -> str:
    """Say which arguments a constructor takes."""
    import inspect

    target = OmegaConf.select(composed_without(f"{node}.{name}"), f"{node}._target_")
    keys = list(inspect.signature(get_class(target)).parameters) if target else []
    return f"{node}.{name}: {target} takes no such argument; it takes {', '.join(keys)}.{did_you_mean(name, keys)}"


def main() -> None:
    """Run, and turn errors that a person can act on into a message and exit status 2."""
    try:
        check_overrides(sys.argv[1:])
        job()
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"train.py: {message}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
