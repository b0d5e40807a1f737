"""Uptake by body weight, computed where the header leaves no doubt and refused where it does."""

import numpy as np
import pydicom
import pytest
from dicom_maker import make_series

from xai_io import ScanError, read_volume
from xai_io.dicom import Choices

RNG = np.random.default_rng(4)
AXIAL = np.diag([-4.0, -4.0, 3.0, 1.0])
STORED = RNG.integers(0, 30000, size=(6, 5, 4)).astype(np.uint16)
SLOPES = np.array([0.5, 0.7, 1.1, 2.0])
HALF_LIFE, DOSE, WEIGHT = 6586.2, 3.7e8, 72.5
SUV = Choices(suv="bw")


def pet(folder, *, tracer=(), private=(), **changes):
    """A whole-body PET: injected 11:00, series from 12:00, its slices acquired one by one after that."""

    def edit(k, image):
        image.Units, image.DecayCorrection, image.CorrectedImage = "BQML", "START", ["ATTN", "DECY", "SCAT"]
        image.SeriesDate = image.AcquisitionDate = "20240301"
        image.SeriesTime, image.AcquisitionTime = "120000.000000", f"1200{10 + k}.000000"
        image.PatientWeight = WEIGHT
        item = pydicom.Dataset()
        item.RadionuclideTotalDose, item.RadionuclideHalfLife = DOSE, HALF_LIFE
        item.RadiopharmaceuticalStartTime = "110000.00"
        image.RadiopharmaceuticalInformationSequence = [item]
        for target, values in ((item, dict(tracer)), (image, changes)):
            for keyword, value in values.items():
                if value is None:
                    delattr(target, keyword)
                else:
                    setattr(target, keyword, value)
        if private:
            block = image.private_block(0x7053, "Philips PET Private Group", create=True)
            for element, value in private:
                block.add_new(element, "DS", value)
        if image.get("SeriesTime") == "later":  # after processing
            image.SeriesTime = "180000"

    make_series(folder, STORED, AXIAL, modality="PT", slope=SLOPES, edit=edit)
    return folder


def factor(minutes, half_life=HALF_LIFE):
    return WEIGHT * 1000 / (DOSE * 2 ** (-minutes * 60 / half_life))


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, factor(60)),
        ({"DecayCorrection": "ADMIN"}, WEIGHT * 1000 / DOSE),
        (
            {"SeriesTime": "001500", "AcquisitionTime": "001530", "tracer": {"RadiopharmaceuticalStartTime": "233000"}},
            factor(45),
        ),
        (
            {
                "tracer": {
                    "RadiopharmaceuticalStartDateTime": "20240301104500.5",
                    "RadiopharmaceuticalStartTime": "110000",
                }
            },
            factor(75 - 0.5 / 60),
        ),
        ({"SeriesTime": "later", "DecayFactor": "1.002", "ActualFrameDuration": "120000"}, factor(60 + 10 / 60)),
        ({"Units": "GML", "SUVType": "BW", "PatientWeight": None}, 1.0),
        ({"Units": "GML"}, 1.0),
        ({"Units": "CNTS", "private": [(0x00, "0.000123")], "PatientWeight": None}, 0.000123),
        ({"Units": "CNTS", "private": [(0x00, "0"), (0x09, "3.5")]}, 3.5 * factor(60)),
        ({"Units": "CNTS", "private": [(0x09, "3.5")]}, 3.5 * factor(60)),
    ],
)
def test_uptake_is_what_the_formula_says(tmp_path, setting, expected):
    volume = read_volume(pet(tmp_path, **setting), choices=SUV)
    assert np.allclose(volume.data[0], STORED * SLOPES * expected, rtol=1e-5)
    assert volume.units == "SUVbw" and "body weight" in volume.source.notes[-1]
    assert not any(secret in note for note in volume.source.notes for secret in ("20240301", "72.5"))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"Units": "CPS"}, "units CPS"),
        ({"Units": None}, "units that it does not say"),
        ({"Units": "GML", "SUVType": "LBM"}, "type LBM"),
        ({"Units": "CNTS"}, r"\(7053,xx00\) and \(7053,xx09\)"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection NONE"),
        ({"DecayCorrection": None}, "DecayCorrection missing"),
        ({"CorrectedImage": "ATTN"}, "DecayCorrection START"),
        ({"CorrectedImage": "DECY"}, "not corrected for attenuation"),
        ({"PatientWeight": None}, "no PatientWeight"),
        ({"PatientWeight": "0"}, "PatientWeight that cannot be in kg"),
        ({"PatientWeight": "72500"}, "PatientWeight that cannot be in kg"),
        ({"tracer": {"RadionuclideTotalDose": 370}}, "RadionuclideTotalDose that cannot be in Bq"),
        ({"tracer": {"RadionuclideTotalDose": None}}, "no RadionuclideTotalDose"),
        ({"tracer": {"RadionuclideHalfLife": None}}, "no RadionuclideHalfLife"),
        ({"tracer": {"RadiopharmaceuticalStartTime": None}}, "no time of injection"),
        ({"tracer": {"RadiopharmaceuticalStartDateTime": "20240228110000"}}, "injection 2940 minutes before"),
        ({"tracer": {"RadiopharmaceuticalStartDateTime": "20240301130000"}}, "injection -60 minutes before"),
        ({"tracer": {"RadiopharmaceuticalStartDateTime": "20240301110000+0100"}}, "no usable"),
        ({"RadiopharmaceuticalInformationSequence": None}, "no RadiopharmaceuticalInformationSequence"),
        ({"SeriesTime": "later"}, "no decay factor that settles"),
        (
            {"SeriesTime": "later", "DecayFactor": "1.6", "ActualFrameDuration": "120000"},
            "no decay factor that settles",
        ),
        ({"SeriesDate": None}, "no usable SeriesTime"),
    ],
)
def test_uptake_is_refused_where_anything_lacks(tmp_path, setting, words):
    with pytest.raises(ScanError, match=words) as refused:
        read_volume(pet(tmp_path, **setting), choices=SUV)
    assert "--suv off" in str(refused.value)
    assert np.allclose(read_volume(tmp_path).data[0], STORED * SLOPES, rtol=1e-6)


def test_activity_has_its_units_and_a_ct_no_uptake(tmp_path):
    assert read_volume(pet(tmp_path / "pet")).units == "Bq/mL"
    make_series(tmp_path / "ct", STORED, AXIAL, modality="CT")
    with pytest.raises(ScanError, match="modality CT, which is no PET"):
        read_volume(tmp_path / "ct", choices=SUV)
