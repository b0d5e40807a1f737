"""The manifest is valid, travels with the package, and costs nothing to read."""

import re
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import pytest

from napari_xai import _sample_data
from napari_xai.samples import SCANS, sample

npe2 = pytest.importorskip("npe2", reason="needs the gui extra")

HEAVY = ("torch", "monai", "PySide6", "PyQt6", "qtpy", "napari", "magicgui")


def imported(code):
    """Which heavy packages a fresh interpreter has after running code."""
    probe = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()


def manifest():
    return npe2.PluginManifest.from_distribution("napari-xai")


def test_the_manifest_is_valid_and_every_command_exists():
    found = npe2.PluginManifest.from_file(Path(str(files("napari_xai") / "napari.yaml")))
    found.validate_imports()
    assert found.display_name == "Explain 3D models"
    assert found == manifest().model_copy(update={"package_metadata": found.package_metadata})


def test_the_entry_point_names_the_file_in_the_package():
    (point,) = [point for point in entry_points(group="napari.manifest") if point.name == "napari-xai"]
    assert point.value == "napari_xai:napari.yaml"


@pytest.mark.parametrize(
    "code",
    [
        "import napari_xai",
        "import napari_xai._reader, napari_xai._writer, napari_xai._sample_data",
        "import npe2; npe2.PluginManifest.from_distribution('napari-xai')",
    ],
)
def test_reading_the_manifest_imports_neither_torch_nor_qt(code):
    assert imported(code) == []


def test_that_the_test_above_can_fail():
    assert imported("import qtpy.QtCore") != []
    assert "torch" in imported("import napari_xai; napari_xai.Explainer")


def test_every_sample_scan_is_offered():
    offered = manifest().contributions.sample_data
    assert [entry.display_name.casefold() for entry in offered] == [name.casefold() for name in SCANS]
    commands = {command.id: command.python_name for command in manifest().contributions.commands}
    for entry, name in zip(offered, SCANS, strict=True):
        assert getattr(_sample_data, commands[entry.command].split(":")[1]).args == (name,)


def test_readers_sniff_and_never_raise(tmp_path):
    from napari_xai._reader import get_reader

    (tmp_path / "not.nii.gz").write_bytes(b"no scan")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "not.nii.gz", tmp_path / "empty", tmp_path / "absent.nii", "\0", ""):
        assert get_reader(str(path)) is None
    assert get_reader([]) is None
    assert get_reader([str(tmp_path / "not.nii.gz")]) is None
    scan, folder = str(sample("volumes/brain_clean.nii.gz")), str(sample("volumes/brain_lesion_dicom"))
    assert get_reader(folder) is not None
    ((_, options, kind),) = get_reader(scan)(scan)
    assert (options["name"], kind) == ("brain_clean", "image")


def test_names_are_what_users_read():
    contributions = manifest().contributions
    widgets = [widget.display_name for widget in contributions.widgets]
    assert widgets[0] == "Explain"
    assert len({*widgets}) == len(widgets)
    assert all(re.fullmatch(r"[A-Z][a-z ]+", name) for name in widgets), widgets
    for command in contributions.commands:
        assert re.fullmatch(r"[A-Z][\w ]+", command.title), command.title
    assert {".nii.gz", ".nii"} <= {end for writer in contributions.writers for end in writer.filename_extensions}
