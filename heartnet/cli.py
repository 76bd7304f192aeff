"""The `heartnet` command: `prepare`, `describe`, `predict`, `export`, `card`, `report`, `compare`."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from heartnet.closed_pipe import end_quietly, nobody_reads, print_all
from heartnet.errors import HeartnetError, did_you_mean

SOURCES = {
    "apple-health": "export.zip or export.xml of the Health app on an iPhone",
    "fitbit": "Google Takeout of Fitbit (folder or zip), or Fitabase tables",
    "garmin": "FIT files of a Garmin watch (folder, zip or files)",
    "health-connect": "Health Connect export of an Android phone (zip or SQLite)",
    "table": "CSV, TSV or Parquet with any column names",
    "wfdb": "PhysioNet records with beat and rhythm annotations",
}
"""Kinds of export; each a module in `heartnet.sources` with `add_arguments(parser)` and `read(arguments, intake)`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it worked, 2 with a message on stderr for bad input, 130 when interrupted.

    Of a command whose output nobody reads any more it is `heartnet.closed_pipe.CLOSED`, without a message.
    """
    try:
        with _signals_interrupt():
            status = _run(argv)
            print_all()
            return status
    except SystemExit as end:
        if not nobody_reads(end):
            raise
        return end_quietly()
    except HeartnetError as error:
        print(f"heartnet: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if nobody_reads(error):
            return end_quietly()
        where = f"{error.filename}: " if error.filename else ""
        print(f"heartnet: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("heartnet: interrupted; nothing was written", file=sys.stderr)
        return 130


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let a request to end, or a closed terminal, interrupt as Ctrl-C does, so that nothing half-written stays."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), interrupt) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _run(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["prepare"]:
        _prepare(words[1:])
    else:
        arguments = _parser().parse_args(words)
        arguments.run(arguments)
    return 0


def _prepare(words: list[str]) -> None:
    """Parse `SOURCE FILE… [+ SOURCE FILE…]` and prepare what all sources deliver."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "+":
            parts.append([])
        else:
            parts[-1].append(word)
    for part in parts if len(parts) > 1 else ():
        if not part or (part[0].startswith("-") and part[0] not in ("-h", "--help")):
            found = f"{part[0]!r}" if part else "nothing"
            raise HeartnetError(f"a + stands between sources: expected a source on either side of it, found {found}")
    parser = _parser()
    sources = [parser.parse_args(["prepare", *part]) for part in parts]
    shared = import_module("heartnet.prepare")
    shared.settle_shared_options(sources)
    shared.prepare(sources)


