"""Amnesia profiles as plain arrays: for checkpoints, and for `amnesia.npz`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heartnet.diagnostics.amnesia import AmnesiaProfile, AnchorProfile
from heartnet.errors import HeartnetError

_NAMES = ("outputs", "channels")
_ARRAYS = tuple(each.name for each in fields(AnchorProfile) if each.name != "anchor")


def as_arrays(profile: AmnesiaProfile) -> dict[str, np.ndarray]:
    """Return the profile as `outputs`, `channels`, `lengths`, `floor`, `anchors` and `{anchor}/{attribute}`."""
    found: dict[str, np.ndarray] = {name: np.array(getattr(profile, name)) for name in (*_NAMES, "lengths", "floor")}
    found["anchors"] = np.array([each.anchor for each in profile.anchors])
    for each in profile.anchors:
        found.update({f"{each.anchor}/{name}": getattr(each, name) for name in _ARRAYS})
    return found


def from_arrays(arrays: Mapping[str, np.ndarray]) -> AmnesiaProfile:
    """Return the profile that `as_arrays` took apart."""
    return AmnesiaProfile(
        outputs=tuple(str(name) for name in arrays["outputs"]),
        channels=tuple(str(name) for name in arrays["channels"]),
        lengths=arrays["lengths"],
        floor=float(arrays["floor"]),
        anchors=tuple(
            AnchorProfile(anchor=str(anchor), **{name: arrays[f"{anchor}/{name}"] for name in _ARRAYS})
            for anchor in arrays["anchors"]
        ),
    )


def to_tensors(profile: AmnesiaProfile) -> dict[str, Tensor | list[str]]:
    """Return the profile as a checkpoint can keep it, and load it without running code: tensors and lists of str."""
    return {
        name: [str(each) for each in array] if array.dtype.kind == "U" else torch.from_numpy(np.array(array))
        for name, array in as_arrays(profile).items()
    }


def from_tensors(tensors: Mapping[str, Tensor | list[str]]) -> AmnesiaProfile:
    """Return the profile that `to_tensors` took apart."""
    return from_arrays(
        {name: value.cpu().numpy() if isinstance(value, Tensor) else np.array(value) for name, value in tensors.items()}
    )


def save_npz(path: Path, **profiles: AmnesiaProfile) -> None:
    """Write profiles, each under its name, whole or not at all."""
    arrays: dict[str, Any] = {
        f"{name}/{key}": value for name, each in profiles.items() for key, value in as_arrays(each).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)  # gradients hardly compress, in 25 times the time
    os.replace(partial, path)


def load_npz(path: Path) -> dict[str, AmnesiaProfile]:
    """Return the profiles in a file that `save_npz` wrote, by name.

    Raises:
        HeartnetError: the file is missing or is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        names = list(dict.fromkeys(key.split("/", 1)[0] for key in arrays))
        return {
            name: from_arrays({key.split("/", 1)[1]: v for key, v in arrays.items() if key.startswith(f"{name}/")})
            for name in names
        }
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise HeartnetError(f"{path}: no amnesia profiles can be read from it ({error})") from error
