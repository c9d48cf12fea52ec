"""The group of all commands; here a command's failure becomes one line and an exit code."""

import io
import logging
import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

import click

from certnas import __version__

from .certify import certify
from .check import check
from .convert import convert
from .crosscheck import crosscheck
from .failure import CODES, INTERRUPTED, REFUSED, Ended, one_line, shown, unforeseen, warnings_once
from .genotypes import genotypes
from .inspect import inspect
from .run import run
from .search import search
from .show_genotype import show
from .train import train
from .verify import verify


class Commands(click.Group):
    """A click group that shows a failure as one line on standard error, without usage text or traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Ended, click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:  # click itself would end a closed pipe with exit code 1
            raise unforeseen(error) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            with warnings_once():
                code = super().main(*args, **kwargs)
        except Ended as ended:
            line, code = ended.line, ended.code
        except click.Abort:
            line, code = "interrupted", INTERRUPTED
        except click.ClickException as error:
            line, code = one_line(error), error.exit_code
        except Exception as error:
            end = unforeseen(error)
            line, code = end.line, end.code
        else:
            _leave(code if isinstance(code, int) else 0)
        with suppress(OSError):  # the exit code tells of the failure where nobody reads standard error
            click.echo(f"certnas: {shown(line)}", err=True)
        _leave(code)


def _leave(code: int) -> NoReturn:
    """Ends the process, with REFUSED where its last output cannot be written.

    A process that torchrun started beside others ends at once, since torch's threads may abort an orderly end.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        code = code or REFUSED
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@click.group(
    cls=Commands,
    invoke_without_command=True,
    epilog=CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="certnas")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Certify the robustness of neural networks, DARTS cells included."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


main.add_command(certify)
main.add_command(check)
main.add_command(crosscheck)
main.add_command(convert)
main.add_command(genotypes)
main.add_command(inspect)
main.add_command(show)
main.add_command(search)
main.add_command(train)
main.add_command(run)
main.add_command(verify)

if __name__ == "__main__":
    main()
