"""Where the sample scans and models are: in the checkout, or in the installed wheel."""

from pathlib import Path

__all__ = ["BUNDLES", "SCANS", "sample"]

SCANS = {
    "brain with a lesion (NIfTI)": "volumes/brain_lesion.nii.gz",
    "brain with a lesion (DICOM)": "volumes/brain_lesion_dicom",
    "clean brain": "volumes/brain_clean.nii.gz",
    "brain with a lesion, oblique": "volumes/brain_lesion_oblique.nii.gz",
}
BUNDLES = {
    "lesion classifier": "bundles/lesion_classifier",
    "lesion segmenter": "bundles/lesion_segmenter",
}


def sample(name: str) -> Path:
    """The path of a sample: "volumes/brain_lesion.nii.gz", "bundles/lesion_classifier" …

    The checkout comes first: an editable install leaves a stale copy of the wheel's files behind.

    Raises
    ------
    FileNotFoundError : there is no such sample; the message names both places.
    """
    here = Path(__file__).resolve().parent
    places = [here.parent / "sample_volumes" / name, here / "sample_volumes" / name]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"The sample {name!r} is neither at {places[0]} nor at {places[1]}: reinstall napari-xai.")
