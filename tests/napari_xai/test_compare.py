"""Agreement of maps: against scipy, and by hand."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from napari_xai import _compare
from napari_xai._compare import agreement, difference, limits, tissue
from napari_xai.errors import ExplainError


def two(rng, shape=(20, 21, 22)):
    one = rng.normal(size=shape).astype(np.float32)
    return one, (one + rng.normal(size=shape)).astype(np.float32)


def test_rank_correlation_is_that_of_scipy():
    rng = np.random.default_rng(0)
    one, other = two(rng)
    other = np.round(other)  # many ties
    inside = rng.random(one.shape) > 0.3
    (pair,) = agreement({"a": one, "b": other}, inside).pairs
    assert (pair.one, pair.other) == ("a", "b")
    assert pair.rank == pytest.approx(spearmanr(one[inside], other[inside]).statistic, abs=1e-9)
    wanted = spearmanr(np.abs(one[inside]), np.abs(other[inside])).statistic
    assert pair.magnitude == pytest.approx(wanted, abs=1e-9)


def test_a_large_map_is_ranked_from_a_sample(monkeypatch):
    one, other = two(np.random.default_rng(1), (60, 60, 60))
    monkeypatch.setattr(_compare, "MOST", 100_000)
    found = agreement({"a": one, "b": other})
    assert found.pairs[0].rank == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic, abs=0.005)
    assert found.voxels == 60**3
    assert found == agreement({"a": one, "b": other})


def test_overlap_by_hand():
    one, other = np.zeros(100, np.float32), np.zeros(100, np.float32)
    one[:10] = np.arange(10, 0, -1)
    other[5:15] = -np.arange(10, 0, -1.0)  # the sign does not matter
    assert agreement({"a": one, "b": other}, percent=10).pairs[0].overlap == pytest.approx(0.5)
    assert agreement({"a": one, "b": other}, percent=5).pairs[0].overlap == 0
    assert agreement({"a": one, "b": one}, percent=5).pairs[0].overlap == 1
    found = agreement({"a": one, "b": other}, percent=10)
    assert found.top == {"a": (1.0, 10.0), "b": (1.0, 10.0)}
    assert found.chance == 0.1
    # More is asked for than either map has: zeros are nowhere the highest.
    assert agreement({"a": one, "b": other}, percent=40).pairs[0].overlap == pytest.approx(0.5)


def test_unrelated_maps_overlap_by_chance():
    rng = np.random.default_rng(2)
    maps = {name: rng.normal(size=(50, 50, 50)) for name in "abc"}
    found = agreement(maps, percent=10)
    assert [(p.one, p.other) for p in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in found.pairs:
        assert pair.overlap == pytest.approx(found.chance, abs=0.01)
        assert pair.rank == pytest.approx(0, abs=0.01)


def test_what_cannot_be_compared():
    one = np.arange(8.0)
    flat = agreement({"a": one, "b": np.zeros(8)}).pairs[0]
    assert np.isnan(flat.rank)
    assert flat.overlap == 0
    assert np.isnan(agreement({"a": np.zeros(8), "b": np.zeros(8)}).pairs[0].overlap)
    broken = one.copy()
    broken[3] = np.nan
    found = agreement({"a": one, "b": broken})
    assert found.voxels == 7
    assert found.pairs[0].rank == pytest.approx(1)
    with pytest.raises(ExplainError, match="different grids"):
        agreement({"a": one, "b": np.zeros(7)})
    with pytest.raises(ExplainError, match="no tissue"):
        agreement({"a": one, "b": one}, np.zeros(8, bool))
    for percent in (0, 51):
        with pytest.raises(ExplainError, match="above 0"):
            agreement({"a": one, "b": one}, percent=percent)


def test_tissue_is_not_air():
    scan = np.full((10, 10, 10), -1000.0, np.float32)
    scan[3:7, 3:7, 3:7] = 40
    scan[5, 5, 5] = np.nan
    found = tissue(scan)
    assert found.sum() == 4**3 - 1
    assert tissue(np.full((4, 4, 4), 7, np.int16)).all()
    # Whole numbers do not overflow.
    whole = np.full((6, 6, 6), -30_000, np.int16)
    whole[2:4, 2:4, 2:4] = 30_000
    assert tissue(whole).sum() == 8


def test_scales():
    own = {"a": 2.0, "b": 5.0}
    found = agreement({"a": np.arange(1000.0), "b": -np.arange(1000.0)}, percent=10)
    assert [limit for _, limit in limits("own", own, found).values()] == [2, 5]
    assert [limit for _, limit in limits("common", own, found).values()] == [5, 5]
    assert limits("top", own, found)["b"] == (900, 1125)
    assert limits("top", own, None)["a"][1] == 2  # not known yet
    assert difference(np.array([4.0]), 2.0, np.array([5.0]), 5.0).tolist() == [1.0]
