"""What stands for 'nothing there': its text, its values worked out by hand, and what it is built on."""

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from methods3d import ModelInfo, ParameterError, Reference, baseline
from methods3d.baselines import (
    BASELINES,
    FILLINGS,
    Air,
    Blur,
    Constant,
    Inpaint,
    Neighbours,
    Scan,
    Tissue,
    Without,
    baselines,
    filling,
)
from methods3d.smoothing import harmonic, sharpening, smoothed

SPACING = (1.0, 2.5, 0.7)
INFO = ModelInfo(spacing=SPACING, air=-1.0)


def scan(volume, *shape, kind=""):
    """Tissue around 6, a slab of air with a little noise; neighbours that are air have a test of their own."""
    x = volume(*shape) + 6
    if kind != "neighbours":
        x[..., :2] = -1 + 0.01 * volume(*shape, seed=5)[..., :2]
    return x


def box(shape, *spans):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(slice(a, b) for a, b in spans)] = True
    return mask


# --- text ---


@pytest.mark.parametrize("text", [*FILLINGS, "0.5", "-1000", "0.125", "blur(0.25)", "blur(12)", "-0"])
def test_what_is_written_is_read_again(text):
    written = str(filling(text))
    assert written == text
    assert filling(written) == filling(text)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (" tissue ", Tissue()),
        ("air", Air()),
        (0, Constant(0.0)),
        (-2.5, Constant(-2.5)),
        ("1e2", Constant(100.0)),
        ("blur( 4.5 )", Blur(4.5)),
        (Blur(3.0), Blur(3.0)),
    ],
)
def test_a_text_or_a_number_is_what_it_says(given, meant):
    assert baseline(given) == meant


@pytest.mark.parametrize("given", [Constant(0.1234567), Constant(-1000.25125), Blur(2.3548200450309493)])
def test_every_digit_of_a_number_is_written(given):
    assert baseline(str(given)) == given


@pytest.mark.parametrize(
    ("text", "kind", "fill"),
    [
        ("scan:/a b/c.nii", Scan, None),
        ("inpaint:m.nii", Without, Inpaint()),
        ("neighbours: m.nii ", Without, Neighbours()),
        ("complement:m.nii", Without, Tissue()),
    ],
)
def test_paths_are_kept_for_whoever_reads_them_and_never_written(text, kind, fill):
    found = baseline(text)
    assert isinstance(found, kind)
    place = found.other if kind is Scan else found.mask
    assert isinstance(place, Reference)
    assert place.source == text.partition(":")[2].strip()
    assert fill is None or found.fill == fill
    assert ".nii" not in str(found)
    assert "unread" in str(found)


def test_volumes_are_written_by_their_content(volume):
    a, b = volume(1, 4, 4, 4), volume(1, 4, 4, 4, seed=2)
    assert str(Scan(a)) == str(Scan(a.clone())) != str(Scan(b))
    assert "1 x 4 x 4 x 4" in str(Scan(a))
    mask = box((4, 4, 4), (0, 2), (0, 2), (0, 2))
    assert str(Without(mask, Inpaint())).startswith("inpaint in mask(")
    assert str(Without(mask, Inpaint())) != str(Without(~mask, Inpaint()))


def test_several_baselines_are_a_tuple_a_list_in_text_or_a_tensor(volume):
    assert baselines("tissue; 0.5;blur(3);") == (Tissue(), Constant(0.5), Blur(3.0))
    assert baselines(("air", 1.0)) == (Air(), Constant(1.0))
    assert baselines("air") == (Air(),)
    stack = volume(3, 1, 4, 4, 4)
    found = baselines(stack)
    assert len(found) == 3
    assert all(torch.equal(one.other, x) for one, x in zip(found, stack, strict=True))


# --- errors ---


