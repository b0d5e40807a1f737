import csv
import itertools

import numpy as np
import pytest

from xai_io import ExportError, Volume
from xai_io.regions import Region, clusters, region_table, write_regions

GRID = np.array([[-2.0, 0, 0, 40], [0, 1.5, 0, -30], [0, 0, 4, -50], [0, 0, 0, 1]])  # voxels of 12 mm3


def volume(values, affine=GRID):
    return Volume(np.asarray(values)[None], affine)


def planted():
    """Two positive boxes, a negative one that touches the first, and what is too faint or too small."""
    values = np.zeros((30, 24, 20), np.float32)
    values[2:6, 3:8, 4:9] = 2.0  # 100 voxels, 200 in all
    values[6:8, 3:8, 4:9] = -3.0  # 50 voxels, -150 in all
    values[20:25, 10:14, 10:14] = 1.0  # 80 voxels, 80 in all
    values[7, 5, 6] = -9.0  # the peak of the negative one: -156 in all
    values[15:20, 1:5, 15:19] = 0.4  # below the threshold, 80 voxels
    values[28, 22, 18] = 50.0  # one voxel of 12 mm3
    return values, 200 + 156 + 80 + 32 + 50


def test_planted_blobs_are_listed_as_they_were_made():
    values, total = planted()
    labels, regions = clusters(volume(values), 0.5, least_mm3=12.1)
    assert [region.number for region in regions] == [1, 2, 3]
    assert [region.voxels for region in regions] == [100, 50, 80]
    assert [region.volume_mm3 for region in regions] == pytest.approx([1200, 600, 960])
    assert [region.share * total for region in regions] == pytest.approx([200, 156, 80])
    for sign, wanted in (("positive", [100, 80]), ("negative", [50])):
        _, of_sign = clusters(volume(values), 0.5, sign=sign, least_mm3=12.1)
        assert [region.voxels for region in of_sign] == wanted
    assert [region.mean for region in regions] == pytest.approx([2, -3.12, 1])
    assert [region.peak for region in regions] == [2, -9, 1]
    assert [region.sign for region in regions] == [1, -1, 1]
    assert regions[1].peak_mm == pytest.approx((40 - 2 * 7, -30 + 1.5 * 5, -50 + 4 * 6))
    assert labels.data.dtype == np.uint16 and labels.data.shape == (1, *values.shape)
    assert np.array_equal(labels.affine, GRID)
    truth = np.zeros(values.shape, np.uint16)
    truth[2:6, 3:8, 4:9], truth[6:8, 3:8, 4:9], truth[20:25, 10:14, 10:14] = 1, 2, 3
    assert np.array_equal(labels.data[0], truth)


def test_small_ones_and_those_beyond_the_most_are_left_out():
    values, _ = planted()
    assert [region.voxels for region in clusters(volume(values), 0.5, least_mm3=12)[1]] == [100, 50, 80, 1]
    labels, regions = clusters(volume(values), 0.5, most=2)
    assert len(regions) == 2 and np.unique(labels.data).tolist() == [0, 1, 2]
    assert len(clusters(volume(values), 0.41)[1]) == 4
    assert len(clusters(volume(values), 0.4)[1]) == 5  # a value at the threshold counts


def test_what_touches_at_a_corner_is_one():
    values = np.zeros((4, 4, 4))
    for corner in range(4):
        values[corner, corner, corner] = 1
    assert [region.voxels for region in clusters(volume(values), 1.0)[1]] == [4]


def flooded(values, threshold):
    """Sizes and sums of all clusters, found voxel by voxel."""
    left = {tuple(at) for at in np.argwhere(np.abs(values) >= threshold)}
    found = []
    while left:
        todo, sign, part = [left.pop()], None, []
        sign = values[todo[0]] > 0
        while todo:
            at = todo.pop()
            part.append(at)
            for step in itertools.product((-1, 0, 1), repeat=3):
                near = tuple(np.add(at, step).tolist())
                if near in left and (values[near] > 0) == sign:
                    left.remove(near)
                    todo.append(near)
        found.append((sum(abs(values[at]) for at in part), len(part), sign))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_clusters_are_those_of_a_flood(seed):
    values = np.random.default_rng(seed).normal(size=(11, 9, 10))
    wanted = flooded(values, 1.6)
    labels, regions = clusters(volume(values), 1.6, least_mm3=0, most=1000)
    assert len(wanted) > 15
    total = np.abs(values).sum()
    assert [region.share * total for region in regions] == pytest.approx([one[0] for one in wanted])
    assert [(region.voxels, region.sign > 0) for region in regions] == [one[1:] for one in wanted]
    assert (labels.data[0] > 0).sum() == (np.abs(values) >= 1.6).sum()


def test_the_order_of_the_axes_does_not_matter():
    values = np.random.default_rng(5).normal(size=(8, 9, 10))
    first = clusters(volume(values), 1.5)[1]
    for axes, flips in (((2, 0, 1), (0,)), ((1, 0, 2), (1, 2))):
        turned = np.flip(values.transpose(axes), flips)
        shape = np.array(turned.shape)
        back = np.zeros((4, 4))  # index in the turned array -> index in the first one
        for new, old in enumerate(axes):
            back[old, new] = -1 if new in flips else 1
            back[old, 3] = shape[new] - 1 if new in flips else 0
        back[3, 3] = 1
        other = clusters(volume(turned, GRID @ back), 1.5)[1]
        assert [(r.voxels, r.peak) for r in other] == [(r.voxels, r.peak) for r in first]
        assert np.allclose([r.peak_mm for r in other], [r.peak_mm for r in first])


