"""Whose code may run: remembered by what a model is, not by where it lies."""

from pathlib import Path

import click

from napari_xai.cli.console import OUT, plain

__all__ = ["trust"]


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--network", type=click.Path(path_type=Path), help="File with the network_def of plain weights.")
@click.option("--forget", "forgotten", is_flag=True, help="Trust it no longer.")
def trust(path: Path, network: Path | None, forgotten: bool) -> None:
    """Let the model at PATH run the code that it brings from now on, for as long as it does not change.

    Only for models from a source that you would run a program from. What it needs trust for is listed.
    """
    from xai_io import forget, model_hash, needs_trust, remember

    digest = model_hash(path, network=network)
    if forgotten:
        forget(digest)
        OUT.print(f"The model of SHA-256 {digest} is not trusted any longer.")
        return
    needed = needs_trust(path, network=network)
    if not needed:
        OUT.print("The model brings no code: it needs no trust.")
        return
    for entry, what in needed.items():
        OUT.print(plain(f"{entry}: {what}"))
    remember(digest)
    OUT.print(f"Trusted from now on, as it is: SHA-256 {digest}. Take it back with --forget.")
