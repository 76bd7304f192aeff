"""`heartnet card RUN`: what a trained network is, made of, good for and bad at, from its run's files, as Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import yaml

from heartnet.errors import HeartnetError
from heartnet.finding_rows import findings_markdown, why_none
from heartnet.findings import latest
from heartnet.folders import check_exists, checkpoints_of, short
from heartnet.page.write import check_place, write_page
from heartnet.predictions import NETWORK
from heartnet.report.folder import Run, is_run, read_run, runs_below
from heartnet.splits import SPLITS
from heartnet.tested import ScoredCheckpoint, file_hash, home_of, read_tested

if TYPE_CHECKING:
    from heartnet.chosen_checkpoint import Chosen

FILE = "model_card.md"
"""Where a run's folder keeps its card."""

MARK = "<!-- made by heartnet card -->"
"""In the second line of each card, so that no other file is ever replaced by one."""

UNKNOWN = "unknown"

_PATTERNS = "loss_patterns"  # the check that looks for them


def card_command(arguments: argparse.Namespace) -> None:
    """Write the card, and print where it is.

    Raises:
        HeartnetError: there is no run, its checkpoint cannot be read, or the card cannot be written.
    """
    place = write_card(arguments.run_folder, arguments.out)
    print(short(place.absolute()))


def write_card(run: Path, out: Path | None = None) -> Path:
    """Write the card of a run from its files only, and return where it is.

    Args:
        run: its folder, that of a cross-validation, or a checkpoint in one.
        out: where the card goes; `FILE` in the folder if None.

    Raises:
        HeartnetError: as `card_command`.
    """
    check_exists(run)
    folder = run if run.is_dir() else home_of(run)
    homes = _homes(run)
    if run.is_dir() and not homes and not is_run(run):
        if below := runs_below(run):
            raise HeartnetError(f"{run} holds several runs, as a sweep does; name one: {below[0]}")
        raise HeartnetError(f"{run}: no run is in this folder; runs of train.py are in runs/DATE/TIME")
    place = out if out is not None else folder / FILE
    check_place(place, MARK, "--out")
    from heartnet.chosen_checkpoint import choose_checkpoint  # PyTorch: only once nothing is left to refuse

    write_page(place, card(read_run(folder), [choose_checkpoint(home) for home in homes]), MARK, "--out")
    return place


def card(run: Run, networks: list[Chosen]) -> str:
    """Return the card as Markdown.

    Args:
        run: of `heartnet.report.folder.read_run`.
        networks: its checkpoints: one, one a fold, or none.
    """
    from heartnet.card_scores import read_test, score_lines

    test = read_test(run.folder)
    tested = _was_tested(run, test)
    sections = {
        "The network": _network(run, networks, tested=tested),
        "Use": _use(run, networks),
        "Data": _data(run, networks),
        "Scores": score_lines(test, networks, run.simulated),
        "Known patterns of losses": _patterns(run),
        "Findings": _findings(run),
        "How it was trained": _training(run),
    }
    lines = [f"# Model card: {run.name}", MARK, ""]
    if run.simulated:
        what = "Trained and tested" if tested else "Trained"
        lines += [f"**{what} on SIMULATED weeks: nothing here says anything about real people.**", ""]
    for title, own in sections.items():
        lines += [f"## {title}", "", *own, ""]
    lines += [f"Not readable, and left out: {note}." for note in run.noted]
    return "\n".join(lines).rstrip() + "\n"


def _homes(run: Path) -> list[Path]:
    """Return where the network that counts is kept, or that of each fold; none if no checkpoint was kept."""
    if run.is_file():
        return checkpoints_of(run)
    folds = sorted(run.glob("fold-*/checkpoints"), key=lambda path: (len(path.parent.name), path))
    homes = [path.parent for path in folds] if folds and not (run / "checkpoints").is_dir() else [run]
    return [home for home in homes if any(home.glob("checkpoints/last*.ckpt"))]


