"""The attribution core and the readers import no GUI; and the check that says so can fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

GUI = ("napari", "qtpy", "magicgui", "superqt", "PySide2", "PySide6", "PyQt5", "PyQt6")


def gui_modules_after(code: str, path: Path | None = None) -> set[str]:
    """Which GUI packages a fresh interpreter has loaded after running the code."""
    report = f"\nimport sys\nprint('\\n' + ' '.join({{m.split('.')[0] for m in sys.modules}} & {set(GUI)!r}))"
    extra = {} if path is None else {"PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, check=True, env={**os.environ, **extra}
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import methods3d, xai_io",
        "import methods3d; methods3d.methods()",
        "import napari_xai, napari_xai.cli",
    ],
)
def test_no_gui_is_imported(code):
    assert gui_modules_after(code) == set()


def test_listing_the_methods_on_the_command_line_imports_no_gui():
    code = "from napari_xai.cli import main\ntry:\n    main(['methods'])\nexcept SystemExit:\n    pass"
    assert gui_modules_after(code) == set()


def test_the_check_can_fail(tmp_path):
    (tmp_path / "napari.py").write_text("import qtpy")
    (tmp_path / "qtpy.py").write_text("")
    assert gui_modules_after("import methods3d, napari", tmp_path) == {"napari", "qtpy"}