def refused(said, work):
    """One sentence with a way out."""
    with pytest.raises(ParameterError, match=said) as caught:
        work()
    assert str(caught.value).endswith(".")
    assert ". " not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "nothing", "nan", "-inf", "blur", "blur()", "blur(nan)", "blur(x)", "scan:", "mask:a.nii", "True", "1,5"],
)
def test_texts_that_are_no_baseline(text):
    refused(r"is not known: give a number, 'tissue', .*'blur\(SIGMA\)'", lambda: baseline(text))


@pytest.mark.parametrize("text", ["blur(0)", "blur(-3)"])
def test_a_blur_needs_a_width(text):
    refused("has to be above 0", lambda: baseline(text))


@pytest.mark.parametrize("text", ["inpaint", "neighbours"])
def test_what_fills_from_its_surroundings_is_not_for_a_whole_scan(volume, text):
    refused(f"'{text}' fills a part of a scan.*'{text}:MASK'", lambda: baseline(text))
    refused("nothing surrounds a whole scan", lambda: filling(text).volume(volume(1, 1, 4, 4, 4), INFO))


def test_an_empty_set_of_baselines():
    refused("The set of baselines is empty", lambda: baselines(" ; "))


@pytest.mark.parametrize("text", ["scan:a.nii", "inpaint:m.nii", "complement:m.nii"])
def test_a_path_that_nobody_has_read(volume, text):
    x = volume(1, 1, 4, 4, 4)
    refused("is a reference that nobody has read", lambda: baseline(text).check_fit(x))
    refused("is a reference that nobody has read", lambda: baseline(text).volume(x, INFO))


@pytest.mark.parametrize("shape", [(4, 4, 4), (2, 4, 4, 4), (1, 4, 4, 5), (2, 1, 4, 4, 4), ()])
def test_a_scan_on_another_grid(volume, shape):
    refused(
        r"The baseline has the shape \(.*\(1, 4, 4, 4\)",
        lambda: Scan(torch.zeros(shape)).check_fit(volume(1, 1, 4, 4, 4)),
    )


@pytest.mark.parametrize("mask", [torch.zeros(4, 4, 4), torch.ones(1, 4, 4, 4), torch.ones(4, 4, 5)])
def test_a_mask_that_is_empty_or_on_another_grid(volume, mask):
    found = Without(mask, Tissue())
    refused("a mask .* on the same grid that is not empty", lambda: found.check_fit(volume(1, 1, 4, 4, 4)))
    refused("a mask .* on the same grid that is not empty", lambda: found.volume(volume(1, 1, 4, 4, 4), INFO))


# --- values ---


def by_hand(x, text, hole):
    """Channel by channel in numpy: what each voxel of the hole becomes."""
    a, found = x.numpy(), x.numpy().copy()
    for n, c in itertools.product(range(a.shape[0]), range(a.shape[1])):
        one = a[n, c]
        if text == "air":
            new = np.full_like(one, -1.0)
        elif text == "0.25":
            new = np.full_like(one, 0.25)
        elif text == "blur(1.5)":
            new = gaussian_filter(one, [1.5 / s for s in SPACING], mode="nearest", truncate=15)
        elif text == "tissue":
            there = np.abs(one + 1) > (one.max() - one.min()) / 20
            new = np.where(there, one[there].mean(), one)
        elif text == "neighbours":
            reach = [3, 1, 4]  # 3 mm over 1, 2.5 and 0.7 mm
            near = [
                one[p]
                for p in itertools.product(*map(range, one.shape))
                if not hole[p]
                and any(
                    all(abs(p[d] - q[d]) <= reach[d] for d in range(3)) for q in hole.nonzero().tolist()
                )
            ]  # fmt: skip
            new = np.full_like(one, np.mean(near))
        else:
            new = laplace(one, hole.numpy(), SPACING)
        found[n, c][hole.numpy()] = new[hole.numpy()]
    return torch.tensor(found)


