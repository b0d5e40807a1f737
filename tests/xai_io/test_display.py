import dataclasses

import numpy as np
import pytest

from xai_io import Display, Volume, display_for, display_range

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
    assert not alpha[150:251].any() and alpha[149] > 0 and alpha[-1] > 0.9
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