def _was_tested(run: Run, test: pl.DataFrame) -> bool:
    """Return whether the test was made, as its predictions show, or that the run, which was to make it, finished."""
    if (test["model"] == NETWORK).any():
        return True
    return run.status is not None and run.status.state == "finished" and run.values.get("test") is True


def _network(run: Run, networks: list[Chosen], *, tested: bool) -> list[str]:
    if not networks:
        return [f"- network: {UNKNOWN}, for the run kept no checkpoint"]
    from heartnet.exported import METADATA_UNITS, UNITS
    from heartnet.hourly import HOURLY_UNITS

    first = networks[0]
    module = first.module
    arguments = getattr(module.network, "arguments", {})
    weights = sum(each.numel() for each in module.network.parameters())
    units = HOURLY_UNITS if first.view == "hourly" else UNITS
    sees = ", ".join(f"{name} ({units[name]})" for name in module.scaling.channels)
    sees = f"{'each hour of a week' if first.view == 'hourly' else 'each reading of a week'}: {sees}"
    sees += ", and where heart rate is missing" if first.mask_channel else ""
    alone = arguments.get("metadata") == "only"
    never = [] if alone else [_never(networks, name) for name in module.scaling.channels]
    people = ", ".join(f"{name} ({unit})" for name, unit in METADATA_UNITS.items())
    lines = [
        f"- architecture: {type(module.network).__name__}, {weights:,} weights",
        f"- sees: {'nothing of a week, not even how long it is (model.metadata=only)' if alone else sees}",
        *([f"- of these no week that it was trained on had: {', '.join(filter(None, never))}"] if any(never) else []),
        f"- of the person: {people if arguments.get('metadata', 'none') != 'none' else 'nothing'}",
        f"- says: {'the probability of' if module.kind == 'conditions' else 'the synthetic targets'} "
        f"{', '.join(module.targets)}",
    ]
    for each in networks:
        fold = "" if each.fold is None else f" of fold {each.fold}"
        of_test = read_tested(home_of(each.path)) if tested else None
        lines.append(f"- checkpoint{fold}: {_named(each)}; {_which(each, of_test, tested=tested)}")
        lines += [
            f"- beside it{fold}: {other.name}, SHA-256 `{file_hash(other)}`"
            for other in sorted(each.path.parent.glob("*.ckpt"))
            if other != each.path and not other.name.startswith("last")
        ]
    state = UNKNOWN if run.status is None else f"{run.status.state}, {run.status.at}"
    return [*lines, f"- the run: {state}"]


def _which(network: Chosen, of_test: ScoredCheckpoint | None, *, tested: bool) -> str:
    """Say whether the scores of the test are of a checkpoint."""
    if not tested:
        return "not tested"
    if of_test is None:
        return "whether the scores below are of it is unknown"
    if of_test.sha256 != file_hash(network.path):
        return f"**the scores below are not of it**, but of {of_test}, SHA-256 `{of_test.sha256}`"
    return f"the scores below are of it; {of_test.which}"


def _named(network: Chosen) -> str:
    epochs = f"{network.epochs} {'epoch' if network.epochs == 1 else 'epochs'}"
    return f"{network.path.name}, after {epochs}, SHA-256 `{file_hash(network.path)}`"


def _never(networks: list[Chosen], channel: str) -> str:
    """Return the name of a channel that no training had, with the folds if those of others had it; empty if all had."""
    from heartnet.measured import was_learned

    without = [each for each in networks if not was_learned(each, channel)]
    if len(without) in (0, len(networks)):
        return channel if without else ""
    return f"{channel} (fold {', '.join(str(each.fold) for each in without)})"


