"""The console script `lhmforge`: one sub-command per module of `jobs/commands`."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence

import typer

from lhmforge.datasets.errors import ForgeError

# command name -> (module in jobs/commands, attribute); an attribute that is a Typer app becomes a command group.
COMMANDS: dict[str, tuple[str, str]] = {
    "assets": ("assets", "app"),
    "curate": ("curate", "curate"),
    "fsck": ("curate", "fsck"),
    "takedown": ("takedown", "takedown"),
    "synthesize": ("synthesize", "synthesize"),
    "evaluate-curation": ("evaluate_curation", "evaluate_curation"),
    "calibrate-gates": ("calibrate_gates", "calibrate_gates"),
    "train": ("train", "train"),
    "evaluate": ("evaluate", "evaluate"),
    "study": ("study", "study"),
    "animate": ("animate", "animate"),
    "view": ("view", "view"),
    "model": ("model", "app"),
    "demo": ("demo", "demo"),
}


def build_app() -> typer.Typer:
    """The Typer application; only the modules of `jobs/commands` are imported, and they import lazily."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
    for name, (module_name, attribute) in COMMANDS.items():
        command = getattr(importlib.import_module(f"lhmforge.jobs.commands.{module_name}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def run_command(arguments: Sequence[str]) -> None:
    """Runs one command in this process, so that steps share a Ray instance; errors are raised, not printed."""
    typer.main.get_command(build_app())(list(arguments), standalone_mode=False)


def main() -> None:
    """Runs the CLI; an error that the user can fix is printed in one line and exits with status 2."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        build_app()()
    except ForgeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
