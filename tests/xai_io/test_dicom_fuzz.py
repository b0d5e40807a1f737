"""Damaged DICOM files, at random but the same every time: a sentence or a volume, soon, and within bounds."""

import time
import warnings

import numpy as np
import pydicom
import pytest
from dicom_maker import make_mosaic, make_multiframe, make_series, reencode
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from xai_io import XaiIOError, read_volume
from xai_io.dicom import Choices

resource = pytest.importorskip("resource")  # not on Windows

STORED = np.random.default_rng(5).integers(0, 4000, size=(40, 33, 3)).astype(np.uint16)
AXIAL = np.diag([-0.7, -0.8, 2.5, 1.0])
CHOICES = Choices(on_gap="fill", on_tilt="deskew", on_duplicate="first", on_spacing="resample")
KINDS = {
    "plain": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg": JPEGLosslessSV1,
    "jpegls": JPEGLSLossless,
    "j2k": JPEG2000Lossless,
    "multiframe": None,
    "mosaic": None,
}
_HUGE = (0, 1, 255, 32767, 65535)


def made(folder, kind):
    if kind == "multiframe":
        make_multiframe(folder / "m", STORED[None], AXIAL)
    elif kind == "mosaic":
        make_mosaic(folder / "m", STORED, AXIAL)
    else:
        make_series(folder, STORED, AXIAL, modality="CT")
        reencode(folder, KINDS[kind])
    return sorted(folder.iterdir())


def mutated(content, rng):
    """Bytes flipped in the header or anywhere, cut off, or lengths and sizes made huge."""
    content = bytearray(content)
    end = len(content) if rng.random() < 0.5 else min(len(content), 1500)
    match rng.integers(5):
        case 0 | 1:
            for _ in range(rng.integers(1, 20)):
                content[rng.integers(end)] = rng.integers(256)
        case 2:
            del content[rng.integers(end) :]
        case 3:
            at = rng.integers(end)
            content[at : at + 4] = b"\xff\xff\xff" + bytes([rng.integers(128, 256)])
        case 4:
            at = rng.integers(end)
            del content[at : at + rng.integers(1, 40)]
    return bytes(content)


def retagged(content, rng):
    """A tag removed, or its value made something else."""
    import io

    image = pydicom.dcmread(io.BytesIO(content))
    tags = [element.tag for element in image if element.keyword != "PixelData"]
    element = image[tags[rng.integers(len(tags))]]
    if rng.random() < 0.5:
        del image[element.tag]
    elif element.VR in ("US", "SS", "US or SS"):
        element.value = int(rng.choice(_HUGE)) % (1 << 15 if element.VR == "SS" else 1 << 16)
    elif element.VR in ("DS", "IS"):
        element.value = str(rng.choice(["0", "-1", "1e30", "2147483647", "1e-30"]))[: 12 if element.VR == "IS" else 16]
    elif element.VR == "SQ":
        element.value = []
    else:
        element.value = ""
    out = io.BytesIO()
    pydicom.dcmwrite(out, image)
    return out.getvalue()


def tried(files, folder, rng, rounds):
    """Damage one file at a time, and read the folder; return how often there was a volume, and the longest time."""
    whole, slowest = 0, 0.0
    for _ in range(rounds):
        file = files[rng.integers(len(files))]
        content = file.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                file.write_bytes(retagged(content, rng) if rng.random() < 0.4 else mutated(content, rng))
            except Exception:  # pydicom will not write what was made; nothing to try
                file.write_bytes(mutated(content, rng))
        start = time.perf_counter()
        try:
            whole += read_volume(folder, choices=CHOICES).data.size > 0
        except XaiIOError as error:
            assert "Secret" not in str(error) and "SECRET" not in str(error)
            assert str(error).endswith(".")
        slowest = max(slowest, time.perf_counter() - start)
        file.write_bytes(content)
    return whole, slowest


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_a_sentence_or_does_not_matter(tmp_path, kind):
    files = made(tmp_path, kind)
    read_volume(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole, slowest = tried(files, tmp_path, np.random.default_rng(6), 60)
    assert 0 < whole < 60 and slowest < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10  # KB
