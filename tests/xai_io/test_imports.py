"""What importing the package costs, and what it must not bring along."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "monai", "matplotlib", "highdicom", "qtpy", "napari")


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


def test_the_package_is_light():
    assert loaded_by("import xai_io") == set()


def test_the_check_can_fail():
    assert "matplotlib" in loaded_by("import xai_io, matplotlib")


def test_what_is_exported_is_there():
    import xai_io

    assert sorted(xai_io.__all__) == xai_io.__all__
    for name in xai_io.__all__:
        assert getattr(xai_io, name).__doc__
    with pytest.raises(AttributeError):
        xai_io.no_such_name  # noqa: B018