def laplace(one, hole, spacing):
    """Inside the hole sum over neighbours of (u - u') / mm^2 = 0, one dense system; no flow through the border."""
    places = [tuple(p) for p in np.argwhere(hole)]
    row = {p: n for n, p in enumerate(places)}
    matrix, right = np.zeros((len(places), len(places))), np.zeros(len(places))
    for p in places:
        for axis, step in itertools.product(range(3), (-1, 1)):
            q = tuple(p[d] + step * (d == axis) for d in range(3))
            if not 0 <= q[axis] < hole.shape[axis]:
                continue
            weight = 1 / spacing[axis] ** 2
            matrix[row[p], row[p]] += weight
            if hole[q]:
                matrix[row[p], row[q]] -= weight
            else:
                right[row[p]] += weight * one[q]
    found = one.copy()
    found[hole] = np.linalg.solve(matrix, right)
    return found


TOLERANCE = {"blur(1.5)": 1e-9, "inpaint": 1e-3}  # cut off at six sigmas; solved to a residual of a ten-thousandth
KINDS = ["0.25", "air", "tissue", "blur(1.5)", "inpaint", "neighbours"]


@pytest.mark.parametrize("text", KINDS)
def test_a_part_is_filled_as_by_hand(volume, text):
    x = scan(volume, 2, 2, 7, 6, 8, kind=text)
    hole = box((7, 6, 8), (2, 5), (1, 4), (3, 7)) | box((7, 6, 8), (0, 2), (5, 6), (0, 3))
    kept = x.clone()
    slow = by_hand(x, text, hole)
    found = filling(text).filler(x, INFO)(hole)
    assert (slow - x).abs().max() > 1
    torch.testing.assert_close(found, slow, rtol=0, atol=TOLERANCE.get(text, 1e-12))
    assert torch.equal(found[:, :, ~hole], x[:, :, ~hole])  # bit for bit
    assert torch.equal(x, kept)


@pytest.mark.parametrize("text", [k for k in KINDS if k not in ("inpaint", "neighbours")])
def test_a_whole_scan_is_filled_as_by_hand(volume, text):
    x = scan(volume, 2, 2, 7, 6, 8)
    slow = by_hand(x, text, torch.ones(7, 6, 8, dtype=torch.bool))
    found = baseline(text).volume(x, INFO)
    torch.testing.assert_close(found, slow, rtol=0, atol=TOLERANCE.get(text, 1e-12))


@pytest.mark.parametrize("text", KINDS)
def test_a_box_is_filled_like_a_mask_of_its_shape(volume, text):
    x = scan(volume, 1, 2, 9, 8, 10)
    values, filler = filling(text).boxes(x, INFO), filling(text).filler(x, INFO)
    for spans in [((0, 3), (2, 5), (4, 10)), ((3, 4), (0, 8), (1, 2)), ((5, 9), (6, 8), (0, 4))]:
        here = tuple(slice(a, b) for a, b in spans)
        slow = filler(box((9, 8, 10), *spans))[(0, slice(None), *here)]
        # Laplace's equation is solved to a share of its first residual, which depends on what else is there.
        torch.testing.assert_close(values(here), slow, rtol=0, atol=TOLERANCE.get(text, 1e-12))


def test_another_scan_stands_for_every_sample(volume):
    x, other = volume(2, 2, 4, 5, 6), volume(2, 4, 5, 6, seed=7)
    for given in (other, other[None], other.float()):
        found = baseline(given).volume(x, INFO)
        assert found.dtype == x.dtype
        assert torch.equal(found, given.double().reshape(1, 2, 4, 5, 6).expand(2, -1, -1, -1, -1))
    found[0] = 0  # a copy
    assert found[1].abs().max() > 0
    assert other.abs().min() > 0


