"""What a training needs, made as the configuration says: the data, the network in its module, the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from heartnet.command_line import PRETRAINING
from heartnet.errors import HeartnetError

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

    from heartnet.datamodule import WeeksDataModule
    from heartnet.module import HeartnetModule


def build(config: DictConfig, folder: Path) -> tuple[WeeksDataModule, HeartnetModule, Trainer]:
    """Seed, and make everything that training needs."""
    import pytorch_lightning as lightning

    from heartnet import terminal
    from heartnet.batch_size import batch_size_of, fitting_batch_size
    from heartnet.model import pieces
    from heartnet.model.compiled import compile_convolutions
    from heartnet.run_checks import check_monitor, check_resumable
    from heartnet.threads import one_thread_each

    one_thread_each()
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
    from pytorch_lightning.profilers import PassThroughProfiler

    from heartnet.kept_memory import KeptMemory
    from heartnet.no_profiler import NoProfiler
    from heartnet.step_losses import LossesOfABrokenRun
    from heartnet.tensorboard_layout import TensorBoardLayout
    from heartnet.training_bar import TrainingBar

    callbacks: list[Callback] = [
        instantiate(config.checkpoint, dirpath=str(folder / "checkpoints")),
        # `save_last` would skip the epochs that `monitor` does not like. The mode only makes its state another one's.
        ModelCheckpoint(folder / "checkpoints", "last", mode="max", enable_version_counter=False),
        TensorBoardLayout(),
        LossesOfABrokenRun(),
        KeptMemory(),
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
    if type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]  # nobody asked for one
        trainer.profiler = NoProfiler()  # type: ignore[attr-defined]
    return trainer