class _Parser(argparse.ArgumentParser):
    """Parser that knows no abbreviations, and suggests the nearest option or command for a mistyped one."""

    words: Sequence[str] = ()

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.words = list(sys.argv[1:] if args is None else args)
        known, unknown = super().parse_known_args(args, namespace)
        if message := self._no_such(unknown):
            self.error(message)
        return known, unknown

    def _no_such(self, words: Sequence[str]) -> str:
        """Return what is wrong with the first option that there is not; nothing if there are all."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        for word in words:
            if word.startswith("--") and (name := word.split("=")[0]) not in (*options, "--"):
                return f"no such option: {word}.{did_you_mean(name, options)}"
        return ""

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required"):  # perhaps one of them was mistyped
            message = self._no_such(self.words) or message
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            message += did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2]))
        super().error(message)


class _SourceParser(_Parser):
    """Parser of one source, whose module is imported only when it is asked for."""

    source: str | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.source is not None:
            source, self.source = self.source, None
            if source != "table":
                # An export is read in small pieces. polars' allocator would keep the memory of half a second of them;
                # giving it back at once costs little here, and half of the speed for a large table.
                os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")
            shared = import_module("heartnet.prepare")
            own = import_module(f"heartnet.sources.{source.replace('-', '_')}")
            own.add_arguments(self)
            shared.add_arguments(self)
            self.set_defaults(source=source, module=own)
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="heartnet", description="Prepare weeks of heart rate, look at them and at runs.")
    parser.add_argument("--version", action="version", version=f"heartnet {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    prepare = commands.add_parser("prepare", help="make a store of user-weeks from exports; sources are joined by +")
    sources = prepare.add_subparsers(dest="source", required=True, metavar="SOURCE", parser_class=_SourceParser)
    for name, summary in SOURCES.items():
        sources.add_parser(name, help=summary, description=summary).source = name
    about = "print what a store holds and how it was made, and draw it as a page for the browser"
    describe = commands.add_parser("describe", help=about, description=about)
    describe.add_argument("path", type=Path, metavar="FOLDER")
    place = describe.add_mutually_exclusive_group()
    place.add_argument("--page", type=Path, metavar="FILE", help="where the page goes (default: FOLDER.html beside it)")
    place.add_argument("--no-page", action="store_true", help="print only")
    chosen: dict[str, Any] = {"action": "append", "default": []}
    describe.add_argument("--week", type=int, metavar="N", help="draw this week, counted from 0; repeatable", **chosen)
    describe.add_argument("--user", metavar="NAME", help="draw this person's weeks; repeatable", **chosen)
    describe.set_defaults(run=_describe)
    about = "write what a trained network says of each week of a store"
    predict = commands.add_parser("predict", help=about, description=about)
    predict.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run, or a checkpoint itself")
    predict.add_argument("store", type=Path, metavar="STORE", help="weeks that `heartnet prepare` wrote")
    predict.add_argument(
        "--out", type=Path, metavar="FILE", required=True, help="where the scores go, FILE.parquet or .csv"
    )
    by = "user: one score a person, in the way that the run chose; user=WAY: in another way (default: week)"
    predict.add_argument("--by", default="week", metavar="WHAT", help=by)
    predict.add_argument("--overwrite", action="store_true", help="replace the file that is there")
    anyway = "score weeks that lack a channel the network learned from, or have one that it never saw"
    predict.add_argument("--anyway", action="store_true", help=anyway)
    which = "best: the one that checkpoint.monitor chose, else the newest (default); last: as the run ended"
    predict.add_argument("--checkpoint", choices=("best", "last"), default="best", help=which)
    predict.add_argument("--batch-size", type=int, metavar="N", help="weeks at a time (default: as the run)")
    predict.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), cuda or mps")
    predict.set_defaults(run=_predict)
    about = "write a trained network as ONNX, for programs without PyTorch; it is checked against PyTorch first"
    export = commands.add_parser("export", help=about, description=about)
    export.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run, or a checkpoint itself")
    export.add_argument("--onnx", type=Path, metavar="FILE", required=True, help="where the network goes, FILE.onnx")
    export.add_argument("--overwrite", action="store_true", help="replace the file that is there")
    export.add_argument("--store", type=Path, metavar="STORE", help="weeks to compare on (default: those of the run)")
    export.add_argument("--checkpoint", choices=("best", "last"), default="best", help=which)
    export.set_defaults(run=_export)
    about = "write a model card of a run: its data, scores with intervals, findings, limits, configuration"
    card = commands.add_parser("card", help=about, description=about)
    card.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run, or a checkpoint in it")
    card.add_argument("--out", type=Path, metavar="FILE", help="where the card goes (default: RUN/model_card.md)")
    card.set_defaults(run=_card)
    about = "write one page for the browser: a run's findings, scores, curves, pictures and configuration"
    report = commands.add_parser("report", help=about, description=about)
    report.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run, or of several, such as a sweep")
    report.add_argument("--out", type=Path, metavar="FILE", help="where the page goes (default: RUN/report.html)")
    report.set_defaults(run=_report)
    about = "print one table of finished runs: scores with intervals, memory, weights, speed"
    compare = commands.add_parser("compare", help=about, description=about)
    compare.add_argument("run_folders", type=Path, nargs="+", metavar="RUN", help="folder of a run, or of a sweep")
    reference = "print differences from this row: its name, a run's folder, or baseline (the best simple model)"
    compare.add_argument("--to", metavar="NAME", help=reference)
    compare.add_argument("--each", action="store_true", help="a row for each training, not one for those of all seeds")
    compare.add_argument("--csv", action="store_true", help="print comma-separated values, with all numbers")
    compare.add_argument("--draws", type=int, default=2000, metavar="N", help="resamples of people (default: 2000)")
    compare.set_defaults(run=_compare)
    return parser


def _version() -> str:
    try:
        return version("heartnet")
    except PackageNotFoundError:
        return "(run from its sources, not installed)"


def _describe(arguments: argparse.Namespace) -> None:
    import_module("heartnet.describe").describe_and_draw(arguments)


def _predict(arguments: argparse.Namespace) -> None:
    import_module("heartnet.refusals").check_predict(arguments)
    import_module("heartnet.predict").predict_command(arguments)


def _export(arguments: argparse.Namespace) -> None:
    import_module("heartnet.refusals").check_export(arguments)
    import_module("heartnet.export").export_command(arguments)


def _card(arguments: argparse.Namespace) -> None:
    import_module("heartnet.card").card_command(arguments)


def _compare(arguments: argparse.Namespace) -> None:
    import_module("heartnet.compare").compare_command(arguments)


def _report(arguments: argparse.Namespace) -> None:
    import_module("heartnet.report").report_command(arguments)


if __name__ == "__main__":
    sys.exit(main())
