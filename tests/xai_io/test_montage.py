import dataclasses
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from xai_io import Display, ExportError, Volume, display_for, write_montage
from xai_io.pictures.montage import key_slices
from xai_io.pictures.slices import peak_mm, slices

# A phantom with a handedness: in RAS+ mm, a bright dot at the patient's right, a dimmer one in front, a faint one
# on top; the relevance is positive at the right, negative in front, and weakly positive on top.
DOTS = {(20, 0, 0): (1000, 1.0), (0, 24, 0): (700, -0.8), (0, 0, 16): (400, 0.6)}
PLANES = ("axial", "coronal", "sagittal")


def phantom(affine, shape):
    centre = affine @ [*(np.array(shape) / 2 - 0.5), 1]
    world = np.einsum("ab,bijk->aijk", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
    world -= centre[:3, None, None, None]
    scan, values = np.full(shape, 100.0), np.zeros(shape)
    for place, (bright, relevance) in DOTS.items():
        near = np.linalg.norm(world - np.array(place)[:, None, None, None], axis=0) < 6
        scan[near], values[near] = bright, relevance
    return Volume(scan[None].astype(np.float32), affine), values[None].astype(np.float32)


def grids():
    for axes, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        matrix = np.zeros((4, 4))
        matrix[list(axes), range(3)] = np.array(signs) * [2, 3, 4]
        matrix[:, 3] = 5, -7, 9, 1
        yield matrix, tuple(int(72 / mm) for mm in (2, 3, 4))


def of(panels):
    return next(panel for panel in panels if panel.through)


@pytest.mark.parametrize("affine,shape", grids())
def test_every_axis_order_is_shown_radiologically(affine, shape):
    scan, values = phantom(affine, shape)
    only_right = scan.with_data(np.where(values == 1.0, values, 0))
    axial, coronal = (of(slices(scan, only_right, plane, 3)) for plane in ("axial", "coronal"))
    sagittal = slices(scan, scan.with_data(np.where(values > 0.5, 0, values)), "sagittal", 3)
    assert axial.edges == ("R", "L", "A", "P") and coronal.edges == ("R", "L", "S", "I")
    assert of(sagittal).edges == ("A", "P", "S", "I")
    for panel in (axial, coronal):
        rows, columns = np.nonzero(panel.relevance)
        height, width = panel.relevance.shape
        assert columns.max() < width / 2  # the patient's right is on the left
        assert abs(rows.mean() - height / 2) < 0.2 * height
        assert panel.scan[rows, columns].min() == 1000
    rows, columns = np.nonzero(of(sagittal).relevance)
    assert columns.max() < of(sagittal).relevance.shape[1] / 2  # the front is on the left
    top = of(slices(scan, scan.with_data(np.where(np.isclose(values, 0.6), values, 0)), "coronal", 3))
    assert np.nonzero(top.relevance)[0].max() < top.relevance.shape[0] / 2  # the head is up
    front = of(slices(scan, scan.with_data(np.where(values < 0, values, 0)), "axial", 3))
    assert np.nonzero(front.relevance)[0].max() < front.relevance.shape[0] / 2  # the front is up
    for panel in (axial, coronal, front, top):
        assert panel.size == pytest.approx((72, 72), abs=4)  # mm, whatever the voxels' sizes


@pytest.mark.parametrize("turn", [(0, 0, 20), (15, 10, 0), (-20, 5, 8)])
def test_oblique_scans_are_named_by_the_nearest_planes(turn, rotate, placed):
    scan, values = phantom(placed(rotate(*turn), (2, 2, 2)), (36, 36, 36))
    right = scan.with_data(np.where(values == 1.0, values, 0))
    axial = of(slices(scan, right, "axial", 3))
    assert [edge[0] for edge in axial.edges] == ["R", "L", "A", "P"]
    assert np.nonzero(axial.relevance)[1].max() < 18
    if turn == (0, 0, 20):
        assert axial.edges == ("RA", "LP", "AL", "PR")


def test_positions_are_those_of_the_world():
    scan, values = phantom(np.array([[-2.0, 0, 0, 40], [0, 2, 0, -30], [0, 0, 2, -50], [0, 0, 0, 1]]), (36, 36, 36))
    volume = scan.with_data(np.zeros_like(values))
    volume.data[0, 10, 20, 30] = 1
    for plane, position in (("sagittal", "R 20.0 mm"), ("coronal", "A 10.0 mm"), ("axial", "S 10.0 mm")):
        assert of(slices(scan, volume, plane, 5)).position == position


def test_slices_lie_inside_and_apart():
    for count, peak in itertools.product((1, 2, 3, 6, 20, 100), (0, 1, 0.5)):
        scan = Volume(np.random.default_rng(0).random((1, 4, 4, count)), np.eye(4))
        volume = scan.with_data(np.zeros(scan.data.shape))
        volume.data[0, 2, 2, int(peak * (count - 1))] = 1
        panels = slices(scan, volume, "axial", 5)
        assert len(panels) == min(5, count) == len({panel.position for panel in panels})
        assert sum(panel.through for panel in panels) == 1


def test_one_loud_voxel_does_not_decide_the_peak():
    values = np.zeros((1, 40, 40, 40), np.float32)
    values[0, 30, 30, 30] = 3
    values[0, 8:14, 8:14, 8:14] = -1
    scan = Volume(np.random.default_rng(0).random(values.shape), np.eye(4))
    index = float(of(slices(scan, scan.with_data(values), "axial", 5)).position.split()[1])
    assert 8 <= index < 14


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def reds_and_blues(image, width):
    """Columns (as share of the panels' width) of clearly red and clearly blue pixels, colour bar left out."""
    part = image[:, : int(width * image.shape[1])]
    red, _, blue = np.moveaxis(part, 2, 0)
    return np.nonzero(red - blue > 90), np.nonzero(blue - red > 90)


@pytest.mark.parametrize("flip", [1, -1])
def test_the_picture_itself_is_radiological(tmp_path, flip):
    affine = np.diag([2.0 * flip, 2, 2, 1])
    affine[:3, 3] = -36 * flip, -36, -36
    scan, values = phantom(affine, (36, 36, 36))
    halves = np.where(values == 1.0, 1.0, 0) - np.flip(np.where(values == 1.0, 1.0, 0), 1)  # right red, left blue
    path = tmp_path / "a.png"
    values = scan.with_data(halves.astype(np.float32))
    write_montage(
        path, scan, values, display=dataclasses.replace(display_for(scan, values), planes=("axial",)), columns=1
    )
    image = pixels(path)
    red, blue = reds_and_blues(image[45:260], 0.66)  # without the words above and below
    assert red[1].size > 50 and blue[1].size > 50
    assert red[1].max() < blue[1].min()


def test_pixels_below_the_threshold_are_the_scans_own(tmp_path):
    scan, values = phantom(np.diag([2.0, 2, 2, 1]), (36, 36, 36))
    display = Display(window=(0, 1000), limit=2.0, threshold=1.5)
    write_montage(tmp_path / "a.png", scan, scan.with_data(values), display=display, columns=3)
    part = pixels(tmp_path / "a.png")[40:600, 60:700]
    grey = np.ptp(part, axis=2)
    assert np.mean(grey > 60) < 0.02  # only yellow words remain


def test_caption_is_printed_as_it_is(tmp_path):
    scan, values = phantom(np.diag([2.0, 2, 2, 1]), (36, 36, 36))
    caption = {"method": r"$\frac{1}{0} $x_$ % \n", "model": "long words " * 60}
    write_montage(tmp_path / "a.png", scan, scan.with_data(values), caption=caption)
    write_montage(tmp_path / "b.png", scan, scan.with_data(values))
    assert pixels(tmp_path / "a.png").shape[0] > pixels(tmp_path / "b.png").shape[0]


def test_zero_nan_and_thin_relevance_are_drawn(tmp_path):
    scan = Volume(np.random.default_rng(0).random((2, 9, 8, 2)), np.diag([1.0, 1, 20, 1]))
    for n, value in enumerate((0.0, np.nan, -1.0)):
        write_montage(tmp_path / f"{n}.png", scan, scan.with_data(np.full((1, 9, 8, 2), value)))
        assert pixels(tmp_path / f"{n}.png").shape[1] > 1000


def test_another_grid_is_refused(tmp_path):
    scan, values = phantom(np.diag([2.0, 2, 2, 1]), (36, 36, 36))
    for bad in (
        Volume(values, np.eye(4)),
        Volume(np.repeat(values, 2, 0), scan.affine),
        Volume(values[:, 1:], scan.affine),
    ):
        with pytest.raises(ExportError, match="own grid"):
            write_montage(tmp_path / "a.png", scan, bad)
    assert list(tmp_path.iterdir()) == []


def test_no_global_state_is_touched(tmp_path):
    import sys

    import matplotlib

    before = dict(matplotlib.rcParams)
    scan, values = phantom(np.diag([2.0, 2, 2, 1]), (36, 36, 36))
    write_montage(tmp_path / "a.png", scan, scan.with_data(values))
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or matplotlib.pyplot.get_fignums() == []


def test_equal_input_gives_equal_bytes(tmp_path):
    scan, values = phantom(np.diag([2.0, 2, 2, 1]), (36, 36, 36))
    for name in ("a.png", "b.png"):
        write_montage(tmp_path / name, scan, scan.with_data(values), caption={"method": "lrp"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def halved():
    """A scan of four values, one an octant's column, under relevance that is positive, negative, faint or none."""
    scan, values = np.zeros((1, 40, 40, 40), np.float32), np.zeros((1, 40, 40, 40), np.float32)
    scan[:, 20:], scan[:, :, 20:] = 40, scan[:, :, 20:] + 25
    values[:, :20, :20], values[:, 20:, :20], values[:, 20:, 20:] = 1.5, -0.7, 0.1
    return Volume(scan, np.diag([2.0, 2, 2, 1])), values


def test_exported_pixels_are_what_the_preset_says(tmp_path):
    scan, _ = halved()
    values = np.random.default_rng(0).choice([1.5, -0.7, 0.1, 0], size=scan.data.shape)  # voxels keep their own
    for settings in ({}, {"opacity": 0.4}, {"colormap": "coolwarm"}, {"sign": "negative"}):
        display = Display(window=(0, 100), limit=2.0, threshold=0.5, planes=("axial",), centre=(40, 40, 40), **settings)
        write_montage(tmp_path / "a.png", scan, scan.with_data(values), display=display, columns=1, overwrite=True)
        image = pixels(tmp_path / "a.png")
        wanted = display.rgb(scan.data[0, :, :, 20], values[0, :, :, 20])[::-1, ::-1].transpose(1, 0, 2)
        for row, column in itertools.product((6, 10, 26, 30), repeat=2):  # voxels far from edges and words
            y, x = (round(120 * (start + 2.06 * (at + 0.8) / 40)) for start, at in ((0.3, row), (0.34, column)))
            assert image[y, x].tolist() == wanted[row, column].tolist()


def test_pictures_of_one_sign_go_through_its_peak():
    scan, _ = halved()
    values = np.zeros(scan.data.shape, np.float32)
    values[0, 30:34, 4:8, 6:10], values[0, 8:12, 20:24, 12:16] = -2, 1
    relevance = scan.with_data(values)
    assert np.allclose(peak_mm(relevance), peak_mm(relevance, "negative"))
    assert (np.array(peak_mm(relevance, "positive")) < (24, 48, 32)).all()
    assert peak_mm(relevance.with_data(-abs(values)), "positive") == peak_mm(relevance.with_data(0 * values))


def test_the_words_returned_are_those_that_were_drawn(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: figures.append(self))
    scan, values = phantom(np.diag([2.0, 2, 2, 1]), (36, 36, 36))
    caption = {"method": "lrp \u202e\x07 病変", "question": "why?"}
    words = write_montage(tmp_path / "a.png", scan, scan.with_data(values, units="logit"), caption=caption)
    assert sorted(words) == sorted(text.get_text() for text in figures[0].texts)
    assert {"(logit)", r"method: lrp \u75c5\u5909", "question: why?", "Research use only, not for diagnosis."} <= {
        *words
    }
    assert sum("(peak)" in word for word in words) == 3


def test_the_display_decides_planes_and_centre(tmp_path):
    scan, values = phantom(np.diag([2.0, 2, 2, 1]), (36, 36, 36))
    display = dataclasses.replace(
        display_for(scan, scan.with_data(values)), planes=("coronal", "axial"), centre=(20, 30, 40)
    )
    words = write_montage(tmp_path / "a.png", scan, scan.with_data(values), display=display, columns=1)
    assert [word for word in words if word.endswith(" mm") and " " in word[:2]] == ["A 30.0 mm", "S 40.0 mm"]
    assert not any("peak" in word for word in words)
    outside = dataclasses.replace(display, centre=(20, 30, 400))
    with pytest.raises(ExportError, match=r"400\) mm .* outside of the scan"):
        write_montage(tmp_path / "b.png", scan, scan.with_data(values), display=outside)


def test_key_slices_show_the_scan_alone_the_relevance_and_the_prediction():
    scan, values = halved()
    display = Display(window=(0, 100), limit=2.0, threshold=0.5)
    labels = scan.with_data((values > 1).astype(np.uint8))
    with_labels, without = (key_slices(scan, scan.with_data(values), display, some) for some in (labels, None))
    assert [row for row in with_labels.words if row in ("scan", "relevance", "prediction")][:3] == [
        "scan", "relevance", "prediction",
    ]  # fmt: skip
    image = np.asarray(Image.open(io.BytesIO(with_labels.png)).convert("RGB")).astype(int)
    thirds = [part[20:-20] for part in np.array_split(image[40:, : image.shape[1] * 4 // 5], 3)]
    colored = [np.mean(np.ptp(part, axis=2) > 60) for part in thirds]
    assert colored[0] == 0 and colored[1] > 0.2 and 0 < colored[2] < 0.1
    assert (thirds[2] == (90, 230, 110)).all(-1).sum() > 200
    assert without.size[1] < with_labels.size[1] and "prediction" not in without.words


def test_key_slices_of_a_long_body_fit_and_keep_their_scale():
    scan = Volume(np.random.default_rng(0).random((1, 30, 20, 100)), np.diag([2.0, 2, 10, 1]))  # 60 x 40 x 1000 mm
    picture = key_slices(scan, scan.with_data(np.ones(scan.data.shape)), Display(window=(0, 1), limit=1, threshold=0.1))
    assert picture.size[0] < 600 and picture.size[1] < 900
