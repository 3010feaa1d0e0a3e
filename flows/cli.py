"""The command `cutroom`. Exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import typer

from flows import cli_curation, cli_demo, cli_exchange, cli_inspect, cli_training, cli_weights
from flows.console import fail, prepare_process
from warehouse.errors import CutroomError, SettingsError

app = typer.Typer(
    name="cutroom",
    help="Raw footage in, a curated warehouse and a trained video diffusion model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for room in (cli_curation, cli_training, cli_exchange, cli_weights, cli_inspect, cli_demo):
    for command in room.COMMANDS:
        app.command()(command)

_INTERRUPTED = 130
_STOPPING = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Runs the command line and ends the process."""
    for number in _STOPPING:
        if (
            signal.getsignal(number) is not signal.SIG_IGN
        ):  # a shell starts jobs in the background deaf to Ctrl-C
            signal.signal(number, _stop)
    prepare_process()
    try:
        app()
    except SettingsError as error:
        fail(str(error), 2)
    except CutroomError as error:
        fail(str(error), 1)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            fail("stopped; what was finished is kept, and the same command again goes on from there", 1)
        raise


def _stop(signum: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does: with its workers. Further ones do not disturb the ending."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