@pytest.mark.parametrize("kind", ["inpaint", "neighbours", "tissue"])
def test_a_scan_without_what_lies_in_a_mask(volume, kind):
    x, hole = scan(volume, 2, 1, 7, 6, 8, kind=kind), box((7, 6, 8), (2, 5), (1, 4), (3, 7))
    found = Without(hole.long() * 3, filling(kind)).volume(x, INFO)
    torch.testing.assert_close(found, by_hand(x, kind, hole), rtol=0, atol=TOLERANCE.get(kind, 1e-12))


def test_a_channel_of_air_alone_stays_as_it_is(volume):
    x = torch.stack([volume(4, 4, 4) + 6, torch.full((4, 4, 4), -1.0, dtype=torch.float64)])[None]
    found = Tissue().volume(x, INFO)
    assert torch.equal(found[:, 1], x[:, 1])
    torch.testing.assert_close(found[0, 0], x[0, 0].mean().expand(4, 4, 4))


def test_spacing_that_is_unknown_is_a_voxel(volume):
    x, hole = scan(volume, 1, 1, 7, 7, 7, kind="neighbours"), box((7, 7, 7), (2, 4), (2, 4), (2, 4))
    torch.testing.assert_close(
        Blur(1.5).volume(x, ModelInfo()), Blur(1.5).volume(x, ModelInfo(spacing=(1.0, 1.0, 1.0)))
    )
    shell = box((7, 7, 7), (1, 5), (1, 5), (1, 5)) & ~hole
    found = Neighbours().filler(x, ModelInfo())(hole)
    torch.testing.assert_close(found[0, 0][hole], x[0, 0][shell].mean().expand(8))


def test_neighbours_are_tissue_and_not_air(volume):
    x = torch.full((1, 1, 8, 8, 8), -1.0, dtype=torch.float64)
    x[..., 4:] = 3 + 0.1 * volume(1, 1, 8, 8, 4)
    hole = box((8, 8, 8), (3, 5), (3, 5), (4, 6))
    found = Neighbours().filler(x, ModelInfo(spacing=(3.0, 3.0, 3.0), air=-1.0))(hole)
    assert found[0, 0][hole].min() > 2.5


def test_a_hole_without_neighbours_is_left_as_it_is(volume):
    """As Laplace's equation leaves it."""
    x, everywhere = scan(volume, 1, 1, 4, 4, 4), torch.ones(4, 4, 4, dtype=torch.bool)
    assert torch.equal(Inpaint().filler(x, INFO)(everywhere), x)
    assert torch.equal(Neighbours().filler(x, INFO)(everywhere), x)


def test_baselines_to_choose_from_are_for_whole_scans(volume):
    x = scan(volume, 1, 1, 4, 4, 6)
    maps = [baseline(text).volume(x, INFO) for text in BASELINES]
    assert all(m.shape == x.shape for m in maps)
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.combinations(maps, 2))


# --- Laplace's equation ---


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 3.0), (4.0, 1.0, 0.5)])
@pytest.mark.parametrize(
    "hole",
    [
        box((8, 7, 9), (2, 6), (2, 5), (3, 7)),
        box((8, 7, 9), (0, 4), (3, 7), (0, 9)),
        box((8, 7, 9), (0, 8), (0, 7), (1, 9)),
        box((8, 7, 9), (1, 3), (1, 3), (1, 3)) | box((8, 7, 9), (5, 8), (4, 6), (5, 6)),
        torch.rand((8, 7, 9), generator=torch.Generator().manual_seed(0)) > 0.3,
    ],
    ids=["inside", "at the border", "all but a face", "two", "scattered"],
)
def test_a_hole_is_filled_by_laplaces_equation(volume, spacing, hole):
    """The conjugate gradients stop at a ten-thousandth of the first residual: 0.2 % of the values' range."""
    x = volume(2, 2, 8, 7, 9)
    found = harmonic(x, hole, spacing)
    for n, c in itertools.product(range(2), range(2)):
        slow = torch.tensor(laplace(x[n, c].numpy(), hole.numpy(), spacing))
        span = x[n, c].max() - x[n, c].min()
        torch.testing.assert_close(found[n, c], slow, rtol=0, atol=2e-3 * span.item())
        assert found[n, c][hole].max() <= x[n, c][~hole].max()  # no peak of its own
    assert torch.equal(found[:, :, ~hole], x[:, :, ~hole])
    if spacing != (1.0, 1.0, 1.0):
        even = harmonic(x, hole, (1.0, 1.0, 1.0))
        assert (even - found).abs().max() > 0.01  # the spacing matters


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
def test_a_linear_ramp_is_drawn_through_a_hole(spacing):
    i, j, k = torch.meshgrid(*(torch.arange(9, dtype=torch.float64) * s for s in spacing), indexing="ij")
    x = (2 * i - j + 0.5 * k)[None, None]
    found = harmonic(x, box((9, 9, 9), (2, 7), (3, 8), (1, 6)), spacing)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-3 * (x.max() - x.min()).item())


