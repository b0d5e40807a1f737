"""Divisions of a scan: their text, their voxels, and how a scan without some of them is made."""

import itertools

import pytest
import torch

from methods3d import Ablation, ClassScore, ModelInfo, ParameterError, Reference, TorchModel, features
from methods3d.baselines import Inpaint, Neighbours, Scan, Tissue, filling
from methods3d.features import FEATURES, Cells, Channels, Labels, Presence, Supervoxels, supervoxels

INFO = ModelInfo(spacing=(1.0, 2.0, 4.0), air=-1.0)


def refused(said, work):
    """One sentence with a way out."""
    with pytest.raises(ParameterError, match=said) as caught:
        work()
    assert str(caught.value).endswith(".")
    assert ". " not in str(caught.value)


# --- text ---


@pytest.mark.parametrize("text", [*FEATURES, "supervoxels(7)", "grid(2.5)"])
def test_what_is_written_is_read_again(text):
    assert str(features(text)) == text
    assert features(str(features(text))) == features(text)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (" grid( 4 ) ", Cells(4.0)),
        ("supervoxels(12.0)", Supervoxels(12)),
        ("channels", Channels()),
        (Cells(3.0), Cells(3.0)),
    ],
)
def test_a_text_is_what_it_says(given, meant):
    assert features(given) == meant


@pytest.mark.parametrize("edge", [12.3456789, 1e6, 1e-5])
def test_every_edge_of_a_cell_is_written_so_that_it_is_read(edge):
    assert features(str(Cells(edge))) == Cells(edge)


def test_a_label_map_is_written_by_its_content_and_a_path_not_at_all():
    found = features("labels: /a b/organs.nii ")
    assert isinstance(found, Labels)
    assert isinstance(found.map, Reference)
    assert found.map.source == "/a b/organs.nii"
    assert str(found) == "labels(unread)"
    a = torch.zeros(4, 4, 4, dtype=torch.long)
    b = a.clone()
    b[0] = 3
    assert str(features(a)) != str(features(b)) == str(Labels(b.clone()))


@pytest.mark.parametrize(
    "text",
    ["", "supervoxels", "supervoxels(0)", "supervoxels(2.5)", "grid(0)", "grid(-4)", "grid(x)", "labels:", "atlas:a"],
)
def test_texts_that_are_no_features(text):
    refused(r"The features .* are not known: give 'supervoxels\(N\)'", lambda: features(text))


def test_label_maps_that_do_not_fit(volume):
    x = volume(1, 1, 4, 4, 4)
    refused("is a reference that nobody has read", lambda: features("labels:a.nii").check_fit(x))
    refused(r"shape \(4, 4, 5\).* grid is \(4, 4, 4\)", lambda: Labels(torch.ones(4, 4, 5)).check_fit(x))
    refused("The label map is empty", lambda: Labels(torch.zeros(4, 4, 4)).check_fit(x))


def test_more_features_than_anyone_wants(volume):
    refused(
        "are 46656 in this scan, but may be 32768 at most: make them larger",
        lambda: Presence(volume(1, 1, 36, 36, 36), ModelInfo(), Cells(1.0), Tissue()),
    )


# --- divisions ---


