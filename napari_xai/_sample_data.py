"""The sample scans in napari's File > Open Sample."""

from functools import partial

from napari_xai._reader import welcome
from napari_xai.layers import LayerData, scan_layers
from napari_xai.samples import SCANS, sample
from xai_io import read_volume

__all__ = ["brain_clean", "brain_lesion", "brain_lesion_dicom", "brain_lesion_oblique"]


def _layers(name: str) -> list[LayerData]:
    welcome()
    return scan_layers(read_volume(sample(SCANS[name])), name=name)


brain_lesion = partial(_layers, "brain with a lesion (NIfTI)")
brain_lesion_dicom = partial(_layers, "brain with a lesion (DICOM)")
brain_clean = partial(_layers, "clean brain")
brain_lesion_oblique = partial(_layers, "brain with a lesion, oblique")