def test_peaks_of_an_oblique_scan_are_in_its_world(rotate, placed):
    affine = placed(rotate(20, -10, 35), (1, 2, 3), (5, -7, 11))
    values = np.zeros((12, 10, 8))
    values[3:7, 2:5, 4:6] = -1
    values[5, 3, 4] = -2
    (region,) = clusters(volume(values, affine), 0.5)[1]
    assert region.peak_mm == pytest.approx(tuple((affine @ [5, 3, 4, 1])[:3]))
    assert region.volume_mm3 == pytest.approx(24 * 6)


def test_nothing_is_made_of_nothing():
    for values in (np.zeros((5, 6, 7)), np.full((5, 6, 7), np.nan)):
        labels, regions = clusters(volume(values), 0.1)
        assert regions == () and not labels.data.any()
    (region,) = region_table(volume(np.zeros((5, 6, 7))), volume(np.ones((5, 6, 7), np.uint8)), {1: "organ"})
    assert (region.share, region.mean, region.peak, region.sign) == (0, 0, 0, 0)


def test_nan_and_infinity_are_nowhere():
    values, total = planted()
    values[28, 22, 18], values[3, 4, 5], total = np.nan, np.inf, total - 50 - 2
    regions = clusters(volume(values), 0.5)[1]
    assert [region.voxels for region in regions] == [99, 50, 80]
    assert [region.share * total for region in regions] == pytest.approx([198, 156, 80])
    assert all(np.isfinite([r.mean, r.peak, *r.peak_mm]).all() for r in regions)


def test_structures_share_what_there_is():
    values = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    labels = np.random.default_rng(1).choice([0, 3, 700], size=values.shape).astype(np.int32)
    regions = region_table(volume(values), volume(labels), {0: "outside", 3: "liver", 5: "absent"})
    assert {region.name for region in regions} == {"outside", "liver", "label 700"}
    assert sum(region.share for region in regions) == pytest.approx(1)
    assert sum(region.voxels for region in regions) == values.size
    shares = [region.share for region in regions]
    assert shares == sorted(shares, reverse=True)
    for region in regions:
        inside = values[labels == region.number].astype(np.float64)
        assert region.mean == pytest.approx(inside.mean())
        assert region.peak == inside[np.abs(inside).argmax()]
        assert region.share == pytest.approx(np.abs(inside).sum() / np.abs(values).sum())
    assert {r.number for r in region_table(volume(values), volume(labels.astype(np.float32)), {})} == {3, 700}


@pytest.mark.parametrize("threshold,most", [(0, 5), (-1, 5), (np.nan, 5), (np.inf, 5), (1, 0), (1, 70000)])
def test_no_threshold_no_clusters(threshold, most):
    with pytest.raises(ExportError, match="threshold above 0"):
        clusters(volume(np.ones((3, 3, 3))), threshold, most=most)


def test_what_does_not_belong_together_is_refused():
    values = volume(np.ones((3, 4, 5)))
    with pytest.raises(ExportError, match="or their sum"):
        clusters(Volume(np.ones((2, 3, 4, 5)), GRID), 1)
    for labels in (volume(np.ones((3, 4, 4), int)), volume(np.ones((3, 4, 5), int), np.eye(4))):
        with pytest.raises(ExportError, match="same grid"):
            region_table(values, labels, {})
    for bad in (np.full((3, 4, 5), -1), np.full((3, 4, 5), 70000), np.full((3, 4, 5), 0.5), np.full((3, 4, 5), np.nan)):
        with pytest.raises(ExportError, match="from 0 to 65535"):
            region_table(values, volume(bad), {})


def test_the_table_is_read_back_as_it_was_written(tmp_path):
    values, _ = planted()
    regions = clusters(volume(values), 0.5, most=3)[1]
    names = ['"quoted", with\ncomma', "=HYPERLINK(1)", "病変 Läsion"]
    fields = [vars(region) | {"name": name} for region, name in zip(regions, names, strict=True)]
    path = tmp_path / "regions.csv"
    write_regions(path, [Region(**one) for one in fields])
    assert path.read_bytes().count(b"\r\n") == 4
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert lines[0][4] == "volume (mm3)" and lines[0][8:] == [f"peak {axis} (mm, RAS)" for axis in "xyz"]
    assert [line[1] for line in lines[1:]] == [names[0], "'" + names[1], names[2]]
    assert [line[2] for line in lines[1:]] == ["raises", "lowers", "raises"]
    for line, region in zip(lines[1:], regions, strict=True):
        wanted = [region.voxels, region.volume_mm3, region.share, region.mean, region.peak, *region.peak_mm]
        assert [float(value) for value in line[3:]] == pytest.approx(wanted)
    with pytest.raises(ExportError, match="overwrite"):
        write_regions(path, regions)
    write_regions(path, [], overwrite=True)
    assert path.read_bytes().count(b"\r\n") == 1
