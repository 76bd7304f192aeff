"""What constructors take: an option that is not there or does not fit is refused by name, before anything is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, Unpack, get_args, get_origin, get_type_hints

from heartnet.errors import HeartnetError, did_you_mean

_PLAIN: dict[Any, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path", NoneType: "null",
}  # fmt: skip


def check_arguments(
    constructor: Callable[..., Any], values: Mapping[str, Any], node: str, provided: Collection[str] = ()
) -> None:
    """Refuse values with which a constructor cannot be called.

    Args:
        constructor: a class or function; its annotations say what fits. Those that are no plain data are not checked.
        values: arguments by name, as plain data.
        node: what the options are called, for example `"model"`.
        provided: arguments that the program itself passes.

    Raises:
        HeartnetError: an argument that does not exist, that the program sets, that is missing or of another type.
    """
    hints = argument_hints(constructor)
    free = [name for name in hints if name not in provided]
    about = getattr(constructor, "__name__", str(constructor))
    for name, value in values.items():
        if name in provided:
            raise HeartnetError(
                f"{node}.{name}: is set by the program, from the data or the run's folder; leave it out"
            )
        if name not in hints:
            raise HeartnetError(
                f"{node}.{name}: {about} takes no such argument; it takes {', '.join(free)}.{did_you_mean(name, free)}"
            )
        check_value(f"{node}.{name}", value, hints[name])
    for name, parameter in inspect.signature(constructor).parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if needed and name not in provided and name not in values:
            raise HeartnetError(f"{node}.{name} is missing; {about} needs it")


def argument_hints(constructor: Callable[..., Any]) -> dict[str, Any]:
    """Return the type of each argument by name; those of `**options: Unpack[…]` one by one."""
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    hints = get_type_hints(function)
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        hint = hints.get(name, Any)
        if get_origin(hint) is Unpack:
            found |= get_type_hints(get_args(hint)[0])
        elif parameter.kind is not parameter.VAR_KEYWORD:
            found[name] = hint
    return found


def check_value(name: str, value: Any, hint: Any) -> None:
    """Refuse a value that does not fit a type, saying what would.

    Raises:
        HeartnetError: naming the option.
    """
    if not _fits(value, hint):
        words = [word for word in _words(hint) if isinstance(word, str)]
        shown = "null" if value is None else value
        raise HeartnetError(f"{name}={shown}: must be {_described(hint)}.{did_you_mean(str(value), words)}")


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or (isinstance(value, Mapping) and "_target_" in value):
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str)
    if isinstance(value, str):
        return hint is str
    if isinstance(value, Sequence):
        return _is(origin or hint, Sequence) and all(_fits(each, inner[0]) for each in value if inner)
    if isinstance(value, Mapping):
        return _is(origin or hint, Mapping) and all(_fits(each, inner[1]) for each in value.values() if inner)
    return inspect.isclass(hint) and isinstance(value, hint)


def _is(kind: Any, abstract: type) -> bool:
    return inspect.isclass(kind) and issubclass(kind, abstract)


def _words(hint: Any) -> list[Any]:
    """Return the literal values that a type names."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for each in get_args(hint) for word in _words(each)]


def _described(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType, Literal):
        others = [] if origin is Literal else [_described(each) for each in inner if get_origin(each) is not Literal]
        *parts, last = dict.fromkeys(text for text in (*map(str, _words(hint)), *others) if text)
        return f"{', '.join(parts)} or {last}" if parts else last
    if _is(origin or hint, Sequence) and hint is not str:
        return f"a list ([{_described(inner[0])}, …])" if inner else "a list"
    if _is(origin or hint, Mapping):
        return f"{{name: {_described(inner[1])}}}" if inner else "{name: value}"
    return _PLAIN.get(hint, "")
