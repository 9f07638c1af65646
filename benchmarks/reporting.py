# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: memory of the process, Markdown tables, the machine."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


MIB = 2**20


def process_memory(name: str) -> int:
    """Bytes of resident memory of this process: now (`VmRSS`), or the most it ever had (`VmHWM`)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def reset_peak_memory() -> None:
    """Lets `VmHWM` start from the present, so that the peak of loading does not count."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def spread(values: Sequence[float]) -> str:
    """`median [smallest, largest]`."""
    median = f"{statistics.median(values):.3f}"
    return median if len(values) == 1 else f"{median} [{min(values):.3f}, {max(values):.3f}]"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table; columns that are empty throughout are left out."""
    columns = [name for name in rows[0] if any(row[name] != "" for row in rows)]
    cells = [columns, ["---"] * len(columns), *([format_cell(row[name]) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def format_cell(value: Any) -> str:
    """Numbers with four digits or without a fraction."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def describe_machine() -> str:
    """Processor, cores, versions."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}), {threads}, {versions}"


def finish(rows: Sequence[dict[str, Any]], options: dict[str, Any]) -> None:
    """The end of a script: prints machine and table, and writes the file that its option `json` names."""
    print(f"\n{describe_machine()}\n")
    print(markdown(rows))
    if options["json"]:
        write_json(options["json"], options, rows)


def write_json(path: str, options: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Machine, options and rows in one file."""
    content = {"machine": describe_machine(), "options": options, "rows": rows}
    Path(path).write_text(json.dumps(content, indent=2, default=os.fspath) + "\n", encoding="utf-8")
