"""The LightningModule: loss, metrics, optimiser, and what a checkpoint needs to be loaded again."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from heartnet import late_fusion
from heartnet.augment import augment, check_augmentation, random_crop
from heartnet.diagnostics.probe import Probe
from heartnet.errors import HeartnetError
from heartnet.logits import Logits
from heartnet.metrics import TargetScores
from heartnet.model import ARCHITECTURES, pieces
from heartnet.scaling import Scaling
from heartnet.step_losses import StepLosses, log_validation
from heartnet.weeks import CHANNELS

Batch = dict[str, Tensor]
"""`inputs` [batch, time, channel], `lengths` [batch], `metadata` [batch, field], `targets` [batch, target] (NaN:
missing), `index` [batch] (row of the week)."""

Schedule = Literal["one_cycle", "constant"]

_TRAINING = ("learning_rate", "weight_decay", "schedule", "augmentation", "seed")
"""Attributes that decide how training goes on, so that a resumed run is the same run."""

_RESUMABLE = ("pytorch-lightning_version", "state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks")
"""What Lightning needs of a checkpoint to go on training."""


class HeartnetModule(pl.LightningModule):
    """Trains a network on conditions (cross-entropy) or synthetic targets (squared error), skipping missing targets.

    Logs `{split}/loss`, and per condition `{split}/auroc/{condition}` and `{split}/average_precision/{condition}`, or
    per synthetic target `{split}/mae/{target}` (natural units) and `{split}/r2/{target}` (share of variance explained).

    After a test, `test_rows` `[week]` and `test_scores` `[week, target]` hold what was predicted, in NumPy.

    Args:
        network: called as `network(inputs, lengths, metadata)`, returns `Logits`; one of `heartnet.model.ARCHITECTURES`
            if its checkpoints are to be loaded by `from_checkpoint`.
        kind: `"conditions"` or `"synthetic"`.
        targets: names of the outputs, in order.
        target_mean: mean of each target on the training split; for conditions, the base rates.
        target_std: spread of each target on the training split; not used for conditions.
        scaling: the constants by which the inputs were scaled, as `Scaling.as_dict()`.
        learning_rate: of AdamW, at its peak.
        weight_decay: of AdamW.
        schedule: `one_cycle` rises for a tenth of the steps, then falls to 0 as a cosine; `constant` stays.
        augmentation: of training batches; `crop` readings of `heartnet.augment.random_crop`, and the strengths of
            `augment`; none by default.
        seed: randomness of epoch `e` is a function of `seed` and `e` alone, so a resumed run is the same run.

    Raises:
        HeartnetError: a learning rate, weight decay or augmentation that cannot work.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        kind: str,
        targets: Sequence[str],
        target_mean: Sequence[float],
        target_std: Sequence[float],
        scaling: dict[str, list[Any]],
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        schedule: Schedule = "one_cycle",
        augmentation: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {"learning_rate": learning_rate, "weight_decay": weight_decay}.items():
            if not 0 <= value < math.inf:
                raise HeartnetError(f"module.{name}={value}: must be a number of 0 or more")
        self.network = network
        self.kind = kind
        self.targets = tuple(targets)
        self.scaling = Scaling.from_dict(scaling)
        self.learning_rate, self.weight_decay, self.schedule, self.seed = learning_rate, weight_decay, schedule, seed
        self.augmentation = check_augmentation(augmentation or {})
        if self.scaling.channels != CHANNELS and any(self.augmentation.values()):
            raise HeartnetError("module.augmentation is for readings, not for data.view=hourly; set all of it to 0")
        self.target_mean: Tensor
        self.target_std: Tensor
        self.register_buffer("target_mean", torch.tensor(target_mean, dtype=torch.float32))
        self.register_buffer("target_std", torch.tensor(target_std, dtype=torch.float32))
        self._loss, self.losses = torch.tensor(math.nan), StepLosses()
        self.scores = nn.ModuleDict({split: TargetScores(kind, self.targets) for split in ("val", "test")})
        set_output_bias = getattr(network, "set_output_bias", None)
        if kind == "conditions" and set_output_bias is not None:
            set_output_bias(torch.logit(self.target_mean.clamp(0.001, 0.999)))
        set_clock = getattr(network, "set_clock", None)
        if set_clock is not None and "dt" in self.scaling.channels:
            place = self.scaling.channels.index("dt")
            set_clock(self.scaling.mean[place], self.scaling.std[place])

    def forward(self, batch: Batch) -> Logits:
        logits: Logits = self.network(batch["inputs"], batch["lengths"], batch["metadata"])
        return logits

    def score(self, batch: Batch) -> Float[Tensor, "batch target"]:
        """Return the scores of a batch, in float32; on a CPU by several threads (`heartnet.model.pieces`)."""
        return pieces.score(self.network, batch["inputs"], batch["lengths"], batch["metadata"]).float()

    def loss(self, score: Float[Tensor, "batch target"], targets: Float[Tensor, "batch target"]) -> Float[Tensor, ""]:
        """Return the mean loss over known targets; 0 if none is known."""
        known = ~targets.isnan()
        if self.kind == "conditions":
            each = F.binary_cross_entropy_with_logits(score, targets.nan_to_num(), reduction="none")
        else:
            each = (score - ((targets - self.target_mean) / self.target_std).nan_to_num()) ** 2
        return (each * known).sum() / known.sum().clamp(min=1)

    def natural(self, score: Float[Tensor, "batch target"]) -> Float[Tensor, "batch target"]:
        """Return logits as probabilities (conditions) or in the target's unit (synthetic)."""
        return torch.sigmoid(score) if self.kind == "conditions" else score * self.target_std + self.target_mean

    def on_train_start(self) -> None:
        self.losses = StepLosses()  # without what a training that broke may have left
        late_fusion.check(self)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        late_fusion.undo(self)
        # Not at the start of the epoch: Lightning leaves that hook out in the first epoch of a resumed run.
        if batch_idx == 0:
            torch.manual_seed((self.seed * 1_000_003 + self.current_epoch) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        batch = self._augmented(batch)
        loss = self.loss(self.score(batch), batch["targets"])
        self._loss = loss.detach()
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        self.losses.add(self.trainer, self._loss)

    def on_train_epoch_end(self) -> None:
        self.losses.write(self.trainer)

    def _augmented(self, batch: Batch) -> Batch:
        crop, strengths = int(self.augmentation["crop"]), {k: v for k, v in self.augmentation.items() if k != "crop"}
        if crop:
            inputs, lengths = random_crop(batch["inputs"], batch["lengths"], crop)
            batch = batch | {"inputs": inputs, "lengths": lengths}
        return batch | {"inputs": augment(batch["inputs"], **strengths)} if any(strengths.values()) else batch

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return what `predict_step` returns."""
        return self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return what `predict_step` returns."""
        self._tested.append(self._evaluate("test", batch))
        return self._tested[-1]

    def _evaluate(self, split: str, batch: Batch) -> dict[str, Tensor]:
        score = self.score(batch)
        natural = self.natural(score)
        self._scores(split).update(natural, batch["targets"], self.loss(score, batch["targets"]))
        return {"index": batch["index"], "scores": natural, "logits": score}

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")
        late_fusion.fuse(self)

    def on_test_epoch_start(self) -> None:
        self._tested: list[dict[str, Tensor]] = []

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")
        self.test_rows = torch.cat([batch["index"] for batch in self._tested]).cpu().numpy()
        self.test_scores = torch.cat([batch["scores"] for batch in self._tested]).cpu().numpy()

    def _log_scores(self, split: str) -> None:
        scores = self._scores(split)
        values = {f"{split}/{name}": value for name, value in scores.compute().items()}
        scores.reset()
        if self.trainer.state.fn == "fit":
            log_validation(self.trainer, values)
        else:  # which return what Lightning logs
            self.log_dict(values)

    def _scores(self, split: str) -> TargetScores:
        scores = self.scores[split]
        assert isinstance(scores, TargetScores)
        return scores

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return `index` [batch], `scores` [batch, target] (probabilities, or targets in their unit) and `logits`, of
        which the scores are made."""
        score = self.score(batch)
        return {"index": batch["index"], "scores": self.natural(score), "logits": score}

    def probe(self, batch: Batch) -> Probe:
        """Return what a measurement needs to see."""
        return Probe(
            network=self.network,
            inputs=batch["inputs"],
            rest=(batch["lengths"], batch["metadata"]),
            lengths=batch["lengths"],
            outputs=self.targets,
            channels=(*self.scaling.channels, "missing")[: batch["inputs"].shape[2]],
            dt=self.scaling.seconds(batch["inputs"]) if "dt" in self.scaling.channels else None,
        )

    def configure_optimizers(self) -> Any:
        fused = self.device.type in ("cpu", "cuda") or None  # one kernel for all weights
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=fused
        )
        # In mixed precision Lightning clips no gradients of an optimiser that would unscale them by itself.
        optimizer._step_supports_amp_scaling = False
        if self.schedule == "constant":
            return optimizer
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _description(self) -> dict[str, Any]:
        return {
            "architecture": type(self.network).__name__,
            "arguments": getattr(self.network, "arguments", {}),
            "kind": self.kind,
            "targets": list(self.targets),
            "scaling": self.scaling.as_dict(),
            "module": {name: getattr(self, name) for name in _TRAINING},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["heartnet"] = self._description()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model, other data or another way of training, or an incomplete one.

        Raises:
            HeartnetError: naming the first thing that differs or is missing.
        """
        found, expected = checkpoint.get("heartnet"), self._description()
        if found is None:
            raise HeartnetError("the checkpoint was not written by heartnet; ckpt_path must name one that was")
        for key, (theirs, ours) in _differences(found, expected):
            raise HeartnetError(
                f"the checkpoint's {key} is {theirs}, this run's is {ours}; "
                "resume with the overrides that the run was started with (they stand in its config.yaml)"
            )
        weights = checkpoint.get("state_dict", {})
        missing = [key for key in _RESUMABLE if key not in checkpoint]
        missing += [key for key in self.state_dict() if key not in weights]
        if missing:
            raise HeartnetError(
                f"the checkpoint lacks {missing[0]}, so training cannot go on from it; take checkpoints/last.ckpt, "
                "and save with checkpoint.save_weights_only=false"
            )

    @classmethod
    def from_checkpoint(cls, path: Path) -> HeartnetModule:
        """Build the module that a checkpoint describes, in evaluation mode, on the CPU.

        Nothing in the file is run: only tensors and plain values are read, and the network comes from `ARCHITECTURES`.

        Raises:
            HeartnetError: the file is missing, damaged, or not a checkpoint of heartnet.
        """
        checkpoint = load_checkpoint(path)
        try:
            about, weights = checkpoint["heartnet"], checkpoint["state_dict"]
            module = cls(
                ARCHITECTURES[about["architecture"]](**about["arguments"]),
                kind=about["kind"],
                targets=about["targets"],
                target_mean=weights["target_mean"].tolist(),
                target_std=weights["target_std"].tolist(),
                scaling=about["scaling"],
            )
            module.load_state_dict(weights)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, HeartnetError) as error:
            raise HeartnetError(f"{path}: a damaged checkpoint ({type(error).__name__}: {error})") from error
        return module.eval()


