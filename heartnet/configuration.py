"""What a configuration must hold: nodes that name constructors, and options; what cannot work is refused."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from heartnet.arguments import check_arguments, check_value
from heartnet.errors import HeartnetError, did_you_mean

CONF = Path(__file__).resolve().parents[1] / "conf"
"""The folder of the YAML files, a group a folder."""

NODES: dict[str, tuple[str, ...]] = {
    "task": (),
    "data": ("task", "seed"),
    "model": ("channels", "outputs", "metadata_size"),
    "module": ("network", "kind", "targets", "target_mean", "target_std", "scaling", "seed"),
    "trainer": ("callbacks", "logger", "default_root_dir"),
    "checkpoint": ("dirpath",),
}
"""The nodes that name a constructor, each with the arguments that come from here and not from the configuration."""

OPTIONS: dict[str, Any] = {
    "seed": int | None,
    "threads": int | None,
    "compile": Literal["convolutions"] | None,
    "ckpt_path": str | None,
    "cross_validate": bool,
    "test": bool,
    "fail_on": Literal["warn", "fail"] | None,
}
"""The options that belong to the run itself."""


def check(values: Mapping[str, Any]) -> None:
    """Refuse a configuration that cannot work.

    Args:
        values: the whole configuration as plain data, `"???"` where a value is missing.

    Raises:
        HeartnetError: naming the node or option, and what would fit.
    """
    known = [*OPTIONS, *NODES, "callbacks"]
    for name in values:
        if name not in known:
            raise HeartnetError(f"{name}: no such option; there are {', '.join(known)}.{did_you_mean(name, known)}")
    for name, hint in OPTIONS.items():
        check_value(name, values.get(name), hint)
    for name, provided in NODES.items():
        check_node(name, values.get(name), provided)
    for name, node in (values.get("callbacks") or {}).items():
        check_node(f"callbacks.{name}", node)
    check_together(values)


def check_node(name: str, node: Any, provided: Sequence[str] = ()) -> None:
    """Refuse a node that names no constructor, or arguments that the constructor does not take."""
    if not isinstance(node, dict) or not node.get("_target_"):
        group, _, part = name.partition(".")
        how = f"{'+callbacks' if group == 'callbacks' else group}=…"
        raise HeartnetError(
            f"{name} has no _target_, so nothing says what it is; choose it as a whole: {how}; {there_are(group, part)}"
        )
    try:
        constructor = pkgutil.resolve_name(node["_target_"])
    except Exception as error:
        raise HeartnetError(f"{name}._target_={node['_target_']}: cannot be imported ({last_line(error)})") from error
    if not callable(constructor):
        raise HeartnetError(f"{name}._target_={node['_target_']}: is neither a class nor a function")
    for key, value in node.items():
        if value == "???":
            about = " (the folder that `heartnet prepare … --out FOLDER` wrote)" if name == "data" else ""
            raise HeartnetError(f"{name}.{key} is not set; add {name}.{key}=…{about}")
    arguments = {key: value for key, value in node.items() if not re.fullmatch(r"_[a-z]+_", key)}
    check_arguments(constructor, arguments, name, provided)


def check_together(values: Mapping[str, Any]) -> None:
    """Refuse options that are possible alone and not together."""
    seed, checkpoint = values["seed"], values["ckpt_path"]
    if seed is not None and not 0 <= seed < 2**32:
        raise HeartnetError(f"seed={seed}: must be null or from 0 to {2**32 - 1}")
    if values["threads"] is not None and values["threads"] < 1:
        raise HeartnetError(f"threads={values['threads']}: must be null or at least 1")
    for name in ("cohort_seed", "split_seed", "labelled_seed"):
        if isinstance(given := values["data"].get(name), int) and given < 0:
            raise HeartnetError(f"data.{name}={given}: must be 0 or more")
    trainer = values["trainer"]
    if trainer.get("overfit_batches"):
        raise HeartnetError(
            "trainer.overfit_batches replaces the sampler that makes the batches; use +trainer.limit_train_batches=N"
        )
    if not (every := trainer.get("accumulate_grad_batches", 1)) or (isinstance(every, int) and every < 1):
        raise HeartnetError(f"trainer.accumulate_grad_batches={every}: must be at least 1")
    if values["test"] and trainer.get("limit_test_batches") == 0:
        raise HeartnetError("trainer.limit_test_batches=0 leaves nothing to score; use test=false")
    if values["cross_validate"] and not values["data"].get("folds"):
        raise HeartnetError("cross_validate=true needs a number of folds, for example data.folds=5")
    if values["data"].get("fold") and not values["data"].get("folds"):
        raise HeartnetError(f"data.fold={values['data']['fold']}: there are no folds; set data.folds as well")
    if checkpoint is None:
        return
    if values["cross_validate"]:
        raise HeartnetError("ckpt_path goes on with one run, not with a cross-validation; set cross_validate=false")
    if not Path(checkpoint).is_file():
        found = "is a folder" if Path(checkpoint).is_dir() else "no such file"
        raise HeartnetError(
            f"ckpt_path={checkpoint}: {found}; a run keeps its checkpoints in checkpoints/, the newest as last.ckpt"
        )


def there_are(group: str, name: str = "") -> str:
    """Return the names that a group has, and the nearest to one that it does not have."""
    names = options_of(group)
    return f"there are {', '.join(names)}.{did_you_mean(name, names) if name else ''}"


def who_has(key: str) -> str:
    """Return which files of a group have a key that the one chosen lacks, in words; empty if none has."""
    group, _, name = key.partition(".")
    texts = {each: (CONF / group / f"{each}.yaml").read_text(encoding="utf-8") for each in options_of(group)}
    there = [f"{group}={each}" for each, text in texts.items() if name and name in (yaml.safe_load(text) or {})]
    return f" It belongs to {' and '.join(there)}; add that." if there else ""


def options_of(group: str) -> list[str]:
    """Return the names of the files in a group of the configuration."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def groups() -> list[str]:
    """Return the names of the groups of the configuration."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


def last_line(error: BaseException) -> str:
    """Return the last line of what an error says, or its name."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