def _use(run: Run, networks: list[Chosen]) -> list[str]:
    lines = [
        "- Meant for: research into how networks read wearable heart rate, and for debugging them.",
        "- **Not a medical device.** Not for diagnosis, treatment, screening, insurance or employment; no score says "
        "what a person has.",
        "- Scores rank people like those of the test. With other watches, other ages, another share of people who have "
        "a condition, or another way of asking for labels, ranking and calibration have to be measured anew.",
    ]
    if run.simulated:
        lines.append("- Simulated weeks follow published averages. A network trained on them is for trying out tools.")
    elif run.simulated is None:
        lines.append(f"- Whether the weeks are simulated or real: {UNKNOWN}.")
    if _at(run.values, "data", "split_by") == "week":
        lines.append("- Weeks were split, not people: the scores say nothing about new people.")
    if any(getattr(each.module.network, "arguments", {}).get("metadata", "none") != "none" for each in networks):
        lines.append("- It sees age, sex and body mass index, and may lean on them more than on the readings.")
    if float(_number(_at(run.values, "data", "labelled_share"), 1.0)) < 1:
        lines.append("- Only a part of the people to train on had labels (data.labelled_share).")
    return lines


def _data(run: Run, networks: list[Chosen]) -> list[str]:
    data = run.values.get("data")
    data = data if isinstance(data, Mapping) else {}
    if run.simulated:
        names = ("users", "weeks_per_user", "cohort_seed", "effect_scale", "missing_labels")
        about = ", ".join(f"{name} {data[name]}" for name in names if name in data)
        lines = [f"- simulated (`heartnet.simulate`): {about or UNKNOWN}"]
    else:
        lines = [f"- from: {data.get('path', UNKNOWN)}, {'real' if run.simulated is False else UNKNOWN}"]
    lines += list(_splits(networks, data))
    if run.account is None:
        reason = "simulated weeks are not dropped" if run.simulated else UNKNOWN
        return [*lines, f"- dropped, and why: {reason}"]
    lines += ["", "| stage | what | count |", "|---|---|---:|"]
    return [*lines, *(f"| {stage} | {_cell(what)} | {count:,} |" for stage, what, count in run.account)]


def _splits(networks: list[Chosen], data: Mapping[str, Any]) -> Iterator[str]:
    """Yield how many weeks and people each split has, where that can be known without simulating anew."""
    by = data.get("split_by", "user")
    if data.get("folds") and len(networks) > 1:
        yield f"- split by {by} in {data['folds']} folds; each week is in the test of one of them"
    elif data:
        shares = ", ".join(f"{name} {data[f'{name}_share']}" for name in ("val", "test") if f"{name}_share" in data)
        yield f"- split by {by}, shares: {shares or UNKNOWN}, seed {data.get('split_seed', UNKNOWN)}"
    path = data.get("path")
    if len(networks) != 1 or not isinstance(path, str) or not Path(path).exists():
        return
    from heartnet.predict import splits_of
    from heartnet.store import open_store

    try:
        weeks = open_store(Path(path))
        split = splits_of(networks[0], Path(path), weeks)
    except HeartnetError:
        return
    if split is None:
        yield "- the data there now are not those that it was trained on"
        return
    users = weeks.table["user_id"].to_numpy()
    for name in SPLITS:
        mine = split == name
        yield f"- {name}: {int(mine.sum()):,} weeks of {len(set(users[mine])):,} people"


def _patterns(run: Run) -> list[str]:
    found = [each for each in latest(run.findings) if each.check == _PATTERNS]
    if not found:
        return [f"{UNKNOWN.capitalize()}: the run did not look for them (`+callbacks=loss_patterns`)."]
    return [f"- {each.where}: {_cell(each.message)}" for each in found]


def _findings(run: Run) -> list[str]:
    found = [each for each in latest(run.findings) if each.check != _PATTERNS]
    if not found:
        return [f"None: {why_none(run.values) if run.values else 'whether anything was looked for is ' + UNKNOWN}."]
    return [findings_markdown(found)]


def _training(run: Run) -> list[str]:
    lines = [f"- command: `{run.command}`" if run.command else f"- command: {UNKNOWN}"]
    if not run.values:
        return [*lines, f"- configuration: {UNKNOWN}"]
    text = yaml.safe_dump(dict(run.values), sort_keys=False, allow_unicode=True)
    return [*lines, "", "```yaml", text.rstrip().replace("```", "'''"), "```"]


def _at(values: Mapping[str, Any], *keys: str) -> Any:
    found: Any = values
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
