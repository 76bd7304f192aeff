"""What went wrong, in words: overrides that fit nothing, nodes that cannot be made, files that cannot be read."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from heartnet.configuration import CONF, groups, last_line, options_of, there_are, who_has
from heartnet.errors import HeartnetError, did_you_mean

SWEEP = ("-m", "--multirun")
"""What makes several values of an override a sweep."""


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
    if isinstance(error, ValueError) and "flag can only be used" in str(error):  # Hydra's, for --resolve alone
        return str(error)
    if isinstance(error, ValueError) and raised_in(error, "omegaconf"):  # for data.planted.one=2, which is a list
        return explain_overrides(sys.argv[1:])
    if type(error).__name__ == "OutOfMemoryError":
        return f"the accelerator's memory is full; lower data.batch_size, or set it to auto ({last_line(error)})"
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def raised_in(error: BaseException, package: str) -> bool:
    """Say whether an error was raised by a package itself."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_globals["__name__"].partition(".")[0] == package


def explain_overrides(arguments: Sequence[str]) -> str | None:
    """Return what is wrong with the first override that fits nothing; None if all fit."""
    parser, overrides = OverridesParser.create(), []
    for before, word in pairwise(["", *arguments]):  # what follows a flag is its value, as in --cfg job
        if "=" not in word and word[:1] not in "-~" and (before in SWEEP or not before.startswith("-")):
            return explain_bare(word)
    for argument in (each for each in arguments if "=" in each and not each.startswith("-")):
        try:
            overrides.append(parser.parse_override(argument))
        except HydraException as error:
            return f"{argument}: cannot be read as key=value; is a quote or a bracket missing? ({last_line(error)})"
    swept = [] if set(SWEEP).intersection(arguments) else [each for each in overrides if each.is_sweep_override()]
    for override in overrides:
        if override.key_or_group in groups():
            if override in swept:
                return explain_sweep(override, takes_list=override.key_or_group == "callbacks")
            if (message := explain_group(override)) is not None:
                return message
    config = compose(each.input_line or "" for each in overrides if each.key_or_group in groups())
    for override in (each for each in overrides if each.key_or_group not in groups()):
        key = override.key_or_group
        message = None if override.is_add() else explain_key(key, config)
        if message is None and override in swept:  # conditions are a list too, though null at first
            listed = key == "task.conditions" or OmegaConf.is_list(OmegaConf.select(config, key))
            return explain_sweep(override, takes_list=listed)
        for name in parts_set(override, config) if message is None and not override.is_add() else ():
            message = message or explain_key(f"{key}.{name}", config)
        if message is not None:
            return message
    return None


def explain_bare(word: str) -> str:
    """Say what to type in place of a word that sets nothing."""
    if word in groups():
        return f"{word}: choose one, {'+' if word == 'callbacks' else ''}{word}=…; {there_are(word)}"
    having = [f"{'+' if group == 'callbacks' else ''}{group}={word}" for group in groups() if word in options_of(group)]
    meant = f" Did you mean {' or '.join(having)}?" if having else ""
    return f"{word}: options are given as key=value.{meant}"


def explain_sweep(override: Override, *, takes_list: bool) -> str:
    """Say what several values need."""
    key, _, values = str(override.input_line).partition("=")
    listed = f"; one list is '{key}=[{values}]'" if takes_list else ""
    return f"{override.input_line}: several values make a sweep, which needs -m{listed}"


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


def parts_set(override: Override, config: DictConfig) -> list[str]:
    """Return the names that an override sets in something that has others, as {a:1} does."""
    value = None if override.is_sweep_override() else override.value()
    now = OmegaConf.select(config, override.key_or_group)
    return list(map(str, value)) if isinstance(value, dict) and (now or OmegaConf.is_list(now)) else []


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
        if OmegaConf.is_list(there):
            whole = ".".join(parts[:depth])
            return f"{key}: {whole} is a list, which is given as a whole: '{whole}=[…]'"
        names = [str(name) for name in there if name != "_target_"] if OmegaConf.is_dict(there) else []
        if part not in names and part != "_target_":
            options = names if depth else sorted({*names, *groups()})
            if not options:
                return f"{key}: {'.'.join(path[:depth])} sets no {part} so far; to set it, begin with a plus: +{key}=…"
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