@pytest.mark.parametrize(
    ("edge", "spacing", "edges"),
    [
        (4.0, (1.0, 2.0, 4.0), (4, 2, 1)),
        (7.0, (1.0, 2.0, 4.0), (7, 4, 2)),  # the nearest whole number of voxels
        (1.0, (1.0, 2.0, 4.0), (1, 1, 1)),  # never less than a voxel
        (3.0, None, (3, 3, 3)),
        (100.0, (1.0, 1.0, 1.0), (100, 100, 100)),
    ],
)
def test_cells_are_cubes_in_mm_numbered_along_the_axes(volume, edge, spacing, edges):
    x = volume(1, 2, 9, 7, 5)
    found = Cells(edge).labels(x, ModelInfo(spacing=spacing))
    rows, columns = -(-7 // edges[1]), -(-5 // edges[2])
    slow = torch.zeros(1, 9, 7, 5, dtype=torch.long)
    for i, j, k in itertools.product(range(9), range(7), range(5)):
        slow[0, i, j, k] = ((i // edges[0]) * rows + j // edges[1]) * columns + k // edges[2] + 1
    assert torch.equal(found, slow)
    assert found.unique().tolist() == list(range(1, int(found.max()) + 1))


@pytest.mark.parametrize("kind", [torch.long, torch.int16, torch.uint8, torch.float64])
def test_labels_are_renumbered_in_their_order(volume, kind):
    given = torch.tensor([0, 40, 7, 3, 0, 200]).to(kind)[:, None, None].expand(6, 2, 3)
    found = Labels(given).labels(volume(1, 1, 6, 2, 3), INFO)
    assert found[0, :, 0, 0].tolist() == [0, 3, 2, 1, 0, 4]
    assert torch.equal(found, found[:, :, :1, :1].expand(1, 6, 2, 3))


def test_labels_below_zero_are_labels(volume):
    given = torch.tensor([0, -5, 2, -1])[:, None, None].expand(4, 2, 2)
    assert Labels(given).labels(volume(1, 1, 4, 2, 2), INFO)[0, :, 0, 0].tolist() == [0, 1, 3, 2]


def test_each_channel_is_a_feature(volume):
    found = Channels().labels(volume(1, 3, 2, 3, 4), INFO)
    assert found.shape == (3, 2, 3, 4)
    assert all((found[c] == c + 1).all() for c in range(3))


# --- supervoxels ---


def plain(*shape, air=0):
    """Tissue of one value and a bright spot, beside a slab of air: pieces have no reason but their distance."""
    x = torch.ones(1, 1, *shape, dtype=torch.float64)
    x[..., 2:4, 12:14, 2:4] = 2
    x[:, :, :, :air] = 0
    return x


def extents(labels, spacing):
    """Each piece's edge along each axis in mm, were it a box: sqrt(12 variance)."""
    found = []
    for n in range(1, int(labels.max()) + 1):
        places = (labels[0] == n).nonzero().double()
        if len(places):
            found.append(((places.var(0, correction=0) + 1 / 12) * 12).sqrt() * torch.tensor(spacing).double())
    return torch.stack(found)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (4.0, 1.0, 1.0), (0.5, 0.5, 2.0)])
@pytest.mark.parametrize("air", [4, 0])
def test_supervoxels_are_about_as_long_along_each_axis_in_mm(spacing, air):
    found = supervoxels(plain(24, 24, 24, air=air), 40, ModelInfo(spacing=spacing, air=0.0))
    along = extents(found, spacing).median(0).values
    assert along.max() < 1.5 * along.min()


@pytest.mark.parametrize("count", [12, 60])
@pytest.mark.parametrize("air", [0, 4])
def test_supervoxels_are_about_as_many_as_asked_for(count, air):
    found = supervoxels(plain(24, 24, 24, air=air), count, ModelInfo(air=0.0))
    assert 0.6 * count <= found.max() <= 1.4 * count
    assert found.unique().tolist() == list(range(not air, int(found.max()) + 1))  # air alone is 0
    assert torch.equal(found[0] == 0, plain(24, 24, 24, air=air)[0, 0] == 0)
    assert torch.equal(found, supervoxels(plain(24, 24, 24, air=air), count, ModelInfo(air=0.0)))


def test_supervoxels_follow_intensities(volume):
    """Two halves of unlike tissue: no piece has voxels of both but for a few."""
    x = 1 + 0.01 * volume(1, 2, 20, 20, 20)
    x[:, 1, :, 9:] += 4
    x[..., :2] = 0
    found = supervoxels(x, 20, ModelInfo(air=0.0))[0]
    for n in range(1, int(found.max()) + 1):
        share = float((x[0, 1] > 3)[found == n].double().mean())
        assert not 0.1 < share < 0.9


def test_supervoxels_do_not_depend_on_the_unit_of_length(volume):
    """An intensity counts like a supervoxel's diameter, whatever that is in mm."""
    x = plain(24, 24, 24, air=4) + 0.3 * (plain(24, 24, 24, air=4) > 0) * volume(1, 1, 24, 24, 24)
    small, large = (supervoxels(x, 40, ModelInfo(spacing=(s, s, s), air=0.0)) for s in (1.0, 3.0))
    assert torch.equal(small, large)


def test_a_scan_of_air_alone_is_divided_all_the_same():
    assert supervoxels(torch.zeros(1, 1, 8, 8, 8).double(), 8, ModelInfo(air=0.0)).min() == 1


def test_one_supervoxel_is_all_the_tissue():
    x = plain(16, 16, 16, air=4)
    assert torch.equal(supervoxels(x, 1, ModelInfo(air=0.0))[0] == 1, x[0, 0] > 0)


# --- a scan without some of its features ---


def scanned(volume):
    x = volume(1, 2, 8, 7, 6) + 3
    x[..., :2] = -1
    return x


def labelled():
    labels = torch.zeros(8, 7, 6, dtype=torch.long)
    labels[1:4, 1:3, 2:5], labels[4:7, 2:6, 1:3], labels[6:8, 5:7, 4:6] = 5, 2, 9
    return labels


def applied(x, edit):
    """The scan after an edit."""
    found = x.clone()
    found[(0, edit.channels, *edit.box)] = edit.values
    return found


@pytest.mark.parametrize("fill", ["tissue", "air", "0.5", "blur(2)", "inpaint", "neighbours"])
@pytest.mark.parametrize("amounts", [(1, 1, 1), (0, 1, 1), (1, 0, 0), (0, 0, 0), (0.25, 1, 0.5)])
def test_a_scan_with_some_of_each_feature(volume, fill, amounts):
    """Voxel by voxel; each feature filled by itself, from the scan as it is."""
    x, labels = scanned(volume), labelled()
    filler = filling(fill).filler(x, INFO)
    slow = x.clone()
    for label, amount in zip((2, 5, 9), amounts, strict=True):
        here = labels == label
        slow[:, :, here] = amount * x[:, :, here] + (1 - amount) * filler(here)[:, :, here]
    kept = x.clone()
    presence = Presence(x, INFO, Labels(labels), filling(fill))
    found = applied(x, presence.edit(torch.tensor(amounts, dtype=torch.float32)))
    torch.testing.assert_close(found, slow, rtol=1e-12, atol=1e-12)
    for label, amount in zip((2, 5, 9), amounts, strict=True):
        if amount == 1:
            assert torch.equal(found[:, :, labels == label], x[:, :, labels == label])  # bit for bit
    assert torch.equal(found[:, :, labels == 0], x[:, :, labels == 0])
    assert torch.equal(x, kept)


@pytest.mark.parametrize("gone", [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_an_edit_touches_no_more_than_the_box_of_what_is_taken_away(volume, gone):
    presence = Presence(scanned(volume), INFO, Labels(labelled()), Tissue())
    present = torch.ones(3)
    present[list(gone)] = 0
    box = presence.edit(present).box
    if not gone:
        assert all(s.stop - s.start == 1 for s in box)
        return
    places = torch.isin(labelled(), torch.tensor([(2, 5, 9)[n] for n in gone])).nonzero()
    assert [s.start for s in box] == places.amin(0).tolist()
    assert [s.stop for s in box] == (places.amax(0) + 1).tolist()


def test_a_filling_without_a_number_does_no_harm_to_what_is_kept(volume):
    x, labels = scanned(volume), labelled()
    presence = Presence(x, INFO, Labels(labels), Scan(torch.full_like(x[0], torch.nan)))
    found = applied(x, presence.edit(torch.tensor([0.0, 1.0, 0.0])))
    assert torch.equal(found[:, :, labels == 5], x[:, :, labels == 5])
    assert torch.equal(found[:, :, labels == 0], x[:, :, labels == 0])
    assert found[:, :, labels == 2].isnan().all()


def test_a_channel_that_is_taken_away_leaves_the_others(volume):
    x = volume(1, 3, 5, 4, 6)
    presence = Presence(x, INFO, Channels(), filling("0.5"))
    assert presence.count == 3
    found = applied(x, presence.edit(torch.tensor([1.0, 0.0, 0.25])))
    assert torch.equal(found[:, 0], x[:, 0])
    assert (found[:, 1] == 0.5).all()
    torch.testing.assert_close(found[:, 2], 0.25 * x[:, 2] + 0.75 * 0.5)


@pytest.mark.parametrize("evenly", [False, True])
def test_values_are_laid_over_voxels(volume, evenly):
    x, labels = scanned(volume), labelled()
    found = Presence(x, INFO, Labels(labels), Tissue()).spread(torch.tensor([3.0, -2.0, 5.0]), evenly=evenly)
    slow = torch.zeros_like(x)
    for label, value in ((2, 3.0), (5, -2.0), (9, 5.0)):
        slow[:, :, labels == label] = value / (2 * int((labels == label).sum()) if evenly else 1)
    torch.testing.assert_close(found, slow, rtol=1e-12, atol=0)
    if evenly:
        torch.testing.assert_close(found.sum().item(), 6.0)


def test_values_of_channels_are_laid_over_their_own_voxels(volume):
    x = volume(1, 2, 3, 4, 5)
    found = Presence(x, INFO, Channels(), Tissue()).spread(torch.tensor([6.0, 12.0]), evenly=True)
    torch.testing.assert_close(found[0, 0], torch.full((3, 4, 5), 0.1).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found[0, 1], torch.full((3, 4, 5), 0.2).double(), rtol=1e-6, atol=0)


def test_features_that_touch_are_not_filled_from_each_others_filling(volume):
    """Each is filled from the scan as it is, so that a feature's filling does not depend on what else is gone."""
    x = scanned(volume)
    labels = torch.zeros(8, 7, 6, dtype=torch.long)
    labels[2:4, 2:5, 2:5], labels[4:6, 2:5, 2:5] = 1, 2
    for fill in (Inpaint(), Neighbours()):
        presence = Presence(x, INFO, Labels(labels), fill)
        both, first = (applied(x, presence.edit(torch.tensor(p))) for p in ([0.0, 0.0], [0.0, 1.0]))
        assert torch.equal(both[:, :, labels == 1], first[:, :, labels == 1])
        assert (both[:, :, labels == 1] - x[:, :, labels == 1]).abs().max() > 0.1


def test_a_scan_without_any_feature_is_refused(make, volume):
    refused("The label map is empty", lambda: Ablation(features=torch.zeros(8, 8, 8))(
        TorchModel(make("plain")), volume(1, 1, 8, 8, 8), ClassScore(0)
    ))  # fmt: skip
