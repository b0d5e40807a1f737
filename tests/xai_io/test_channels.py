import dataclasses
import itertools

import numpy as np
import pytest

from xai_io import GeometryError, ScanError, Source, Volume, name_of_channel, stack_channels

BRATS = ("T1c", "T1", "T2", "FLAIR")  # as the model zoo's bundle orders them


def scan(value, shape=(4, 5, 6), affine=None, **source):
    data = np.full((1, *shape), value, np.float32)
    return Volume(data, np.eye(4) if affine is None else affine, modality="MR", source=Source(**source))


def values(volume):
    return volume.data[:, 0, 0, 0].tolist()


def test_channels_go_where_the_model_wants_them_in_whatever_order_they_come():
    given = {"T1c": 1, "T1": 2, "T2": 3, "FLAIR": 4}
    for order in itertools.permutations(given):
        stacked = stack_channels({name: scan(given[name]) for name in order}, BRATS)
        assert values(stacked) == [1, 2, 3, 4] and stacked.modality == "MR"


@pytest.mark.parametrize(
    "keys",
    [
        ("t1ce", "t1", "t2", "flair"),
        ("t1c", "t1n", "t2", "t2f"),
        ("T1-C", "t 1", "T2", "T2-FLAIR"),
        ("T1_CE", "T1", "T2", "Flair"),
        ("0000", "0001", "0002", "0003"),
    ],
)
def test_names_in_the_spellings_of_the_field(keys):
    stacked = stack_channels({key: scan(n) for n, key in enumerate(keys)}, BRATS)
    assert values(stacked) == [0, 1, 2, 3]


def test_four_kinds_of_t1_are_four_channels():
    names = ("T1", "T1w", "T1c", "T1Gd")
    for order in itertools.permutations(range(4)):
        assert values(stack_channels({names[n]: scan(n) for n in order}, names)) == [0, 1, 2, 3]
    for wanted, given in itertools.permutations(names, 2):
        with pytest.raises(ScanError, match=f"given for {given}, which is no channel.*takes {wanted}"):
            stack_channels({given: scan(0)}, (wanted,))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (("T1c", "T1", "T2"), r"No scan was given for FLAIR; the model takes T1c, T1, T2, FLAIR"),
        (("T1c", "T1", "T2", "FLAIR", "ADC"), r"given for ADC, which is no channel"),
        (("T1c", "t1ce", "T1", "T2", "FLAIR"), r"Both T1c and t1ce were given for one channel"),
        (("0000", "T1c", "T1", "T2"), r"Both 0000 and T1c"),
        (("0004",), r"0004, which is no channel"),
        ((), r"No scan was given"),
    ],
)
def test_missing_extra_and_doubled_channels_are_said(keys, says):
    with pytest.raises(ScanError, match=says):
        stack_channels({key: scan(0) for key in keys}, BRATS)


def test_channels_without_names_go_by_number_and_equal_names_have_to():
    assert values(stack_channels({"0001": scan(1), "0000": scan(0)}, ())) == [0, 1]
    with pytest.raises(ScanError, match="no names: give them as 0000"):
        stack_channels({"T1": scan(1)}, ())
    with pytest.raises(ScanError, match="2 channels called image; give them by number"):
        stack_channels({"image": scan(1)}, ("image", "image"))
    assert values(stack_channels({"0001": scan(1), "0000": scan(0)}, ("image", "image"))) == [0, 1]


def test_other_grids_are_refused_or_resampled_and_said():
    """A ramp in mm is the same ramp on every grid."""
    coarse = np.diag([2.0, 2.0, 2.0, 1.0])
    ramp = Volume(np.indices((8, 8, 8))[:1].astype(np.float32) * 2, coarse, source=Source(notes=("a gap was filled",)))
    first = scan(0, shape=(8, 8, 8))
    with pytest.raises(GeometryError, match=r"T2 lies on another grid than T1.*off by up to 1 mm; resample=True"):
        stack_channels({"T1": first, "T2": ramp}, ("T2", "T1"))
    stacked = stack_channels({"T1": first, "T2": ramp}, ("T2", "T1"), resample=True)
    assert stacked.shape == first.shape and np.array_equal(stacked.affine, first.affine)
    np.testing.assert_allclose(stacked.data[0], np.indices((8, 8, 8))[0], atol=1e-5)
    assert not stacked.data[1].any()
    assert stacked.source.notes == ("T2: a gap was filled", "T2 was resampled (linear) to the grid of T1")
    small = stack_channels({"T2": ramp, "T1": first}, ("T2", "T1"), resample=True)
    assert small.spacing == (2, 2, 2) and "of which" in small.source.notes[-1]
    far = scan(0, affine=np.array([[1, 0, 0, 500], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    with pytest.raises(GeometryError, match="no place in common"):
        stack_channels({"T1": first, "T2": far}, ("T2", "T1"), resample=True)
    near = dataclasses.replace(first, affine=first.affine + np.diag([0, 0, 5e-4, 0]))
    assert stack_channels({"T1": first, "T2": near}, ("T2", "T1")).source.notes == ()


def test_frames_of_reference_and_several_channels():
    one, other = scan(0, frame_of_reference_uid="1.2"), scan(1, frame_of_reference_uid="1.3")
    with pytest.raises(GeometryError, match="different DICOM frames of reference"):
        stack_channels({"T1": one, "T2": other}, ("T1", "T2"))
    assert values(stack_channels({"T1": one, "T2": scan(1)}, ("T1", "T2"))) == [0, 1]
    two = Volume(np.zeros((2, 4, 5, 6)), np.eye(4))
    with pytest.raises(ScanError, match="T2 has 2 channels"):
        stack_channels({"T1": one, "T2": two}, ("T1", "T2"))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("BraTS19_2013_11_1_t1ce.nii.gz", "T1c"),
        ("BraTS20_Training_001_flair.nii", "FLAIR"),
        ("BraTS-GLI-00000-000-t1n.nii.gz", "T1"),
        ("BraTS-GLI-00000-000-t2w.nii.gz", "T2"),
        ("BraTS-GLI-00000-000-t2f.nii.gz", "FLAIR"),
        ("case_0003.nii.gz", "0003"),
        ("BRATS_001_0000.nii.gz", "0000"),
        ("sub-01_T1w.nii.gz", "T1w"),
        ("sub-01_T2w.nii.gz", "T2w"),
        ("T1Gd.mha", "T1Gd"),
        ("ax_t2-flair", "FLAIR"),
        ("sub-01_ce-gadolinium_T1w.nii.gz", None),
        ("t1_post.nii.gz", None),
        ("T1 map.nii.gz", None),
        ("t1_seg.nii.gz", None),
        ("t1_flair.nii.gz", None),
        ("T1_T2_ratio.nii.gz", None),
        ("scan.nii.gz", None),
        ("patient2000.nii.gz", None),
        ("20240101.nii.gz", None),
        (".nii.gz", None),
    ],
)
def test_channels_by_file_name(file, name):
    assert name_of_channel(f"/data/T1/{file}") == name


@pytest.mark.parametrize(
    "name",
    ["T1+C.nii.gz", "AX_T1_C+.nii.gz", "T1_GdDTPA.nii", "T1_mprage_dotarem.nii.gz", "T1_inv.nii", "t2_brainmask.nii.gz",
     "flair_lesion.nii.gz", "flair_prob.nii.gz", "T1_labels.nii", "T2*.nii", "T2_star.nii.gz", "T1_reg_field.nii.gz"],
)  # fmt: skip
def test_what_may_be_something_else_is_not_guessed(name):
    assert name_of_channel(name) is None
