# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What the benchmark scripts share: options, modes, and a process of its own for each measurement of memory."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from reporting import describe_machine, markdown, write_json


Rows = list[dict[str, Any]]


def make_parser(
    description: str, contenders: Iterable[str], slow_contenders: Iterable[str], slow_rounds: int
) -> tuple[argparse.ArgumentParser, Any]:
    """A parser with the options that all scripts have, and the group of its modes, which exclude each other."""
    contenders, slow = list(contenders), ", ".join(slow_contenders)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--memory", action="store_true", help="peak memory instead of seconds (Linux)")
    modes.add_argument("--memory-of", choices=contenders, help=argparse.SUPPRESS)
    parser.add_argument("--contenders", nargs="+", choices=contenders, default=contenders)
    parser.add_argument("--length", type=int, help="tokens of each text (default: 1024)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, default=slow_rounds, help=f"rounds that {slow} take part in")
    parser.add_argument("--json", metavar="OUT", help="write rows, options and machine to this file")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's choice)")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand weights, to try the script")
    return parser, modes


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with the defaults that depend on others."""
    args = parser.parse_args(argv)
    args.length = args.length or (32 if args.tiny else 1024)
    args.slow_rounds = min(args.slow_rounds, args.rounds)
    return args


def run_mode(
    args: argparse.Namespace,
    modes: dict[str, Callable[[argparse.Namespace], Any]],
    notes: Callable[[argparse.Namespace, Rows], list[str]],
) -> Rows | None:
    """
    Measures, prints the table and writes the JSON file if asked.

    Args:
        modes (`dict[str, Callable]`): for the name of an option, what it measures; the last one if none is set. That
            of `memory_of` gives the row of one contender, printed for the process that asked.
        notes (`Callable`): what is to be said below the table.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    *options, default = modes
    mode = next((name for name in options if getattr(args, name)), default)
    rows = modes[mode](args)
    if mode == "memory_of":
        print(json.dumps(rows))
        return None
    print(f"\n{describe_machine()}\n")
    print(markdown(rows))
    for note in notes(args, rows):
        print(f"\n{note}")
    if args.json:
        write_json(args.json, vars(args), rows)
    return rows


def measure_alone(script: str, contender: str, tiny: bool, **settings: Any) -> dict[str, Any]:
    """The row of `--memory-of CONTENDER`, run in a fresh process."""
    options = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, script, "--memory-of", contender, "--threads", str(torch.get_num_threads()), *options]
    command += ["--tiny"] if tiny else []
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])
