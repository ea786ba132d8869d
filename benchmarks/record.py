"""What a result is worth nothing without: the hardware, the versions, the date; and the files it is kept in."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.material import ROOT, cores

RESULTS = ROOT / "benchmarks" / "results"

# Of a CPU's flags, those that decide how fast matrix products are.
_FLAGS = re.compile(r"^(avx.*|fma|f16c|amx.*|asimd|asimddp|asimdhp|bf16|i8mm|sve.*|sme.*)$")


def hardware() -> dict[str, Any]:
    """Returns CPU model, usable cores, vector flags, memory in GiB and operating system."""
    cpu, flags, memory = platform.processor() or platform.machine(), [], None
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(re.findall(r"^([\w ]+?)\s*:\s*(.*)$", cpuinfo.read_text(), re.MULTILINE))
        cpu = fields.get("model name", cpu)
        flags = sorted(flag for flag in fields.get("flags", fields.get("Features", "")).split() if _FLAGS.match(flag))
    if hasattr(os, "sysconf"):
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return {
        "cpu": cpu,
        "cores": cores(),
        "flags": flags,
        "memory_gib": memory,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def commit() -> str | None:
    """Returns the checked-out commit, with "+changes" when files differ from it; None outside a repository."""
    try:
        git = ["git", "-C", str(ROOT)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changed else "")


def context(config: Mapping[str, Any], software: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what every results file begins with; `software` is each side's `turns.installed()`."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "hardware": hardware(),
        "commit": commit(),
        "config": dict(config),
        "software": dict(software),
    }


def median(turns: Sequence[Mapping[str, Any]], key: str) -> float:
    """Returns the median of one number over the turns."""
    return statistics.median(turn[key] for turn in turns)


def disturbed(turns: Mapping[str, Sequence[Mapping[str, Any]]], limit: float = 0.05) -> list[str]:
    """Returns a warning when other processes used more than `limit` of the machine in some side's turns; else nothing."""
    worst = {
        name: max((turn["others_cpu"] for turn in numbers if turn.get("others_cpu") is not None), default=0.0)
        for name, numbers in turns.items()
    }
    shares = ", ".join(f"{share:.0%} ({name})" for name, share in worst.items() if share > limit)
    return [f"not a quiet machine: other processes used up to {shares} of it in a turn"] if shares else []


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table whose columns line up."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def heading(title: str, result: Mapping[str, Any], packages: Mapping[str, Sequence[str]]) -> str:
    """Returns a report's first lines: what, where, when, and the versions of each side's named packages."""
    machine = result["hardware"]
    versions = "; ".join(
        f"{side}: "
        + ", ".join(f"{name} {result['software'][side]['packages'].get(name, '(not installed)')}" for name in names)
        for side, names in packages.items()
        if side in result["software"]
    )
    return (
        f"# {title}\n\n{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {result['date']}, "
        f"commit {(result['commit'] or 'unknown')[:12]}{'+changes' * (result['commit'] or '').endswith('+changes')}.\n"
        + (f"\n{versions}.\n" if versions else "")
    )


def write(topic: str, result: Mapping[str, Any], text: str, directory: Path = RESULTS) -> Path:
    """Writes `<topic>-<cpu>-<cores>core-<date>.json` and the report beside it as .md, and returns the first.

    An older file of that name stays: the new one gets a number. Nothing half written is left behind.
    """
    machine = result["hardware"]
    cpu = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)|@.*", " ", machine["cpu"].lower())).strip("-")
    stem = f"{topic}-{cpu}-{machine['cores']}core-{result['date']}"
    directory.mkdir(parents=True, exist_ok=True)
    number = 1
    while (path := directory / (stem + (f"-{number}" if number > 1 else "") + ".json")).exists():
        number += 1
    for target, content in ((path.with_suffix(".md"), text), (path, json.dumps(result, indent=1) + "\n")):
        aside = target.with_name(target.name + ".tmp")
        aside.write_text(content, encoding="utf-8")
        aside.replace(target)
    return path
