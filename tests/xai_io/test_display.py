import dataclasses
import json

import numpy as np
import pytest

from xai_io import Display, ExportError, Volume, display_for, display_range
from xai_io.display import CT_WINDOWS, display_window

SCAN = Volume(np.arange(1000, dtype=np.float32).reshape(1, 10, 10, 10), np.eye(4))


def relevance(values):
    return SCAN.with_data(np.asarray(values, np.float32).reshape(1, 10, 10, 10))


def test_range_is_that_of_what_is_there():
    sparse = np.zeros(1000)
    sparse[:5] = [1, -2, 3, -4, 4]
    assert display_range(relevance(sparse)) == pytest.approx(4)
    sparse[5] = np.nan
    assert display_range(relevance(sparse)) == pytest.approx(4)
    assert display_range(relevance(np.zeros(1000))) == 1
    assert display_range(relevance(-sparse)) == display_range(relevance(sparse))


def test_range_follows_where_the_relevance_is_not_how_many_voxels_hold_it():
    lesion = np.zeros(1000)
    lesion[:100] = np.linspace(1, 10, 100)  # a tenth of the volume: a voxel percentile would pass it by
    below = np.abs(lesion) <= display_range(relevance(lesion))
    assert lesion[below].sum() / lesion.sum() == pytest.approx(0.9, abs=0.03)
    speckle = np.random.default_rng(0).normal(size=1000)
    assert 1.5 < display_range(relevance(speckle)) < 2.5  # standard deviations


def test_the_table_is_symmetric_transparent_at_zero_and_denser_outwards():
    display = Display(window=(0, 1), limit=2.0, threshold=0.5)
    table = display.table(401)
    alpha = table[:, 3]
    assert np.allclose(alpha, alpha[::-1]) and (np.diff(alpha[200:]) >= 0).all()
    assert not alpha[151:250].any() and alpha[150] > 0 and alpha[250] > 0 and alpha[-1] > 0.9
    assert (table[201:, 0] > table[201:, 2]).all() and (table[:200, 0] < table[:200, 2]).all()
    assert table.min() >= 0 and table.max() <= 1
    smooth = dataclasses.replace(display, threshold=0.0).table(401)
    assert smooth[200, 3] == 0 and smooth[201, 3] > 0


def test_other_colormaps_keep_the_transparency():
    display = Display(window=(0, 1), limit=2.0, threshold=0.5)
    other = dataclasses.replace(display, colormap="RdBu_r")
    assert np.array_equal(other.table()[:, 3], display.table()[:, 3])
    assert other.table()[-1, 0] > other.table()[-1, 2]


def test_defaults_follow_the_data():
    values = np.linspace(-3, 1, 1000)
    display = display_for(SCAN, relevance(values))
    assert display.limit == display_range(relevance(values)) and display.threshold == pytest.approx(display.limit / 10)
    low, high = display.window
    assert low < 20 and 990 < high < 1300
    assert (display.level, display.width) == ((low + high) / 2, high - low)


def test_ct_is_shown_in_the_soft_tissue_window():
    ct = Volume(SCAN.data, np.eye(4), units="HU", modality="CT")
    display = display_for(ct, relevance(np.ones(1000)))
    assert (display.level, display.width) == (40, 400)


def test_a_background_does_not_decide_the_window():
    data = np.zeros((1, 20, 20, 20), np.float32)
    data[0, 8:12, 8:12, 8:12] = np.random.default_rng(0).uniform(500, 1000, (4, 4, 4))
    scan = Volume(data, np.eye(4))
    low, high = display_for(scan, scan.with_data(data)).window
    assert low == 0 and high > 900


def test_every_pixel_is_the_blend_that_the_table_says():
    rng = np.random.default_rng(0)
    for display in (
        Display(window=(-100, 300), limit=2.0, threshold=0.25, opacity=0.6),
        Display(window=(0, 1), limit=1.0, threshold=0.0, colormap="coolwarm"),
    ):
        low, high = display.window
        steps = 4097
        entry = rng.integers(0, steps, (7, 5, 3))
        values = (entry / (steps - 1) * 2 - 1) * display.limit  # exactly on the table's entries
        scan = rng.uniform(low - 50, high + 50, values.shape)
        color = display.table(steps)[entry]
        grey = np.clip((scan - low) / (high - low), 0, 1)[..., None]
        expected = 255 * (color[..., :3] * color[..., 3:] + grey * (1 - color[..., 3:]))
        painted = display.rgb(scan, values)
        assert painted.dtype == np.uint8 and painted.shape == (7, 5, 3, 3)
        assert np.abs(painted - expected).max() <= 0.51


