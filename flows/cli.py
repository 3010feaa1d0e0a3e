"""The command `cutroom`. Exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import errno
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
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STOPPING = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Runs the command line and ends the process."""
    for number in _STOPPING:
        # A shell starts jobs in the background deaf to Ctrl-C.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    prepare_process()
    try:
        app()
    except SettingsError as error:
        fail(str(error), 2)
    except CutroomError as error:
        fail(str(error), 1)
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        fail(
            f"no more can be written to the disk ({error}); what was finished is kept: free some space, and the same "
            "command again goes on from there",
            1,
        )
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            # At its very end Python puts the system's handlers back, and those kill.
            for number in _STOPPING:
                signal.signal(number, signal.SIG_IGN)
            fail("stopped; what was finished is kept, and the same command again goes on from there", 1)
        raise


def _stop(signum: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does: with its workers.

    Further ones do not disturb the ending; where there is none, because a finalizer swallowed the first, they ask again.
    """
    if not _is_ending(sys.exception()):
        raise KeyboardInterrupt


def _is_ending(error: BaseException | None) -> bool:
    """Whether an interrupt, or what it became on its way, is being handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


if __name__ == "__main__":
    sys.exit(main())
