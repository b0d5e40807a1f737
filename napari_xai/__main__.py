"""`python -m napari_xai` is `napari-xai`."""

from napari_xai.cli import main

main(prog_name="napari-xai")