def test_colours_by_hand():
    display = Display(window=(0, 100), limit=1.0, threshold=0.5, opacity=1.0)
    scan = np.array([50.0, 50, 50, 50, 500, -5, np.nan, 50])
    values = np.array([0.49, -0.5, 1, 7, 0, 0, np.nan, np.nan])
    painted = display.rgb(scan, values)
    assert painted[0].tolist() == painted[7].tolist() == [128, 128, 128]
    assert painted[1][2] > painted[1][0]  # at the threshold itself: blue
    assert painted[2].tolist() == painted[3].tolist() == [255, 214, 64]  # full red-yellow, also beyond the limit
    assert painted[4].tolist() == [255] * 3 and painted[5].tolist() == painted[6].tolist() == [0] * 3


def test_integers_and_half_precision_are_shown_alike():
    display = Display(window=(0, 4000), limit=4.0, threshold=1.0)
    scan, values = np.arange(0, 4000, 500), np.arange(-4, 4)
    first = display.rgb(scan, values.astype(np.float64))
    for kind in (np.int16, np.float16, np.float32):
        assert np.array_equal(display.rgb(scan.astype(kind), values.astype(kind)), first)


def test_a_preset_comes_back_from_json():
    display = Display(
        window=(-160, 240), limit=0.03, threshold=0.001, colormap="RdBu_r", opacity=0.5, planes=("coronal", "axial"),
        centre=(1.5, -2.0, 3.0),
    )  # fmt: skip
    assert Display.of(json.loads(json.dumps(display.record))) == display
    assert Display.of({"window": [0, 1], "limit": 1, "threshold": 0}) == Display(window=(0, 1), limit=1, threshold=0)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"window": (1, 1)}, "black first"),
        ({"window": (1,)}, "finite numbers"),
        ({"window": (0, np.nan)}, "finite numbers"),
        ({"limit": 0.0}, "below the limit"),
        ({"limit": np.inf}, "finite numbers"),
        ({"threshold": 2.0}, "below the limit"),
        ({"threshold": -0.1}, "0 or more"),
        ({"opacity": 0.0}, "opacity of 0"),
        ({"opacity": 1.1}, "opacity of 1.1"),
        ({"planes": ()}, "none were given"),
        ({"planes": ("axial", "axial")}, "axial, axial"),
        ({"planes": ("oblique",)}, "oblique"),
        ({"colormap": "no such"}, "no such"),
        ({"centre": (1, 2)}, "centre"),
        ({"colour": "red"}, "unknown settings"),
    ],
)
def test_what_cannot_be_shown_is_refused(change, words):
    record = Display(window=(0, 1), limit=1.0, threshold=0.1).record
    with pytest.raises(ExportError, match=words):
        Display.of(record | change)
    with pytest.raises(ExportError, match="without needed ones"):
        Display.of({"window": [0, 1], "threshold": 0})


def test_named_windows_are_for_hounsfield_units():
    ct = Volume(SCAN.data, np.eye(4), units="HU", modality="CT")
    assert display_window(ct, "lung") == (-1350, 150)
    assert all(display_window(ct, name)[0] < display_window(ct, name)[1] for name in CT_WINDOWS)
    for scan, name in ((SCAN, "lung"), (ct, "toe")):
        with pytest.raises(ExportError, match="scans in HU: pass a level and a width"):
            display_window(scan, name)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e38])
def test_the_range_of_tiny_and_huge_maps(scale):
    values = (np.linspace(0, 1, 4**3, dtype=np.float64) * scale).astype(np.float32).reshape(1, 4, 4, 4)
    assert 0.5 * scale < display_range(Volume(values, np.eye(4))) <= 1.01 * scale


@pytest.mark.parametrize("record", [5, {"window": [0, 1], "limit": 1, "threshold": 0, "planes": [["axial"]]}])
def test_what_is_no_preset_is_refused(record):
    with pytest.raises(ExportError):
        Display.of(record)
