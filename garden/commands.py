"""What the commands of `garden` share: options that each has, logging to stderr, JSON on stdout."""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import click

JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def declare(group: click.Group, *parameters: Callable, **settings: Any) -> Callable:
    """Declares a subcommand of a group, with `--debug`, which every one has."""

    def declared(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(debug: bool, **values: Any):
            return function(**values)

        debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
        for parameter in reversed([*parameters, debug]):
            run = parameter(run)
        return group.command(**settings)(run)

    return declared


def log_to_stderr(level: int) -> None:
    """Sends what this project's packages log to stderr, from `level` on; of other packages warnings and errors."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    for name in ("garden", "training", "serving"):
        logging.getLogger(name).setLevel(level)


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False))
