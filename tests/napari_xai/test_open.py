"""What a dropped folder leaves open, how the patient lies on the canvas, windows, and records beside maps. No Qt."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from dicom_maker import make_4d, make_series

from napari_xai import _open, _reader
from napari_xai._look import Look
from napari_xai._orientation import edges, ends
from napari_xai._overlay import filtered, paint, show_values
from napari_xai._reader import get_reader, read
from napari_xai._record import record_beside, record_place
from napari_xai._settings import keeps_identity, recent_models, remember_model, running
from napari_xai._window_level import dragged, presets
from napari_xai._writer import write_layer
from napari_xai.errors import ExplainError
from napari_xai.layers import placed, relevance_layers, scan_layers
from napari_xai.reading import Reading
from xai_io import Choices, Display, ExportError, Volume, find_series, read_volume, write_nifti

napari_components = pytest.importorskip("napari.components", reason="needs the gui extra")
from napari.layers import Labels, Layer  # noqa: E402

from napari_xai._choices import regions, scans  # noqa: E402

AFFINE = np.diag([-1.0, -1, 2, 1])


def stored(slices=8):
    values = np.random.default_rng(1).integers(0, 300, (12, 10, slices)).astype(np.uint16)
    values[3:9, 3:8] += 500
    return values


def numbered(number, gap=None):
    """An edit that numbers a series, and leaves a slice out."""

    def edit(k, image):
        image.SeriesNumber = number
        return k != gap

    return edit


@pytest.fixture
def folder(tmp_path):
    """A CT with a gap, and a regular MR."""
    edit = numbered(1, gap=4)
    make_series(tmp_path / "d" / "a", stored(), AFFINE, modality="CT", series="1.2.1111", edit=edit)
    make_series(tmp_path / "d" / "b", stored(), AFFINE, series="1.2.2222", edit=numbered(2))
    return tmp_path / "d"


# --- series -----------------------------------------------------------------------------------


def test_several_series_are_listed_each_with_its_geometry_and_picture(folder):
    found = _open.found_in(folder)
    ct, mr = (_open.described(one) for one in found)
    assert ct[0] == "CT"
    assert ct[2:4] == ("7", "12 × 10 × 7")
    assert ct[5].startswith("A gap of 4.0 mm")
    assert mr[4:] == ("1 × 1 × 2", "Regular")
    picture = _open.thumbnail(found[1])
    assert picture.dtype == np.uint8
    assert max(picture.shape) == _open.THUMBNAIL
    assert picture.shape[0] / picture.shape[1] == pytest.approx(10 / 12, abs=0.02)
    assert picture[48, 48] > picture[2, 2]


def test_nothing_is_asked_about_one_regular_series_or_another_format(folder, scan_file, tmp_path):
    assert _open.found_in(folder / "b") == ()
    assert _open.found_in(scan_file) == ()
    assert _open.found_in(tmp_path / "nowhere") == ()


def test_an_irregular_series_is_opened_as_was_answered_and_remembers_it(folder):
    found = _open.found_in(folder)
    (asked,) = _open.questions(found[0])
    assert asked.field == "on_gap"
    assert _open.missing(None, {}) == "Choose a series."
    assert _open.missing(found[0], {}) == "Say what is to be done: slices are missing."
    assert _open.missing(found[0], {"on_gap": "fill"}) == ""
    assert _open.missing(found[1], {}) == ""
    reading = Reading(series=1, choices=Choices(on_gap="fill"))
    ((data, options, _),) = _open.opened(folder, reading)
    assert data.shape == (8, 10, 12)
    own = options["metadata"]["napari_xai"]
    assert _open.reading_of(own) == reading
    assert _open.reading_of({}) == Reading()
    assert len(_open.found_in(folder / "a")) == 1  # irregular alone, too


def test_tilt_and_copies_and_volumes_are_asked_about(tmp_path):
    tilted = AFFINE.copy()
    tilted[1, 2] = 0.7
    make_series(tmp_path / "tilt", stored(), tilted)
    (one,) = _open.found_in(tmp_path / "tilt")
    assert [value for value, _ in _open.questions(one)[0].answers] == ["keep-shear", "deskew"]

    def echo(t, k, image):
        image.EchoTime = 10 * (t + 1)

    make_4d(tmp_path / "echoes", [stored(), stored()], AFFINE, echo)
    (one,) = _open.found_in(tmp_path / "echoes")
    (asked,) = _open.questions(one)
    assert asked.free
    assert asked.answers[0] == (None, "All of them, as channels")
    assert asked.answers[2] == (2, "2: echo time 20")
    assert _open.missing(one, {"frame": None}) == ""
    assert _open.described(one)[3] == "12 × 10 × 8 × 2"
    assert len(_open.opened(tmp_path / "echoes", Reading(choices=Choices(frame=2)))) == 1


def test_what_is_no_volume_says_so(tmp_path):
    make_series(tmp_path / "one", stored(1), AFFINE)
    (one,) = find_series(tmp_path / "one")
    assert _open.questions(one) == ()
    assert "single image" in _open.missing(one, {})


# --- orientation ------------------------------------------------------------------------------


def turned(axes):
    """A grid whose axes point to these directions."""
    ornt = nib.orientations.axcodes2ornt(tuple(axes))
    affine = nib.orientations.inv_ornt_aff(ornt, (5, 6, 7))
    return Volume(np.random.default_rng(0).random((1, 5, 6, 7)).astype(np.float32), affine)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LPI", "PSR", "ASL"])
def test_letters_are_where_the_patient_is(axes):
    own = placed(turned(axes))["metadata"]["napari_xai"]
    assert [ends(own, axis) for axis in range(3)] == [("S", "I"), ("A", "P"), ("R", "L")]
    axial = edges(own, (1, 2))
    assert axial == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert edges(own, (0, 1)) == {"left": "A", "right": "P", "top": "S", "bottom": "I"}
    assert edges(own, (0, 1, 2)) == axial
    assert edges(own, (1, 2), ("up", "left")) == {"left": "L", "right": "R", "top": "P", "bottom": "A"}


def test_letters_of_an_oblique_scan_have_two(scan):
    c, s = np.cos(0.4), np.sin(0.4)  # 23 degrees about the axis from feet to head
    affine = np.diag([2.0, 2, 3, 1]) @ np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    own = placed(Volume(scan.data, affine))["metadata"]["napari_xai"]
    assert ends(own, 0) == ("S", "I")
    # Columns of voxels run to (c, s): towards right and a little towards anterior, shown from right to left.
    assert ends(own, 2) == ("RA", "LP")
    assert ends(own, 1) == ("AL", "PR")


# --- windows ----------------------------------------------------------------------------------


def test_presets_suit_the_modality():
    values = np.random.default_rng(0).normal(100, 30, (20, 20, 20)).astype(np.float32)
    ct = presets(values, {"units": "HU"})
    assert ct["lung"] == (-1350, 150)
    assert ct["brain"] == (0, 80)
    mr = presets(values, {"units": ""})
    assert list(mr) == ["usual", "0.5 to 99.5 % of the values", "2 to 98 % of the values"]
    assert presets(values, {"units": "SUVbw"})["SUV 0 to 10"] == (0, 10)
    assert all(low < high for low, high in mr.values())


def test_dragging_changes_width_to_the_right_and_brightness_upwards():
    assert dragged((0, 100), 0, 0) == (0, 100)
    assert dragged((0, 100), 200, 0) == (-50, 150)
    assert dragged((0, 100), -200, 0) == (25, 75)
    low, high = dragged((0, 100), 0, -40)
    assert (low, high) == (-10, 90)  # brighter


# --- records ----------------------------------------------------------------------------------


@pytest.fixture
def map_layer(scan):
    values = np.random.default_rng(2).normal(0, 1, scan.data.shape).astype(np.float32)
    record = {
        "method": "lrp",
        "question": "why lesion",
        "scan": {"shape": list(scan.shape), "affine_ras_mm": scan.affine.tolist()},
    }
    (layer,) = relevance_layers(scan.with_data(values), "lrp: why lesion", record)
    return layer


def saved(layer, path):
    data, options, _ = layer
    return write_layer(str(path), data, options)


def test_a_saved_map_comes_back_as_what_it_is(map_layer, tmp_path):
    path = tmp_path / "map.nii.gz"
    assert saved(map_layer, path) == [str(path), str(tmp_path / "map.json")]
    ((data, options, kind),) = read(str(path))
    wanted = map_layer[1]
    assert np.array_equal(data, map_layer[0])
    assert kind == "image"
    for name in ("name", "contrast_limits", "units", "axis_labels", "blending"):
        assert options[name] == wanted[name]
    assert np.allclose(options["affine"], wanted["affine"], atol=1e-4)
    own = options["metadata"]["napari_xai"]
    assert own["role"] == "relevance"
    assert own["provenance"] == wanted["metadata"]["napari_xai"]["provenance"]
    assert len(own["map"]) == 32
    assert saved((data, options, kind), path) == [str(path), str(tmp_path / "map.json")]  # again, over itself


def test_a_maps_look_and_channel_come_back_and_what_was_put_over_it_does_not(scan, tmp_path):
    values = np.random.default_rng(2).normal(0, 1, (2, *scan.shape)).astype(np.float32)
    record = {
        "method": "lrp",
        "question": "why lesion",
        "scan": {"shape": list(scan.shape), "affine_ras_mm": scan.affine.tolist()},
    }
    layer = Layer.create(*relevance_layers(scan.with_data(values), "lrp: why lesion", record)[1])
    display = Display(window=(0, 1), limit=2.0, threshold=0.5, colormap="coolwarm", opacity=0.5, sign="positive")
    look = Look(display=display, limit=2.0, smoothing=4.0)
    paint(layer, look)
    layer.metadata["napari_xai"]["look"] = look.record
    map_ = layer.data
    show_values(layer, filtered(map_, (1, 1, 1), look.smoothing), look.words)
    data, options, kind = layer.as_layer_data_tuple()
    write_layer(str(tmp_path / "map.nii.gz"), data, options)
    ((back, options, _),) = read(str(tmp_path / "map.nii.gz"))
    assert np.array_equal(back, map_)
    assert options["name"] == "lrp: why lesion, channel 1"
    own = options["metadata"]["napari_xai"]
    assert own["provenance"] == record
    assert Look.of(own["look"]) == look
    assert options["contrast_limits"] == (-2, 2)
    assert np.array_equal(options["colormap"]["colors"], look.colors)
    again = Layer.create(back, options, kind)
    write_layer(str(tmp_path / "map.nii.gz"), *again.as_layer_data_tuple()[:2])  # over itself
    assert read(str(tmp_path / "map.nii.gz"))[0][1]["name"] == options["name"]


def test_results_of_the_command_line_come_back_too(map_layer, tmp_path):
    saved(map_layer, tmp_path / "relevance.nii.gz")
    (tmp_path / "relevance.json").rename(tmp_path / "provenance.json")
    ((_, options, _),) = read(str(tmp_path / "relevance.nii.gz"))
    assert options["metadata"]["napari_xai"]["role"] == "relevance"


def test_another_files_json_is_neither_believed_nor_overwritten(map_layer, scan, tmp_path):
    path = tmp_path / "map.nii.gz"
    record_place(path).write_text(json.dumps({"EchoTime": 0.1}))
    with pytest.raises(ExportError, match="something else"):
        saved(map_layer, path)
    assert not path.exists()
    write_nifti(path, scan)
    ((_, options, _),) = read(str(path))
    assert options["metadata"]["napari_xai"]["role"] == "scan"
    for text in (
        "[]",
        "{",
        '{"method": 1}',
        '{"method": "a", "question": "b", "scan": {"shape": [1], "affine_ras_mm": 0}}',
    ):
        record_place(path).write_text(text)
        assert record_beside(path, read_volume(path)) is None


def test_without_a_window_scans_are_read_at_once(scan_file):
    assert get_reader(str(scan_file)) is read


def test_a_scan_layer_is_written_without_a_record(scan, tmp_path):
    ((data, options, _),) = scan_layers(scan)
    assert write_layer(str(tmp_path / "a.nii"), data, options) == [str(tmp_path / "a.nii")]
    assert not (tmp_path / "a.json").exists()


# --- label maps -------------------------------------------------------------------------------


@pytest.fixture
def opened_over(monkeypatch, tmp_path):
    """What the reader makes of values in a file, on the grid of an open scan or a little beside it."""
    rng = np.random.default_rng(0)
    viewer = napari_components.ViewerModel()
    monkeypatch.setattr(_reader, "viewer_in_use", lambda: viewer)
    open_scan = Layer.create(*scan_layers(Volume(rng.normal(100, 9, (1, 20, 18, 16)).astype(np.float32), AFFINE))[0])
    viewer.add_layer(open_scan)

    def made(values, affine=AFFINE):
        write_nifti(tmp_path / "a.nii", Volume(values[None], affine), overwrite=True)
        ((data, options, kind),) = read(str(tmp_path / "a.nii"))
        return Layer.create(data, options, kind)

    return open_scan, made


def atlas(shape=(20, 18, 16)):
    """Blocks of 4 voxels, each a region of its own."""
    i, j, k = np.indices(shape) // 4
    return (1 + i + 5 * j + 25 * k).astype(np.uint8)


def test_a_label_map_on_the_scan_is_opened_as_labels(opened_over):
    open_scan, made = opened_over
    lesion = np.zeros((20, 18, 16), np.uint8)
    lesion[3:5, 3, 3] = 1
    for values in (lesion, lesion.astype(np.float32), atlas()):
        labels = made(values)
        assert isinstance(labels, Labels)
        assert labels.visible
        own = labels.metadata["napari_xai"]
        assert (own["role"], own["scan"]) == ("region", open_scan.metadata["napari_xai"]["scan"])
        (scan,) = scans([open_scan, labels]).values()
        assert regions([open_scan, labels], scan) == [labels]
        assert set(np.unique(scan.labels(labels).data)) == set(np.unique(values))


def test_what_is_no_label_map_or_lies_elsewhere_is_opened_as_a_scan(opened_over):
    _, made = opened_over
    rng = np.random.default_rng(1)
    eight_bits = rng.integers(0, 256, (20, 18, 16)).astype(np.uint8)
    for values in (eight_bits, eight_bits.astype(np.int16) + rng.integers(0, 2000), atlas() / 2, atlas() - 5.0):
        assert made(np.asarray(values, np.float32)).metadata["napari_xai"]["role"] == "scan"
    moved = AFFINE.copy()
    moved[0, 3] = 1
    assert made(atlas(), moved).metadata["napari_xai"]["role"] == "scan"


# --- what was settled once --------------------------------------------------------------------


def test_models_of_ones_own_are_remembered_the_latest_first(monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_XAI_CONFIG", str(tmp_path / "config"))
    assert recent_models() == ()
    models = [tmp_path / f"{n}.pt" for n in range(10)]
    for path in models:
        path.touch()
        remember_model(path)
    remember_model(models[5])
    assert recent_models()[:2] == (models[5], models[9])
    assert len(recent_models()) == 8
    models[9].unlink()
    assert models[9] not in recent_models()
    (tmp_path / "config" / "recent.json").write_text("[")
    assert recent_models() == ()
    monkeypatch.setenv("NAPARI_XAI_CONFIG", str(models[0] / "no folder"))
    remember_model(models[0])  # says nothing


def test_settings_have_defaults_and_are_heeded(monkeypatch):
    settings = pytest.importorskip("napari.settings")
    found = {}
    monkeypatch.setattr(settings, "get_plugin_settings", lambda name: found[name])
    assert running() == {"device": "auto", "memory": None}  # napari does not know the plugin
    assert keeps_identity() is False
    where, results = SimpleNamespace(device="cpu", memory="4GiB"), SimpleNamespace(keep_identity=True)
    found["napari-xai"] = SimpleNamespace(running=where, results=results)
    assert running() == {"device": "cpu", "memory": "4GiB"}
    assert keeps_identity() is True
    for device, memory, words in (
        ("auto", "banana", "memory is 'banana': give a size above zero"),
        ("cuda:99", "", "The device 'cuda:99' cannot be used: give 'auto'"),
        ("gpu", "", "The device 'gpu' cannot be used: give 'auto'"),
    ):
        where.device, where.memory = device, memory
        with pytest.raises(ExplainError) as refused:
            running()
        assert str(refused.value).startswith(words)
        assert str(refused.value).endswith("in Preferences > Explain 3D models (napari-xai).")
        assert "torch" not in str(refused.value).casefold()