def test_no_hole_and_nothing_but_hole_leave_the_volume(volume):
    x = volume(1, 1, 5, 5, 5)
    assert torch.equal(harmonic(x, torch.zeros(5, 5, 5, dtype=torch.bool), SPACING), x)
    assert torch.equal(harmonic(x, torch.ones(5, 5, 5, dtype=torch.bool), SPACING), x)


# --- smoothing ---


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 9.0])
def test_smoothing_is_scipys(volume, sigma):
    """Along each axis in mm, the borders repeated; scipy's kernel cut off where ours has ended."""
    x = volume(2, 2, 9, 7, 11) + 2
    widths = (0, 0, *(sigma / s for s in SPACING))
    slow = torch.tensor(gaussian_filter(x.numpy(), widths, mode="nearest", truncate=15))
    found = smoothed(x, sigma, SPACING)
    assert (found - x).abs().max() > 1e-3
    torch.testing.assert_close(found, slow, rtol=1e-9, atol=1e-9)
    assert (found - smoothed(x, sigma * 1.1, SPACING)).abs().max() > 1e-4


def test_smoothing_keeps_what_is_constant_and_axes_of_one_voxel(volume):
    flat = torch.full((1, 1, 6, 5, 4), 2.5, dtype=torch.float64)
    torch.testing.assert_close(smoothed(flat, 3.0, SPACING), flat, rtol=1e-12, atol=0)
    thin = volume(1, 1, 6, 5, 1)
    torch.testing.assert_close(
        smoothed(thin, 3.0, SPACING)[..., 0], smoothed(thin[..., 0][None], 3.0, (9, 1.0, 2.5))[0]
    )


def test_smoothing_is_linear_and_its_gradient_is_its_transpose(volume):
    x, y = volume(1, 1, 5, 4, 6).requires_grad_(), volume(1, 1, 5, 4, 6, seed=3)
    (back,) = torch.autograd.grad((smoothed(x, 1.5, SPACING) * y).sum(), x)
    for place in [(0, 0, 0), (2, 3, 5), (4, 1, 2)]:
        one = torch.zeros_like(y)
        one[0, 0][place] = 1
        torch.testing.assert_close(back[0, 0][place], (smoothed(one, 1.5, SPACING) * y).sum(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sigma", [0.6, 2.05, 7.05])
@pytest.mark.parametrize("shape", [(6, 5, 8), (6, 1, 8)])
def test_sharpening_is_how_smoothing_changes_with_its_width(volume, sigma, shape):
    """By central differences, good to the square of their step; at no width at which one voxel more counts."""
    x, step = volume(1, 2, *shape), 1e-5
    slow = (smoothed(x, sigma + step, SPACING) - smoothed(x, sigma - step, SPACING)) / (2 * step)
    assert slow.abs().max() > 1e-3
    torch.testing.assert_close(sharpening(x, sigma, SPACING), slow, rtol=0, atol=1e-8)
