"""`heartnet export RUN --onnx FILE`: a trained network for programs without PyTorch, checked before it is left."""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from heartnet.chosen_checkpoint import Chosen, choose_checkpoint
from heartnet.errors import HeartnetError
from heartnet.exported import Exported, described
from heartnet.folders import short
from heartnet.network_inputs import padded, seen_of
from heartnet.scaling import metadata_values
from heartnet.store import open_store
from heartnet.tested import file_hash, of_the_test
from heartnet.weeks import Weeks

TOLERANCE = 1e-5
"""Largest difference of a score between the file and PyTorch: of probabilities, or of synthetic targets in spreads."""

OPSET = 17
"""Version of the ONNX operators; of 2022, so that runtimes of all ages read it."""

_WEEKS = 8
_INPUTS = ("readings", "lengths", "metadata")
_DISCLAIMER = "Not a medical device: for research into models, not for diagnosis."


@dataclass(frozen=True)
class Agreement:
    """How near an exported network comes to the one it was made of.

    Attributes:
        weeks: what was compared, in words.
        shortest, longest: steps of the weeks.
        passes: calls of both networks, alone and in batches.
        difference: the largest, of a probability, or of a synthetic target in its spreads.
    """

    weeks: str
    shortest: int
    longest: int
    passes: int
    difference: float


def export_command(arguments: argparse.Namespace) -> None:
    """Export, check and print what came out, as the options of `heartnet.cli` say.

    Raises:
        HeartnetError: for whatever is wrong with the run, or if the file does not agree; nothing is left then. What can
            be told without opening the run `heartnet.refusals.check_export` has refused.
    """
    out: Path = arguments.onnx
    chosen = choose_checkpoint(arguments.run_folder, arguments.checkpoint)
    weeks, which = weeks_to_compare(chosen, arguments.store)
    found = export(chosen, out, weeks, which)
    console = Console(highlight=False)
    for line in (
        *chosen.notes,
        f"{short(chosen.path)}, after {chosen.epochs} {'epoch' if chosen.epochs == 1 else 'epochs'} of training; "
        f"{of_the_test(chosen.path)}",
        f"Agrees with PyTorch to {found.difference:.1e} (at most {TOLERANCE:.0e} is accepted) on {found.weeks} of "
        f"{found.shortest:,} to {found.longest:,} steps, in {found.passes} calls, alone and in padded batches.",
        f"Inputs are in natural units; what they are stands in the file's metadata, key heartnet. {_DISCLAIMER}",
        f"The network is in {short(out)}, {out.stat().st_size / 1e6:.1f} MB.",
    ):
        console.print(line, soft_wrap=True, markup=False)


def export(chosen: Chosen, out: Path, weeks: Weeks, which: str = "weeks") -> Agreement:
    """Write a network as ONNX, if it agrees with PyTorch on weeks of several lengths.

    Inputs are in natural units, NaN where missing: `readings`, `lengths` and, for a network that looks at them,
    `metadata`. Outputs: `scores` and `logits`. The axes batch and time are free. Their meaning stands in the file, as
    JSON under the metadata key `heartnet` (`heartnet.exported.described`).

    Args:
        chosen: the network.
        out: the file, which appears once it is whole and has been checked; an old one is replaced then.
        weeks: to compare on.
        which: what they are, for the account.

    Raises:
        HeartnetError: ONNX is not installed, the network cannot be exported or does not agree, or the file cannot be
            written.
    """
    onnx, runtime = _libraries()
    network = Exported(chosen).eval()
    text = _exported(network, weeks, chosen)
    model = onnx.load_from_string(text)
    taken = [each.name for each in model.graph.input]  # a network may not look at all
    about = described(chosen, taken) | {
        "checkpoint": {"name": chosen.path.name, "sha256": file_hash(chosen.path), "epochs": chosen.epochs},
        "use": _DISCLAIMER,
    }
    onnx.helper.set_model_props(model, {"heartnet": json.dumps(about, ensure_ascii=False)})
    try:
        onnx.checker.check_model(model, full_check=True)
        whole: bytes = model.SerializeToString()
        found = _agreement(network, chosen, whole, weeks, which, runtime)
    except HeartnetError:
        raise
    except Exception as error:  # both libraries raise many kinds
        raise HeartnetError(
            f"--onnx {out}: the exported network does not run, so no file is left: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}. Report it with the versions onnx "
            f"{onnx.__version__}, onnxruntime {runtime.__version__}, torch {torch.__version__}"
        ) from error
    if not found.difference <= TOLERANCE:
        raise HeartnetError(
            f"--onnx {out}: the exported network and PyTorch differ by {found.difference:.2g} in a score, and at most "
            f"{TOLERANCE:.0e} is accepted, so no file is left. The network may have no finite scores; else report it "
            f"with the versions onnx {onnx.__version__}, torch {torch.__version__}"
        )
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.write_bytes(whole)
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise HeartnetError(f"cannot write {out}: {error.strerror or error}") from error
    return found


