"""Which checkpoint of a run is meant, and how that run saw its data; nothing in either file is run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml

from heartnet.conditions import in_order
from heartnet.errors import HeartnetError
from heartnet.folders import checkpoints_of
from heartnet.module import HeartnetModule, load_checkpoint
from heartnet.network_inputs import VIEWS, View
from heartnet.people import Way, chosen_ways
from heartnet.synthetic import check_targets


@dataclass(frozen=True)
class Chosen:
    """A checkpoint, ready to predict with.

    Attributes:
        path: the file.
        module: in evaluation mode, on the CPU.
        view: what a step of its inputs is (`heartnet.network_inputs.VIEWS`).
        mask_channel: whether its last channel is 1 where heart rate is missing.
        epochs: that are behind it.
        configuration: the run's `config.yaml`; empty if it is not there.
        fold: the number of its fold, if it is of one.
        ways: how a person's weeks become one score, by condition, as the run chose it; empty if it chose nothing.
        notes: what one has to know of the choice.
    """

    path: Path
    module: HeartnetModule
    view: View
    mask_channel: bool
    epochs: int
    configuration: Mapping[str, Any] = field(default_factory=dict)
    fold: int | None = None
    ways: Mapping[str, Way] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose_checkpoint(run: Path, which: str = "best") -> Chosen:
    """Load a checkpoint of a run.

    Args:
        run: its folder, or a checkpoint itself.
        which: `best`, which is the newest where a run kept no best, or `last`.

    Raises:
        HeartnetError: there is none, it cannot be read, or it predicts what this heartnet does not know.
    """
    path, monitor = checkpoint_of(run, which)
    notes: tuple[str, ...] = ()
    if not run.is_file() and which == "best" and not monitor:
        why = "it had no monitor, or one that was NaN or infinite in each epoch, or the file was removed"
        notes = (f"{run} kept no best checkpoint ({why}), so its newest is taken.",)
    about = load_checkpoint(path)
    module = HeartnetModule.from_checkpoint(path)
    views: tuple[View, ...] = get_args(View)
    view = next((name for name in views if VIEWS[name] == module.scaling.channels), None)
    if view is None:
        known = "; ".join(f"{name}: {', '.join(channels)}" for name, channels in VIEWS.items())
        raise HeartnetError(
            f"{path}: the network sees the channels {', '.join(module.scaling.channels)}, in this order; here there "
            f"are {known}. Use the heartnet that trained it"
        )
    channels = getattr(module.network, "arguments", {}).get("channels")
    if channels not in (len(VIEWS[view]), len(VIEWS[view]) + 1):
        raise HeartnetError(f"{path}: the network has {channels} channels, and its {view} have {len(VIEWS[view])}")
    _check_targets(path, module)
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    fold = folder.name.removeprefix("fold-") if folder.name.startswith("fold-") else ""
    home = folder.parent if fold else folder
    configuration = _configuration(home / "config.yaml")
    data = configuration.get("data")
    said = data.get("view") if isinstance(data, Mapping) else None
    if said is not None and said != view:
        raise HeartnetError(
            f"{home / 'config.yaml'} says data.view={said}, and {path} sees {view}: they are not of one run"
        )
    return Chosen(
        path, module, view, channels > len(VIEWS[view]), int(about.get("epoch", -1)) + 1, configuration,
        int(fold) if fold.isdigit() else None, _ways(path, about), notes,
    )  # fmt: skip


def checkpoint_of(run: Path, which: str = "best") -> tuple[Path, str]:
    """Return the checkpoint that is meant, and by what it is the best; empty if it is the newest, or named itself.

    Args:
        run: its folder, or a checkpoint itself.
        which: as for `choose_checkpoint`.

    Raises:
        HeartnetError: there is none, or the newest cannot be read.
    """
    if run.is_file():
        return run, ""
    last = checkpoints_of(run)[-1]
    return (_best(last) if which == "best" else None) or (last, "")


def _ways(path: Path, about: Mapping[str, Any]) -> dict[str, Way]:
    try:
        return chosen_ways(about)
    except HeartnetError as error:
        raise HeartnetError(f"{path}: a damaged checkpoint ({error})") from error


def _check_targets(path: Path, module: HeartnetModule) -> None:
    outputs = getattr(module.network, "arguments", {}).get("outputs")
    if module.kind not in ("conditions", "synthetic") or outputs != len(module.targets):
        raise HeartnetError(
            f"{path}: a damaged checkpoint ({outputs} outputs for {len(module.targets)} targets of kind "
            f"{module.kind!r})"
        )
    if module.kind == "synthetic":
        try:
            check_targets(module.targets)
        except HeartnetError as error:
            raise HeartnetError(f"{path}: it predicts what is not known here ({error})") from error
    elif in_order(module.targets) != module.targets:
        raise HeartnetError(
            f"{path}: its conditions are in the order {', '.join(module.targets)}, and the order here is "
            f"{', '.join(in_order(module.targets))}: which output is which cannot be told. Use the heartnet that "
            "trained it"
        )


def _best(last: Path) -> tuple[Path, str] | None:
    """Return the checkpoint that the newest one names as the best, if it is there, and by what it is that.

    Where the monitor was never finite, Lightning names the first epoch, of which nobody knows that it is the best.
    """
    states = load_checkpoint(last).get("callbacks", {}).values()
    for state in states:
        if isinstance(state, Mapping) and state.get("monitor") and state.get("best_model_path"):
            if not math.isfinite(float(state.get("best_model_score", math.nan))):
                return None
            found = last.parent / Path(str(state["best_model_path"])).name
            if found.is_file():
                return found, str(state["monitor"])
    return None


def _configuration(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise HeartnetError(f"{file} cannot be read ({type(error).__name__}); restore it, or remove it") from error
    return values if isinstance(values, Mapping) else {}
