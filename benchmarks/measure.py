"""Timing contenders in turns, and the facts of the machine that the times depend on."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True)
class Took:
    """Medians, in seconds. Other programs on the machine move `processor` little, and `wall` much."""

    processor: float
    wall: float


def alternate(contenders: Mapping[str, Callable[[], object]], repeats: int, warm_up: bool = True) -> dict[str, Took]:
    """Run each contender in turn, `repeats` times, and return the medians; the first round is not counted."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for round_ in range(-1 if warm_up else 0, repeats):
        for name, run in contenders.items():
            start = time.process_time(), time.perf_counter()
            run()
            took = time.process_time() - start[0], time.perf_counter() - start[1]
            if round_ >= 0:
                found[name].append(took)
    return {name: medians(times) for name, times in found.items()}


def medians(times: list[tuple[float, float]]) -> Took:
    """Return the medians of processor seconds and of wall seconds."""
    return Took(*(statistics.median(each) for each in zip(*times, strict=True)))


class Machine:
    """The facts of the machine, and what other programs took of it from the making of this object on."""

    PACKAGES = ("torch", "pytorch-lightning", "numpy", "polars", "jax", "keras", "captum", "lxml")

    def __init__(self) -> None:
        self.load, self.busy, self.own, self.start = os.getloadavg(), _busy(), _own(), time.perf_counter()

    @property
    def others(self) -> float | None:
        """Processor seconds of all other programs since, as a share of all that the machine had to give."""
        busy = _busy()
        if busy is None or self.busy is None:
            return None
        available = (time.perf_counter() - self.start) * (os.cpu_count() or 1)
        return max(busy - self.busy - (_own() - self.own), 0.0) / available

    def facts(self) -> list[str]:
        """Return lines to print above the table."""
        after, others = os.getloadavg(), self.others
        lines = [
            f"{_processor()}, {os.cpu_count()} cores, {_memory()}; {platform.system()}, Python "
            f"{platform.python_version()}; {', '.join(_versions(self.PACKAGES))}",
            f"load before {self.load[0]:.2f}, after {after[0]:.2f}; {(time.perf_counter() - self.start) / 60:.0f} min",
        ]
        if others is not None:
            lines[1] += f"; other programs took {others:.0%} of the processors"
        # The load before says who was there before; where what others take is known, that alone counts.
        if others > 0.05 if others is not None else self.load[0] > 0.5:
            lines.append("THE MACHINE WAS NOT IDLE: wall times are too long; those in processor seconds are fair.")
        return lines


def status(field: str) -> int:
    """Return a field of this process's memory in bytes, on Linux: `VmRSS`, `VmHWM`, `RssAnon`, `VmData`."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _busy() -> float | None:
    """Return the processor seconds that all programs took since the machine started, on Linux."""
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Return the processor seconds of this process and its children that ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"


def _versions(packages: tuple[str, ...]) -> list[str]:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return found
