"""A look at a map without a window: thresholds, signs, filters, statistics, probe, hot spots."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from napari_xai._hotspots import cells, hot_spots, peak_index, regions_in
from napari_xai._look import Look, read_look, write_look
from napari_xai._map_statistics import MapStatistics
from napari_xai._overlay import filtered, left_out
from napari_xai.errors import ExplainError
from napari_xai.layers import relevance_layers, scan_layers, to_ras
from xai_io import Display, ExportError, Volume

napari = pytest.importorskip("napari", reason="needs the gui extra")
from napari.layers import Labels, Layer  # noqa: E402
from napari.utils.colormaps import AVAILABLE_COLORMAPS  # noqa: E402

from napari_xai._overlay import map_key, original, paint, scan_under, show_values, voxel_mm  # noqa: E402
from napari_xai._probe import probe  # noqa: E402
from napari_xai._workplace import Workplace  # noqa: E402

LOOK = Look.like(Display(window=(0, 100), limit=2.0, threshold=0.2))


@pytest.fixture
def layers(scan, relevance):
    """The layers of scan and map, as the viewer holds them."""
    return [Layer.create(*scan_layers(scan)[0]), Layer.create(*relevance_layers(relevance, "map", {})[0])]


# --- the look ---------------------------------------------------------------------------------


def test_a_limit_makes_room_for_the_threshold_and_comes_back():
    high = LOOK.with_threshold(3.0, percentile=99.9)
    assert (high.display.threshold, high.display.limit, high.percentile) == (3.0, 3.75, 99.9)
    back = high.with_threshold(0.5)
    assert (back.display.limit, back.percentile) == (2.0, None)
    assert LOOK.with_limit(0.1).display.limit == 0.25
    low = back.with_threshold(1e-4)
    assert low.display.limit == pytest.approx(0.01)  # else the threshold would lie between two colours
    assert low.with_threshold(0.5).display.limit == 2.0


@pytest.mark.parametrize(("sign", "shown"), [("both", (1, 1)), ("positive", (0, 1)), ("negative", (1, 0))])
def test_colours_are_locked_at_zero_and_show_the_sign_that_was_asked_for(sign, shown):
    table = LOOK.with_display(sign=sign).colors
    assert table.shape == (1024, 4)
    cut = np.abs(np.linspace(-2, 2, 1024)) < 0.2
    assert (table[cut, 3] == 0).all()
    assert [bool((part[:, 3] > 0).any()) for part in (table[:512], table[512:])] == list(map(bool, shown))


def test_zero_is_transparent_however_small_the_threshold_is():
    for threshold in (0.0, 1e-9):
        table = LOOK.with_threshold(threshold).colors
        assert (table[511:513, 3] == 0).all()
        assert (table[:505, 3] > 0).all()


@pytest.mark.parametrize("threshold", [1e-6, 0.003, 0.01, 0.2, 1.5])
def test_nothing_below_the_threshold_is_seen_and_little_above_it_is_hidden(threshold):
    colormap = pytest.importorskip("napari.utils.colormaps").Colormap
    look = LOOK.with_threshold(threshold)
    limit = look.display.limit
    seen = colormap(look.colors).map(np.linspace(0, 1, 1024))  # what the viewer's shader looks up
    values = np.linspace(0, 3 * threshold, 3001)
    at = 1023 * np.clip(0.5 + 0.5 * values / limit, 0, 1)
    alpha = np.interp(at, np.arange(1024), seen[:, 3])
    assert (alpha[values < threshold] < 1e-4).all()  # below what a screen can show
    assert (alpha[values > threshold + 2.1 * limit / 511] > 0.01).all()


def test_a_preset_is_saved_and_read_back_and_serves_the_command_line(tmp_path):
    look = replace(
        LOOK.with_threshold(3.0, percentile=99.0).with_display(sign="negative"), smoothing=4.0, between=(-900.0, None)
    )
    write_look(tmp_path / "look.json", look)
    assert read_look(tmp_path / "look.json") == look
    assert Display.of(json.loads((tmp_path / "look.json").read_text())["display"]) == look.display
    (tmp_path / "display.json").write_text(json.dumps(LOOK.display.record))
    assert read_look(tmp_path / "display.json") == LOOK
    assert look.words == "smoothed by 4 mm, where the scan is from -900"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"display": 3}',
        '{"display": {"window": [0, 1], "limit": 1, "threshold": 0}, "filters": {"between": 3}}',
    ],
)
def test_what_is_no_preset_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises((ExplainError, ExportError)):
        read_look(tmp_path / "wrong.json")
    with pytest.raises(ExplainError):
        read_look(tmp_path / "gone.json")


@pytest.mark.parametrize("wrong", [{"smoothing": -1.0}, {"percentile": 100.0}, {"between": (2.0, 1.0)}])
def test_a_look_that_shows_nothing_is_refused(wrong):
    with pytest.raises(ExplainError):
        Look(display=LOOK.display, limit=2.0, **wrong)


# --- statistics -------------------------------------------------------------------------------


def test_percentiles_peaks_and_slices_are_those_of_numpy(relevance):
    values = relevance.data[0]
    found = MapStatistics.of(values)
    magnitude = np.abs(values)
    for percent in (0, 5, 50, 90, 99, 99.9):
        assert found.value(percent) == pytest.approx(np.percentile(magnitude, percent), rel=1e-2)
    for value in (0.005, -0.02, 1.0, -1.5, 3.0, 9.0):
        assert found.percentile(value) == pytest.approx(100 * (magnitude < abs(value)).mean(), abs=0.1)
    assert (found.highest.value, found.highest.index) == (3.0, (11, 9, 6))
    assert (found.lowest.value, found.peak("negative")) == (-1.5, found.lowest)
    assert found.peak("both") == found.highest
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        assert np.allclose(found.positive[axis], np.maximum(values, 0).sum(others, dtype=float))
        assert np.allclose(found.negative[axis], np.minimum(values, 0).sum(others, dtype=float))


def test_percentiles_are_of_what_is_not_clipped(relevance):
    values = relevance.data[0]
    inside = np.zeros(values.shape, bool)
    inside[3:12, 4:10, 2:9] = True
    found = MapStatistics.of(np.where(inside, values, 0), int((~inside).sum()))
    for percent in (5, 50, 90, 99):
        assert found.value(percent) == pytest.approx(np.percentile(np.abs(values[inside]), percent), rel=3e-2)
    all_of_it = MapStatistics.of(np.zeros_like(values), values.size)
    assert (all_of_it.value(99), all_of_it.percentile(1)) == (0, 0)


def test_a_map_of_nothing_and_one_with_nan_have_statistics():
    nothing = MapStatistics.of(np.zeros((3, 4, 5), np.float32))
    assert (nothing.highest, nothing.lowest, nothing.top) == (None, None, 0)
    assert (nothing.value(99), nothing.percentile(1)) == (0, 100)
    values = np.zeros((3, 4, 5), np.float32)
    values[0, 0, :3] = np.nan, np.inf, -2
    assert MapStatistics.of(values).top == 2


# --- what is shown in a map's place -----------------------------------------------------------


def test_smoothing_is_a_gaussian_in_mm_along_each_axis():
    point = np.zeros((41, 41, 41), np.float32)
    point[20, 20, 20] = 1
    found = filtered(point, (1.0, 2.0, 0.5), 6.0)
    for axis, size in enumerate((1.0, 2.0, 0.5)):
        line = np.moveaxis(found, axis, 0)[:, 20, 20]
        half = np.interp(3.0, (np.arange(41) - 20)[20:] * size, line[20:]) / line[20]
        assert half == pytest.approx(0.5, abs=0.03)  # full width at half maximum: 3 mm to each side
    assert found.sum() == pytest.approx(1, abs=1e-2)
    assert np.allclose(found, ndimage.gaussian_filter(point, np.array([6.0] * 3) / 2.3548 / (1, 2, 0.5)), atol=1e-5)


def test_relevance_is_clipped_by_the_scan_and_by_a_mask(scan, relevance):
    values, under = relevance.data[0], scan.data[0]
    found = filtered(values, (1, 1, 1), 0.0, left_out(replace(LOOK, between=(20.0, 60.0)), scan=under))
    assert np.array_equal(found != 0, (values != 0) & (under >= 20) & (under <= 60))
    mask = under > 90
    assert np.array_equal(filtered(values, (1, 1, 1), 0.0, left_out(LOOK, mask=mask)), np.where(mask, values, 0))
    assert filtered(values, (1, 1, 1), 0.0, left_out(LOOK)) is values


def test_the_map_itself_is_kept_and_comes_back(layers):
    _, layer = layers
    map_ = layer.data
    show_values(layer, map_ * 2, "doubled")
    assert layer.metadata["napari_xai"]["filtered"] == "doubled"
    assert original(layer) is map_
    show_values(layer, map_, "")
    assert layer.data is map_
    assert "filtered" not in layer.metadata["napari_xai"]
    show_values(layer, map_ * 2, "doubled")
    newer = map_ + 1
    layer.data = newer  # a partial map of a run that goes on
    assert original(layer) is newer


def test_a_drag_of_the_threshold_leaves_one_colormap_behind(layers):
    _, layer = layers
    paint(layer, LOOK)
    before = len(AVAILABLE_COLORMAPS)
    for threshold in np.linspace(0.1, 1.5, 20):
        paint(layer, LOOK.with_threshold(float(threshold)))
    assert len(AVAILABLE_COLORMAPS) == before
    assert layer.contrast_limits == [-2, 2]
    assert layer.colormap.map(np.array([0.5, 0.6, 1.0]))[:, 3] == pytest.approx([0, 0, 0.95], abs=0.01)


# --- probe and hot spots ----------------------------------------------------------------------


def test_the_probe_names_place_and_values_through_the_layers_own_transforms(scan, relevance, layers):
    under, layer = layers
    labels = Labels(np.zeros(layer.data.shape, np.uint8), name="organs", affine=layer.affine)
    index = np.array(np.unravel_index(layer.data.argmax(), layer.data.shape))
    labels.data[tuple(index)] = 4
    assert scan_under(layers, layer) is under
    statistics = MapStatistics.of(layer.data)
    world = layer.data_to_world(index + 0.3)  # anywhere in the voxel
    found = probe(world, layer, under, [labels], statistics, Workplace())
    assert found.mm == pytest.approx((scan.affine @ [11, 9, 6, 1])[:3].tolist())
    assert found.scan == scan.data[0, 11, 9, 6]
    assert (found.relevance, found.labels) == (3.0, {"organs": "label 4"})
    assert found.percentile > 99.9
    assert "relevance +3 (percentile 99." in found.line
    assert found.line.endswith("organs: label 4")
    assert probe((7.0, *world), layer, under, [labels], statistics, Workplace()) == found  # a world with time
    assert probe(layer.data_to_world(index - 100), layer, under, [labels], None, Workplace()) is None


def test_hot_spots_are_what_is_shown_and_lead_to_their_peaks(layers):
    _, layer = layers
    found = hot_spots(layer.data, layer.metadata, LOOK)
    assert [region.sign for region in found] == [1, -1]
    shown = np.abs(layer.data) >= 0.2
    assert sum(region.voxels for region in found) == shown.sum()
    index = peak_index(found[0], layer.metadata)
    assert layer.data[index] == 3.0
    assert np.allclose((to_ras(layer.metadata) @ [*index, 1])[:3], found[0].peak_mm)
    assert cells(found[0])[2] == "raises"

    (blue,) = hot_spots(layer.data, layer.metadata, LOOK.with_display(sign="negative"))
    assert blue.sign == -1
    assert hot_spots(layer.data, layer.metadata, LOOK.with_threshold(0)) == ()


def test_regions_of_a_labels_layer_that_says_nothing_of_its_own(layers):
    _, layer = layers
    labels = np.zeros(layer.data.shape, np.uint8)
    labels[layer.data > 0.5] = 7
    (region,) = regions_in(layer.data, layer.metadata, labels, {7: "tumour"})
    assert (region.name, region.number, region.peak) == ("tumour", 7, 3.0)


def test_voxels_are_as_large_as_the_scan_says_and_maps_get_a_key(scan, layers):
    _, layer = layers
    assert voxel_mm(layer) == pytest.approx((3.0, 1.8, 1.8))
    assert map_key(layer) == map_key(layer) != ""


def test_the_usual_look_is_the_display_of_exports(scan, relevance):
    from xai_io import display_for

    assert Look.usual(scan, relevance).display == display_for(scan, relevance)
    blank = Volume(np.zeros_like(scan.data), scan.affine)
    assert Look.usual(blank, blank).display.limit == 1
