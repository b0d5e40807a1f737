"""The command line: demo, explain, methods, composites, inspect, trust, gui."""

from typing import Any

import click

from napari_xai.cli.console import ERR, plain
from napari_xai.cli.explain import explain
from napari_xai.cli.inspect import inspect
from napari_xai.cli.methods import composites, methods
from napari_xai.cli.show import demo, gui
from napari_xai.cli.trust import trust

__all__ = ["main"]


class Commands(click.Group):
    """The commands, in which a user's error is one sentence and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        from napari_xai.errors import USER_ERRORS

        try:
            return super().invoke(ctx)
        except USER_ERRORS as error:
            ERR.print(f"[bold red]Error:[/] {plain(str(error))}", soft_wrap=True, highlight=False)
            ctx.exit(2)
        except KeyboardInterrupt:
            ERR.print("Interrupted: what was finished is kept, and nothing half-written is left.")
            ctx.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="napari-xai")
def main() -> None:
    """See what a trained 3D network looked at, back on the scan. Research use only; not a medical device."""


for command in (explain, inspect, methods, composites, trust, demo, gui):
    main.add_command(command)