def weeks_to_compare(chosen: Chosen, store: Path | None) -> tuple[Weeks, str]:
    """Return the weeks of a store, or else those that the run was trained on, or else simulated ones; in words, too."""
    if store is not None:
        return open_store(store), f"weeks of {short(store)}"
    data = chosen.configuration.get("data")
    path = data.get("path") if isinstance(data, dict) else None
    if isinstance(path, str) and Path(path).exists():
        return open_store(Path(path)), f"weeks of {path}"
    from heartnet.simulate import simulate

    lost = f", for {path} is not at hand (name weeks by --store)" if isinstance(path, str) else ""
    return simulate(_WEEKS, 1, 0), f"simulated weeks{lost}"


def _libraries() -> tuple[Any, Any]:
    try:
        return import_module("onnx"), import_module("onnxruntime")
    except ImportError as error:
        raise HeartnetError(
            f"heartnet export needs onnx and onnxruntime ({error}); install them: pip install 'heartnet[export]', or "
            "in a copy of the repository pip install -c constraints.txt -e '.[export]'"
        ) from error


def _exported(network: Exported, weeks: Weeks, chosen: Chosen) -> bytes:
    """Return the file, without its metadata.

    By tracing, PyTorch's older exporter: that of `torch.export` unrolls an LSTM into its steps.
    """
    seen = [seen_of(weeks, 0, chosen.view)[:64], seen_of(weeks, 0, chosen.view)[:37]]
    arrays = network.examples(seen, metadata_values(weeks.table[[0, 0]]))
    names = _INPUTS[: len(arrays)]
    axes = {name: {0: "batch"} for name in (*names, "scores", "logits")}
    axes["readings"] |= {1: "time"}
    try:
        with tempfile.TemporaryDirectory() as folder, _quiet(), _extra_operators(), torch.no_grad():
            file = Path(folder) / "network.onnx"
            torch.onnx.export(
                network, tuple(map(torch.from_numpy, arrays)), file, dynamo=False, opset_version=OPSET,
                input_names=list(names), output_names=["scores", "logits"], dynamic_axes=axes,
            )  # fmt: skip
            return file.read_bytes()
    except Exception as error:  # the exporter raises many kinds
        raise HeartnetError(
            f"{chosen.path}: {type(network.network).__name__} cannot be exported by torch {torch.__version__}: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # That it is old; that traced shapes may be fixed; that an LSTM's batch may be. What is written is checked.
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _extra_operators() -> Iterator[None]:
    """Let exp(x) − 1, which ONNX has no operator for, be written as that."""

    def expm1(graph: Any, x: Any) -> Any:
        return graph.op("Sub", graph.op("Exp", x), graph.op("Constant", value_t=torch.tensor(1.0)))

    torch.onnx.register_custom_op_symbolic("aten::expm1", expm1, OPSET)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::expm1", OPSET)  # type: ignore[attr-defined]


def _agreement(
    network: Exported, chosen: Chosen, whole: bytes, weeks: Weeks, which: str, runtime: Any
) -> Agreement:  # fmt: skip
    session = runtime.InferenceSession(whole, _options(runtime), providers=["CPUExecutionProvider"])
    rows = _rows(weeks)
    seen = [seen_of(weeks, row, chosen.view) for row in rows]
    about = metadata_values(weeks.table[rows])
    seen = [*seen, seen[0][:1], seen[0][:2], seen[-1][: len(seen[-1]) // 2 + 1]]
    about = np.concatenate([about, about[[0, 0, -1]]])
    about[-1] = np.nan
    alone = [([week], about[i : i + 1]) for i, week in enumerate(seen)]
    calls = [*alone, (seen, about), (seen[::-1], about[::-1])]
    worst = 0.0
    for some, people in calls:
        arrays = network.examples(some, people)
        given = dict(zip(_INPUTS, arrays, strict=False))
        [found] = session.run(["scores"], {each.name: given[each.name] for each in session.get_inputs()})
        expected = _by_pytorch(chosen, some, people)
        spread = np.ones(1) if network.conditions else chosen.module.target_std.numpy()
        worst = float(np.maximum(worst, (abs(found - expected) / spread).max()))  # NaN stays
    lengths = [len(week) for week in seen]
    return Agreement(f"{len(rows)} {which}", min(lengths), max(lengths), len(calls), worst)


def _by_pytorch(
    chosen: Chosen, seen: list[npt.NDArray[np.float32]], people: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Return the scores as `heartnet predict` makes them: scaled in NumPy, so that the file's scaling is checked."""
    scaling = chosen.module.scaling
    batch = padded(seen, scaling, chosen.view, mask_channel=chosen.mask_channel)
    scaled = (people - np.array(scaling.metadata_mean)) / np.array(scaling.metadata_std)
    known = ~np.isnan(people)
    metadata = np.concatenate([np.where(known, scaled, 0.0), known], axis=1).astype(np.float32)
    batch |= {"metadata": torch.from_numpy(metadata), "index": torch.arange(len(seen))}
    with torch.inference_mode():
        scores: npt.NDArray[np.float32] = chosen.module.predict_step(batch, 0)["scores"].numpy()
    return scores


def _rows(weeks: Weeks) -> list[int]:
    """Return weeks from the shortest to the longest, evenly spread."""
    order = np.argsort(np.diff(weeks.offsets), kind="stable")
    places = np.linspace(0, len(order) - 1, min(_WEEKS, len(order))).astype(np.int64)
    return [int(row) for row in order[places]]


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    return options
