"""`certnas`: the commands, and the one place where a command's failure becomes a line and an exit code."""

import logging
import os
import sys
from typing import Any, NoReturn

import click

from certnas import __version__
from cli.certify import certify
from cli.check import check
from cli.convert import convert
from cli.crosscheck import crosscheck
from cli.failure import INTERRUPTED, Ended, one_line, told_once
from cli.genotypes import genotypes
from cli.inspect import inspect
from cli.run import run
from cli.search import search
from cli.show_genotype import show
from cli.train import train
from cli.verify import verify


class Commands(click.Group):
    """A click group whose failures are one line on standard error, without usage text or traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            with told_once():
                code = super().main(*args, **kwargs)
        except Ended as ended:
            line, code = ended.line, ended.code
        except click.Abort:
            line, code = "interrupted", INTERRUPTED
        except click.ClickException as error:
            line, code = one_line(error), error.exit_code
        else:
            _leave(code if isinstance(code, int) else 0)
        click.echo(f"certnas: {line}", err=True)
        _leave(code)


def _leave(code: int) -> NoReturn:
    """Ends the process; one of several that torchrun started, at once: torch's threads may abort an orderly end."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="certnas")
def main() -> None:
    """Certified robustness radii of neural networks, DARTS cells included."""


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
