"""The command group, and the one place where errors become a line on stderr and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn, TextIO

import click

import dcam_core
from dcam_core.cli.session import Session
from dcam_core.errors import DcamError, UsageError

__all__ = ["cli", "main"]

FAILURE, WRONG_USAGE, INTERRUPTED = 1, 2, 130

# Name of the command -> its module in this package; the function is named like the module.
COMMANDS = {
    "check": "check",
    "demo": "demo",
    "estimate": "estimate",
    "evaluate": "evaluate",
    "explain": "explain",
    "new": "new",
    "parity": "parity",
    "plugins": "plugins",
    "reproduce": "reproduce",
    "train-embedded": "train_embedded",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"dcam_core.cli.{module}"), module)
        if not isinstance(command, click.Command):
            raise TypeError(f"dcam_core.cli.{module}:{module} is not a click command")
        return command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Errors are one line on stderr. Exit code 2: the call was wrong; 1: the work failed. "
    "DCAM_PLUGINS=NAME,no:NAME is as -p in every program that uses dcam; DCAM_DISABLE_PLUGIN_AUTOLOAD=1 loads none "
    "but the named ones, DCAM_STRICT_PLUGINS=1 stops at a plugin that fails, DCAM_TRACE_PLUGINS=1 shows every call.",
)
@click.option(
    "-p",
    "plugin_switches",
    metavar="NAME|no:NAME",
    multiple=True,
    help="Load a plugin (an installed one, a module, or module:object), or switch one off. May be repeated.",
)
@click.option("-v", "verbosity", count=True, help="Say more; -vv shows tracebacks.")
@click.version_option(dcam_core.__version__, message="%(prog)s %(version)s")
@click.pass_obj
def cli(session: Session, plugin_switches: tuple[str, ...], verbosity: int) -> None:
    """Show where in a picture each word of a diffusion multimodal language model came from."""
    session.start(verbosity, plugin_switches)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        arguments: what follows the program's name; None: those of the process.
    """
    session = Session()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        sys.exit(_run(arguments, session))


def _run(arguments: Sequence[str] | None, session: Session) -> int:
    """Run, and turn what is raised into one line and an exit code."""
    try:
        # Outside of click's standalone mode a requested exit comes back as the returned code.
        args = None if arguments is None else list(arguments)
        return int(cli.main(args=args, prog_name="dcam", standalone_mode=False, obj=session) or 0)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "dcam"
        return _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`", WRONG_USAGE, session)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code, session)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED, session)
    except DcamError as error:
        return _fail(str(error), WRONG_USAGE if isinstance(error, UsageError) else FAILURE, session)
    except BrokenPipeError:
        # The reader of our output has gone: say nothing, also not when the interpreter flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except Exception as error:  # noqa: BLE001 - the last handler of the program; -vv shows everything
        hint = "" if session.verbosity >= 2 else "; `dcam -vv ...` shows the traceback"
        line = " ".join(str(error).split())
        return _fail(f"unexpected {type(error).__name__}: {line}{hint}", FAILURE, session)


def _fail(message: str, code: int, session: Session) -> int:
    if session.verbosity >= 2:
        traceback.print_exc()
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as one line on stderr."""
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)