def _differences(found: Any, expected: Any, where: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the place of each difference between two nested dicts, and the two values."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in expected | found:
            yield from _differences(found.get(key), expected.get(key), f"{where}.{key}" if where else str(key))
    elif found != expected:
        yield where, (found, expected)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running anything in it.

    Raises:
        HeartnetError: the file is missing, damaged, or not a checkpoint of heartnet.
    """
    if not path.is_file():
        raise HeartnetError(f"{path}: no such checkpoint; a run keeps its own in checkpoints/, the newest as last.ckpt")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # `torch.load` itself does not look at checksums
        if damaged is not None:
            raise ValueError(f"{damaged} in it does not match its checksum")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise HeartnetError(f"{path}: not a checkpoint that can be read ({error})") from error
    about = checkpoint.get("heartnet") if isinstance(checkpoint, dict) else None
    if not isinstance(checkpoint, dict) or not isinstance(about, dict):
        raise HeartnetError(f"{path}: a checkpoint, but not one that heartnet wrote")
    if about.get("architecture") not in ARCHITECTURES:
        raise HeartnetError(f"{path}: its architecture {about.get('architecture')!r} is not known here")
    return checkpoint


def one_cycle(step: int, steps: int, warm_up: float = 0.1) -> float:
    """Return the factor of the learning rate: up in a straight line for `warm_up` of `steps`, then a cosine to 0."""
    rise = max(warm_up * steps, 1.0)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min((step - rise) / max(steps - rise, 1.0), 1.0)))
