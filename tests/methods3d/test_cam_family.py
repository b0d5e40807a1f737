"""Class activation maps other than Grad-CAM against their formulas written out, dense and window by window."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from _flops import Flops
from captum.attr import LayerFeatureAblation, LayerGradientXActivation
from monai import visualize
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer
from torch import nn

from methods3d import (
    CAM,
    FEM,
    ISCAM,
    AblationCAM,
    ClassScore,
    EigenCAM,
    GradCAM,
    GradCAMpp,
    HiResCAM,
    LayerCAM,
    LayerError,
    ModelInfo,
    PredictedRegion,
    RegionScore,
    ScoreCAM,
    SMOEScale,
    SmoothGradCAMpp,
    TorchModel,
    WindowedModel,
    XGradCAM,
)
from methods3d.cam import chosen_layer

SHAPE, TILED, ROI = (16, 12, 8), (16, 8, 8), 8  # windows overlap along the second axis of the one, whatever is asked
CHANNEL = (
    "grad-cam",
    "grad-cam++",
    "smooth-grad-cam++",
    "xgrad-cam",
    "eigen-cam",
    "score-cam",
    "is-cam",
    "ablation-cam",
)
ELEMENT = ("hires-cam", "layer-cam")


class Slow:
    """A network, dense or window by window, whole graph and all; `shares` is each window's weight in the prediction."""

    def __init__(self, net, shape, roi=None, overlap=0.5, mode="constant"):
        self.net, self.shape = net, shape
        if roi is None:
            self.boxes, weight = [tuple(slice(0, n) for n in shape)], torch.ones(shape, dtype=torch.float64)
        else:
            steps = [roi if roi == n else int(roi * (1 - overlap)) for n in shape]
            self.boxes = dense_patch_slices(shape, (roi,) * 3, steps)
            weight = compute_importance_map((roi,) * 3, mode=mode, dtype=torch.float64)
        total = torch.zeros(shape, dtype=torch.float64)
        for box in self.boxes:
            total[box] += weight
        self.shares = [weight / total[box] for box in self.boxes]

    def run(self, x, layer, change=lambda a: a):
        """The stitched prediction, and the layer's (changed) activation in each window."""
        kept, parts = [], []

        def hook(module, args, out):
            kept.append(change(out))
            return kept[-1].clone()

        handle = self.net.get_submodule(layer).register_forward_hook(hook)
        for box in self.boxes:
            parts.append(self.net(x[(..., *box)]))
        handle.remove()
        if parts[0].ndim == 2:
            return parts[0], kept
        y = torch.zeros(1, parts[0].shape[1], *self.shape, dtype=torch.float64)
        for box, share, part in zip(self.boxes, self.shares, parts, strict=True):
            y[(..., *box)] += share * part
        return y, kept

    def read(self, x, layer, score):
        """Activations and gradients (c, i', j', k') of each window."""
        y, kept = self.run(x, layer)
        gradients = torch.autograd.grad(score(y), kept)
        return [a.detach()[0] for a in kept], [g[0] for g in gradients]

    def blend(self, maps):
        """Window maps (i', j', k') on the scan, weighted as the prediction is."""
        return self.added([F.interpolate(m[None, None], share.shape, mode="trilinear")[0, 0] * share
                           for m, share in zip(maps, self.shares, strict=True)])  # fmt: skip

    def added(self, maps):
        """Window maps on the scan, added up."""
        total = torch.zeros(self.shape, dtype=torch.float64)
        for box, share, m in zip(self.boxes, self.shares, maps, strict=True):
            total[box] += F.interpolate(m[None, None], share.shape, mode="trilinear")[0, 0]
        return total

    def weighted(self, weights, activations, relu=False):
        """sum_c w_c A_c in each window, blended."""
        maps = []
        for a in activations:
            m = torch.zeros(a.shape[1:], dtype=torch.float64)
            for c, w in enumerate(weights):
                m += w * a[c]
            maps.append(m.clamp(min=0) if relu else m)
        return self.blend(maps)


@pytest.fixture
def case(make, volume, region, targets):
    """case(kind, overlap): a model, its slow twin, a scan and a score, given in both ways."""

    def build(kind, overlap=0.5, air=0.0):
        info = ModelInfo(air=air)
        if kind == "classifier":
            net, x = make("plain", 2), volume(1, 2, 8, 8, 8)
            return SimpleNamespace(
                net=net, x=x, layer="3", model=TorchModel(net, info=info), slow=Slow(net, (8, 8, 8)),
                target=ClassScore(1), score=lambda y: y[0, 1],
            )  # fmt: skip
        shape = SHAPE if overlap else TILED
        net, x, mask = make("unet"), volume(1, 1, *shape), region(shape, (2, 7), (2, 10), (0, 8))
        if kind == "dense":
            model, slow = TorchModel(net, info=info), Slow(net, shape)
        else:
            mode = "constant" if kind == "constant" else "gaussian"
            model = WindowedModel(net, ROI, overlap=overlap, mode=mode, info=info)
            slow = Slow(net, shape, ROI, overlap, mode)
        soft = targets.SoftRegion(mask)
        return SimpleNamespace(
            net=net, x=x, layer="model.1.submodule.1", model=model, slow=slow,
            target=soft if kind == "nonlinear" else RegionScore(1, mask),
            score=(lambda y: soft(y)[0]) if kind == "nonlinear" else (lambda y: y[0, 1][mask].mean()),
        )  # fmt: skip

    return build


everywhere = pytest.mark.parametrize("kind", ["classifier", "dense", "constant", "gaussian"])
differentiated = pytest.mark.parametrize("kind", ["classifier", "dense", "constant", "gaussian", "nonlinear"])


def same(found, slow):
    """Equal but for the order of float64 sums; and not zero."""
    slow = slow.detach()
    size = slow.abs().max().item()
    assert size > 0
    torch.testing.assert_close(found.values[0, 0], slow, rtol=1e-9, atol=1e-12 * size)


def other(found, slow):
    """Not what another formula gives."""
    assert (found.values[0, 0] - slow).abs().max() > 1e-3 * slow.abs().max()


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_the_twin_stitches_as_monai_does(make, volume, region, mode):
    net, x = make("unet"), volume(1, 1, *SHAPE)
    slow = Slow(net, SHAPE, ROI, mode=mode)
    theirs = SlidingWindowInferer(ROI, overlap=0.5, mode=mode)(x, net)
    torch.testing.assert_close(slow.run(x, "model.0")[0], theirs, rtol=1e-10, atol=1e-12)
    mask = region(SHAPE, (2, 7), (2, 10), (0, 8))
    assert [bool(mask[box].any()) for box in slow.boxes] == [True] * 4 + [False] * 2  # some windows are not read


# --- CAM ---


headed = pytest.mark.parametrize(
    ("name", "layer", "head"), [("plain", "4", "7"), ("densenet", "class_layers.relu", "class_layers.out")]
)


@headed
@pytest.mark.parametrize("relu", [False, True])
def test_cam_is_the_heads_weights(make, volume, name, layer, head, relu):
    net, x = make(name, 2), volume(1, 2, 16, 16, 16)
    slow, linear = Slow(net, (16, 16, 16)), net.get_submodule(head)
    weights, bias = linear.weight[1].detach(), linear.bias[1].detach()
    found = CAM(relu=relu)(TorchModel(net), x, ClassScore(1))
    assert found.provenance.parameters["layer"] == layer
    same(found, slow.weighted(weights, [a[0] for a in slow.run(x, layer)[1]], relu))
    if not relu:  # voxels are a whole number to a cell, so that resampling keeps the mean
        torch.testing.assert_close(found.values.mean() + bias, net(x)[0, 1].detach(), rtol=1e-10, atol=1e-12)


@headed
def test_monais_cam_has_the_bias_at_every_place(make, volume, name, layer, head):
    """MONAI 1.6: the whole head runs at every place, so that its mean is the score, and a constant is in the map."""
    net, x = make(name, 2), volume(1, 2, 16, 16, 16)
    theirs = visualize.CAM(make(name, 2), layer, head).compute_map(x, class_idx=[1]).detach()
    torch.testing.assert_close(theirs.mean(), net(x)[0, 1].detach(), rtol=1e-10, atol=1e-12)
    theirs = F.interpolate(theirs - net.get_submodule(head).bias[1].detach(), (16, 16, 16), mode="trilinear")
    same(CAM(layer=layer)(TorchModel(net), x, ClassScore(1)), theirs[0, 0])


@pytest.mark.parametrize(("name", "layer"), [("plain", "4"), ("densenet", "class_layers.relu")])
def test_grad_cam_is_cam_where_the_layer_is_pooled_and_read_linearly(make, volume, name, layer):
    net, x = make(name, 2), volume(1, 2, 16, 16, 16)
    model = TorchModel(net)
    count = Slow(net, (16, 16, 16)).run(x, layer)[1][0][0, 0].numel()
    cam = CAM(layer=layer)(model, x, ClassScore(1))
    same(cam, count * GradCAM(layer=layer, relu=False)(model, x, ClassScore(1)).values[0, 0])


def test_cam_refuses_what_is_no_weighted_mean(make, volume):
    said = "the score is no weighted mean over"
    with pytest.raises(LayerError, match=said):
        CAM(layer="0")(TorchModel(make("plain")), volume(1, 1, 8, 8, 8), ClassScore(1))
    net, x, whole = make("segresnet"), volume(1, 1, 16, 16, 16), torch.ones(16, 16, 16, dtype=torch.bool)
    with pytest.raises(LayerError, match=said):
        CAM()(TorchModel(net), x, PredictedRegion(1))
    with pytest.raises(LayerError, match="run the scan without windows"):
        CAM()(WindowedModel(net, 8, overlap=0.5), x, RegionScore(1, whole))


def test_cam_of_one_window_is_that_of_the_scan(volume):
    """A whole segmentation's mean, over a head of one voxel: a linear head too."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Softplus(), nn.Conv3d(4, 2, 1)).double()
    x, target = volume(1, 1, 8, 8, 8), RegionScore(1, torch.ones(8, 8, 8, dtype=torch.bool))
    expected = (net[1](net[0](x))[0] * net[2].weight[1].detach()).sum(0)
    for model in (TorchModel(net), WindowedModel(net, 8, mode="gaussian")):
        found = CAM(layer="1")(model, x, target)
        same(found, expected)
        torch.testing.assert_close(found.values.mean() + net[2].bias[1].detach(), found.scores[0])


# --- Grad-CAM++ and its relatives ---


def plus_plus(activations, firsts, seconds, thirds):
    """Eq. 10 and 19, channel by channel and window by window."""
    weights = []
    for c in range(len(activations[0])):
        total = sum(float(a[c].sum()) for a in activations)
        weight = 0.0
        for d1, d2, d3 in zip(firsts, seconds, thirds, strict=True):
            for g, g2, g3 in zip(
                d1[c].flatten().tolist(), d2[c].flatten().tolist(), d3[c].flatten().tolist(), strict=True
            ):
                if g2 != 0:
                    weight += g2 / (2 * g2 + total * g3) * max(g, 0.0)
        weights.append(weight)
    return weights


@differentiated
@pytest.mark.parametrize("relu", [True, False])
def test_grad_cam_plus_plus(case, kind, relu):
    c = case(kind)
    a, g = c.slow.read(c.x, c.layer, c.score)
    weights = plus_plus(a, g, [d**2 for d in g], [d**3 for d in g])
    found = GradCAMpp(layer=c.layer, relu=relu)(c.model, c.x, c.target)
    same(found, c.slow.weighted(weights, a, relu))
    if not relu:
        other(found, c.slow.weighted(plus_plus(a, g, [d**2 for d in g], [d**4 for d in g]), a))


def test_in_windows_grad_cam_plus_plus_sums_activations_over_all_of_them(case):
    c = case("constant")
    a, g = c.slow.read(c.x, c.layer, c.score)
    read = [n for n, d in enumerate(g) if d.any()]
    assert len(read) < len(g)
    d = [g[n] for n in read]
    few = plus_plus([a[n] for n in read], d, [v**2 for v in d], [v**3 for v in d])
    other(GradCAMpp(layer=c.layer, relu=False)(c.model, c.x, c.target), c.slow.weighted(few, a))


def test_a_channel_without_gradient_has_no_weight(volume):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.Softplus(), nn.Conv3d(3, 2, 3)).double()
    with torch.no_grad():
        net[2].weight[:, 0] = 0
        net[2].weight[:, 1, 0] = 0  # and the second has places without one
    x, score = volume(1, 1, 8, 8, 8), RegionScore(1, torch.ones(8, 8, 8, dtype=torch.bool))
    net = nn.Sequential(*net[:2], nn.Sequential(net[2], nn.ConstantPad3d(1, 0.0)))
    for method in (GradCAMpp, SmoothGradCAMpp, XGradCAM):
        found = method(layer="1", relu=False)(TorchModel(net), x, score)
        assert torch.isfinite(found.values).all()
        with torch.no_grad():
            net[0].bias[0] += 1  # what the first channel holds is not in the map
        again = method(layer="1", relu=False)(TorchModel(net), x, score)
        same(again, found.values[0, 0])


@pytest.mark.parametrize(("layer", "level"), [("4", True), ("2", False)])
def test_monais_grad_cam_plus_plus_sums_activation_times_cube(make, volume, layer, level):
    """MONAI 1.6: the sum of A g^3, where eq. 19 has the sum of A times g^3 at the place; alike where g is level."""
    x, net = volume(1, 1, 8, 8, 8), make("plain")
    slow = Slow(net, (8, 8, 8))
    theirs = (
        visualize.GradCAMpp(make("plain"), layer).compute_map(x, class_idx=1).detach() / net(x)[0, 1].exp().detach()
    )
    theirs = slow.blend(theirs[0])
    (a,), (g,) = slow.read(x, layer, lambda y: y[0, 1])
    weights = []
    for c in range(len(a)):
        below = 2 * g[c] ** 2 + (a[c] * g[c] ** 3).sum()
        weights.append((g[c] ** 2 / (torch.where(below == 0, 1.0, below) + 1e-7) * g[c].clamp(min=0)).sum())
    torch.testing.assert_close(theirs, slow.weighted(weights, [a], relu=True), rtol=1e-9, atol=1e-14)
    away = (GradCAMpp(layer=layer)(TorchModel(net), x, ClassScore(1)).values[0, 0] - theirs).abs().max() / theirs.max()
    assert away < 0.01 if level else away > 0.05  # 1e-7 is up to a hundredth of the smallest g^2


@differentiated
def test_smooth_grad_cam_plus_plus(case, kind):
    """The mean of the copies' g, g^2 and g^3 each; A of the clean scan; noise by torch's own generator."""
    c = case(kind)
    generator, copies = torch.Generator().manual_seed(5), []
    width = 0.2 * (c.x.max() - c.x.min())
    for _ in range(3):
        noisy = c.x + width * torch.randn(c.x.shape, generator=generator, dtype=c.x.dtype)
        copies.append(c.slow.read(noisy, c.layer, c.score)[1])
    windows = range(len(c.slow.boxes))
    means = [[sum(g[w] ** p for g in copies) / 3 for w in windows] for p in (1, 2, 3)]
    a, clean = c.slow.read(c.x, c.layer, c.score)
    found = SmoothGradCAMpp(layer=c.layer, samples=3, noise=0.2, seed=5, relu=False)(c.model, c.x, c.target)
    same(found, c.slow.weighted(plus_plus(a, *means), a))
    of_mean = plus_plus(a, means[0], [g**2 for g in means[0]], [g**3 for g in means[0]])
    other(found, c.slow.weighted(of_mean, a))
    other(found, c.slow.weighted(plus_plus(a, clean, [g**2 for g in clean], [g**3 for g in clean]), a))
    torch.testing.assert_close(found.scores[0], c.score(c.slow.run(c.x, c.layer)[0]).detach())


def test_smooth_grad_cam_plus_plus_without_noise_is_grad_cam_plus_plus(case):
    c = case("gaussian")
    smooth = SmoothGradCAMpp(layer=c.layer, noise=1e-300)(c.model, c.x, c.target)
    same(smooth, GradCAMpp(layer=c.layer)(c.model, c.x, c.target).values[0, 0])


def xgrad(a, g):
    """Eq. 8 over the given windows."""
    weights = []
    for c in range(len(a[0])):
        worth = sum((d[c] * v[c]).sum() for v, d in zip(a, g, strict=True))
        weights.append(worth / sum(v[c].sum() for v in a))
    return weights


@differentiated
@pytest.mark.parametrize("relu", [True, False])
def test_xgrad_cam(case, kind, relu):
    c = case(kind)
    a, g = c.slow.read(c.x, c.layer, c.score)
    read = [n for n, d in enumerate(g) if d.any()]
    assert (len(read) < len(g)) == (kind not in ("classifier", "dense"))
    found = XGradCAM(layer=c.layer, relu=relu)(c.model, c.x, c.target)
    same(found, c.slow.weighted(xgrad([a[n] for n in read], [g[n] for n in read]), a, relu))
    if len(read) < len(g):
        other(found, c.slow.weighted(xgrad(a, g), a, relu))


def test_xgrad_cam_gives_an_empty_channel_no_weight(volume):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 2, 3, padding=1)).double()
    with torch.no_grad():
        net[0].weight[0], net[0].bias[0] = 0, -1
    x, target = volume(1, 1, 8, 8, 8), RegionScore(1, torch.ones(8, 8, 8, dtype=torch.bool))
    slow = Slow(net, (8, 8, 8))
    (a,), (g,) = slow.read(x, "1", lambda y: y[0, 1].mean())
    assert not a[0].any()
    found = XGradCAM(layer="1", relu=False)(TorchModel(net), x, target)
    same(found, slow.weighted([0.0, *xgrad([a[1:]], [g[1:]])], [a]))


def test_xgrad_cam_and_hires_cam_have_one_sum(case):
    """Conservation, as far as weights of whole channels can: sum_c w_c sum A_c = sum g A."""
    c = case("classifier")
    sums = [m(layer="4", relu=False)(c.model, c.x, c.target).values.sum() for m in (XGradCAM, HiResCAM)]
    assert sums[0].abs() > 1e-3
    torch.testing.assert_close(*sums, rtol=1e-9, atol=0)


# --- place by place ---


def places(a, g, positive, relu):
    """sum_c A_c g_c in each window, channel by channel; of positive gradients alone if asked."""
    maps = []
    for v, d in zip(a, g, strict=True):
        m = sum(v[c] * (d[c].clamp(min=0) if positive else d[c]) for c in range(len(v)))
        maps.append(m.clamp(min=0) if relu else m)
    return maps


@pytest.mark.parametrize("method", [HiResCAM, LayerCAM])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    ("kind", "overlap"),
    [
        ("classifier", 0.0), ("dense", 0.0), ("constant", 0.0), ("gaussian", 0.0),
        ("constant", 0.5), ("gaussian", 0.5), ("nonlinear", 0.5),
    ],
)  # fmt: skip
def test_activation_times_gradient_place_by_place(case, kind, overlap, method, relu):
    """A window's gradient is that of the stitched score: what windows have is added up."""
    c = case(kind, overlap)
    a, g = c.slow.read(c.x, c.layer, c.score)
    found = method(layer=c.layer, relu=relu)(c.model, c.x, c.target)
    same(found, c.slow.added(places(a, g, method is LayerCAM, relu)))
    other(found, c.slow.added(places(a, g, method is HiResCAM, relu)))
    if overlap:
        other(found, c.slow.blend(places(a, g, method is LayerCAM, relu)))


@pytest.mark.parametrize("layer", ["features.denseblock1", "features.transition1.conv", "features.norm5"])
def test_hires_cam_is_captums_layer_gradient_x_activation(make, volume, layer):
    net, x = make("densenet", 2), volume(2, 2, 16, 16, 16)
    theirs = LayerGradientXActivation(net, net.get_submodule(layer)).attribute(x, target=1).detach()
    theirs = F.interpolate(theirs.sum(1, keepdim=True), (16, 16, 16), mode="trilinear")
    found = HiResCAM(layer=layer)(TorchModel(net), x, ClassScore(1))
    assert theirs.abs().max() > 0
    torch.testing.assert_close(found.values, theirs, rtol=1e-9, atol=1e-12 * theirs.abs().max().item())


WINDOWS = [None, {"overlap": 0.0}, {"overlap": 0.5, "mode": "constant"}, {"overlap": 0.5, "mode": "gaussian"}]


@pytest.mark.parametrize("windows", WINDOWS)
def test_hires_cam_of_a_layer_that_is_read_linearly_adds_up_to_the_score(volume, region, windows):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Softplus(), nn.Conv3d(4, 2, 3, padding=1)).double()
    x, target = volume(1, 1, *TILED), RegionScore(1, region(TILED, (2, 14), (1, 7), (2, 8)))
    model = TorchModel(net) if windows is None else WindowedModel(net, ROI, **windows)
    found = HiResCAM(layer="1")(model, x, target)
    rest = found.scores[0] - net[2].bias[1].detach()
    assert rest.abs() > 0.05
    torch.testing.assert_close(found.values.sum(), rest, rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", [AblationCAM, ScoreCAM, ISCAM, HiResCAM, LayerCAM])
@pytest.mark.parametrize("windows", WINDOWS[1:])
def test_where_no_voxel_sees_another_windows_cannot_be_seen(volume, region, method, windows):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(1, 4, 1), nn.Softplus(), nn.Conv3d(4, 4, 1), nn.Softplus(), nn.Conv3d(4, 2, 1)
    ).double()
    x, target = volume(1, 1, *TILED), RegionScore(1, region(TILED, (2, 14), (1, 7), (2, 8)))
    dense, windowed = (method(layer="1", relu=False)(m, x, target)
                       for m in (TorchModel(net), WindowedModel(net, ROI, **windows)))  # fmt: skip
    same(windowed, dense.values[0, 0])


# --- from activations alone ---


@everywhere
@pytest.mark.parametrize("relu", [False, True])
def test_eigen_cam(case, kind, relu):
    """The first left singular vector of all places of all windows, as they are; the map's own sum is positive."""
    c = case(kind)
    a = [v.detach()[0] for v in c.slow.run(c.x, c.layer)[1]]
    rows = torch.cat([v.flatten(1) for v in a], 1)

    def first(m):
        u = torch.linalg.svd(m, full_matrices=False)[0][:, 0]
        return u * torch.sign((u @ rows).sum())

    found = EigenCAM(layer=c.layer, relu=relu)(c.model, c.x, c.target)
    same(found, c.slow.weighted(first(rows), a, relu))
    other(found, c.slow.weighted(first(rows - rows.mean(1, keepdim=True)), a, relu))  # nothing is centred
    torch.testing.assert_close(found.scores[0], c.score(c.slow.run(c.x, c.layer)[0]).detach())


@everywhere
@pytest.mark.parametrize("above", [0.5, 2.0])
def test_fem(case, kind, above):
    c = case(kind)
    a = [v.detach()[0] for v in c.slow.run(c.x, "1" if kind == "classifier" else "model.0")[1]]
    maps = [torch.zeros(v.shape[1:], dtype=torch.float64) for v in a]
    for n in range(len(a[0])):
        places = torch.cat([v[n].flatten() for v in a])
        limit = places.mean() + above * ((places - places.mean()) ** 2).mean().sqrt()
        assert (places > limit).any()
        for m, v in zip(maps, a, strict=True):
            m[v[n] > limit] += places.mean()
    found = FEM(layer="1" if kind == "classifier" else "model.0", above=above)(c.model, c.x, c.target)
    same(found, c.slow.blend(maps))
    other(
        found,
        c.slow.blend([m * 0 + (v > v.mean((1, 2, 3), keepdim=True)).sum(0) for m, v in zip(maps, a, strict=True)]),
    )
    torch.testing.assert_close(found.scores[0], c.score(c.slow.run(c.x, c.layer)[0]).detach())


def last_of_each_resolution(net, window):
    """Modules by hooks of their own, in the order in which they finish; of several channels and voxels, no head."""
    last, handles = {}, []
    head = net(window).shape[1:]
    for name, module in net.named_modules():

        def hook(m, args, out, name=name):
            if out.ndim == 5 and out.shape[1] > 1 and out[0, 0].numel() > 1 and out.shape[1:] != head:
                last[out.shape[2:]] = name

        if name:
            handles.append(module.register_forward_hook(hook))
    net(window)
    for handle in handles:
        handle.remove()
    return list(last.values())


@everywhere
def test_smoe_scale(case, kind):
    """Eq. 3 place by place; each blended map by its own normal distribution; their mean."""
    c = case(kind)
    layers = last_of_each_resolution(c.net, c.x[(..., *c.slow.boxes[0])])
    assert len(layers) == 2
    total = torch.zeros(c.slow.shape, dtype=torch.float64)
    for layer in layers:
        maps = []
        for v in c.slow.run(c.x, layer)[1]:
            a = v.detach()[0].clamp(min=0) + 1e-7
            mean, mean_log = sum(a) / len(a), sum(torch.log2(u) for u in a) / len(a)
            maps.append(mean * (torch.log2(mean) - mean_log))
        m = c.slow.blend(maps)
        sd = (((m - m.mean()) ** 2).sum() / (m.numel() - 1)).sqrt()
        total += (1 + torch.erf((m - m.mean()) / sd / 2**0.5)) / 2 / len(layers)
    found = SMOEScale()(c.model, c.x, c.target)
    same(found, total)
    assert 0 < found.values.min() < 0.4
    assert 0.6 < found.values.max() < 1
    torch.testing.assert_close(found.scores[0], c.score(c.slow.run(c.x, c.layer)[0]).detach())


# --- from forward passes ---


def score_weights(c, a, fill, parts=1, channels=None):
    """Alg. 1; eq. 6 and 7 of IS-CAM for several parts. The scan through one channel after the other."""

    def score(x):
        return float(c.score(c.slow.run(x, c.layer)[0]).detach())

    chosen = range(len(a[0])) if channels is None else channels
    nothing = score(torch.full_like(c.x, fill))
    gains = []
    for n in chosen:
        mask = c.slow.blend([v[n] for v in a])
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        seen = [score(c.x * (p / parts * mask) + fill * (1 - p / parts * mask)) for p in range(1, parts + 1)]
        gains.append(sum(seen) / parts - nothing)
    weights = [0.0] * len(a[0])
    for n, e in zip(chosen, torch.tensor(gains, dtype=torch.float64).exp(), strict=True):
        weights[n] = float(e / torch.tensor(gains, dtype=torch.float64).exp().sum())
    return weights


@everywhere
@pytest.mark.parametrize(("baseline", "fill"), [("air", -0.4), (0.7, 0.7)])
def test_score_cam(case, kind, baseline, fill):
    c = case(kind, air=-0.4)
    a = [v.detach()[0] for v in c.slow.run(c.x, c.layer)[1]]
    found = ScoreCAM(layer=c.layer, baseline=baseline, relu=False)(c.model, c.x, c.target)
    weights = score_weights(c, a, fill)
    same(found, c.slow.weighted(weights, a))
    other(found, c.slow.weighted([1 / len(a[0])] * len(a[0]), a))
    if kind == "gaussian":
        relu = ScoreCAM(layer=c.layer, baseline=baseline)(c.model, c.x, c.target)
        same(relu, c.slow.weighted(weights, a, relu=True))


@everywhere
@pytest.mark.parametrize("channels", [1, 3])
def test_faster_score_cam_takes_the_channels_that_vary_most(case, kind, channels):
    c = case(kind)
    a = [v.detach()[0] for v in c.slow.run(c.x, c.layer)[1]]
    spread = torch.cat([v.flatten(1) for v in a], 1).std(1)
    order = sorted(range(len(spread)), key=lambda n: -float(spread[n]))
    found = ScoreCAM(layer=c.layer, channels=channels, relu=False)(c.model, c.x, c.target)
    same(found, c.slow.weighted(score_weights(c, a, 0.0, channels=order[:channels]), a))


def test_through_a_constant_channel_nothing_is_seen(volume, region):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.Softplus(), nn.Conv3d(3, 2, 3, padding=1)).double()
    with torch.no_grad():
        net[0].weight[1] = 0
    x, mask = volume(1, 1, 8, 8, 8), region((8, 8, 8), (2, 7), (1, 5), (2, 8))
    slow = Slow(net, (8, 8, 8))
    a = slow.run(x, "1")[1][0][0].detach()
    gains = []
    for n in range(3):
        m = (a[n] - a[n].min()) / (a[n].max() - a[n].min()) if n != 1 else torch.zeros(8, 8, 8, dtype=torch.float64)
        gains.append((net(x * m) - net(0 * x)).detach()[0, 1][mask].mean())
    assert gains[1] == 0
    weights = torch.stack(gains).softmax(0)
    same(ScoreCAM(layer="1", relu=False)(TorchModel(net), x, RegionScore(1, mask)), slow.weighted(weights, [a]))


@everywhere
@pytest.mark.parametrize(("parts", "channels"), [(3, 0), (2, 2)])
def test_is_cam(case, kind, parts, channels):
    c = case(kind)
    a = [v.detach()[0] for v in c.slow.run(c.x, c.layer)[1]]
    spread = torch.cat([v.flatten(1) for v in a], 1).std(1)
    chosen = sorted(range(len(spread)), key=lambda n: -float(spread[n]))[: channels or None]
    settings = {"layer": c.layer, "channels": channels, "baseline": 0.7, "relu": False}
    found = ISCAM(steps=parts, **settings)(c.model, c.x, c.target)
    same(found, c.slow.weighted(score_weights(c, a, 0.7, parts, chosen), a))
    if not channels:
        other(found, ScoreCAM(**settings)(c.model, c.x, c.target).values[0, 0])
    same(ISCAM(steps=1, **settings)(c.model, c.x, c.target), ScoreCAM(**settings)(c.model, c.x, c.target).values[0, 0])


@everywhere
@pytest.mark.parametrize("relu", [True, False])
def test_ablation_cam(case, kind, relu):
    """The channel at zero in every window at once, and the whole prediction anew."""
    c = case(kind)
    y, a = c.slow.run(c.x, c.layer)
    clean, drops = c.score(y), []
    for n in range(a[0].shape[1]):
        keep = torch.ones(a[0].shape[1], 1, 1, 1, dtype=torch.float64)
        keep[n] = 0
        drops.append(float((clean - c.score(c.slow.run(c.x, c.layer, lambda v, keep=keep: v * keep)[0])).detach()))
    assert min(drops) < 0 < max(drops)
    found = AblationCAM(layer=c.layer, relu=relu)(c.model, c.x, c.target)
    same(found, c.slow.weighted(drops, [v.detach()[0] for v in a], relu))


def test_ablation_cams_weights_are_captums_layer_feature_ablation(make, volume):
    net, x, layer = make("densenet", 2), volume(1, 2, 16, 16, 16), "features.transition1.conv"
    slow = Slow(net, (16, 16, 16))
    a = slow.run(x, layer)[1][0].detach()
    drops = LayerFeatureAblation(net, net.get_submodule(layer)).attribute(
        x, target=1, layer_baselines=0.0, layer_mask=torch.arange(a.shape[1])[None, :, None, None, None]
    )
    assert drops.abs().max() > 0
    found = AblationCAM(layer=layer, relu=False)(TorchModel(net), x, ClassScore(1))
    same(found, slow.weighted(drops[0, :, 0, 0, 0].detach(), [a[0]]))


# --- the layer ---


@pytest.mark.parametrize("kind", ["dense", "gaussian"])
@pytest.mark.parametrize("method", ["grad-cam", "grad-cam++", "eigen-cam", "fem", "hires-cam", "ablation-cam"])
def test_of_several_layers_each_is_scaled_to_one_and_their_mean_is_taken(case, smallest, kind, method):
    c = case(kind)
    layers = ["model.0", c.layer, "model.1"]
    singles = [smallest(method, layer=layer)(c.model, c.x, c.target).values[0, 0] for layer in layers]
    assert all(m.abs().max() > 0 for m in singles)
    found = smallest(method, layer=", ".join(layers))(c.model, c.x, c.target)
    same(found, sum(m / m.abs().max() for m in singles) / 3)
    assert found.provenance.parameters["layer"] == ", ".join(layers)
    repeated = smallest(method, layer=f"{c.layer},{c.layer} ")(c.model, c.x, c.target)
    assert torch.equal(repeated.values[0, 0], singles[1])  # one layer, named twice, is not scaled


@pytest.mark.parametrize("windows", [None, 8])
@pytest.mark.parametrize(
    ("wish", "layer"),
    [
        ("", "model.1"),  # the last at half resolution; the head alone is finer
        ("last", "model.1"),
        (" last ", "model.1"),
        ("1 mm", "model"),
        ("2 mm", "model.1"),
        ("2.0mm", "model.1"),
        ("3.9 mm", "model.1"),
        ("4 mm", "model.1.submodule.1"),
        ("3.97 mm", "model.1.submodule.1"),  # to a hundredth
        ("100 mm", "model.1.submodule.1"),
        ("model.0.conv", "model.0.conv"),
    ],
)
def test_a_layer_is_chosen_by_name_by_place_or_by_size(make, volume, region, windows, wish, layer):
    net, x, info = make("unet"), volume(1, 1, 16, 16, 16), ModelInfo(spacing=(1.0, 1.0, 1.0))
    model = TorchModel(net, info=info) if windows is None else WindowedModel(net, windows, info=info)
    target = RegionScore(1, region((16, 16, 16), (2, 9), (4, 12), (0, 16)))
    found, named = (EigenCAM(layer=name)(model, x, target) for name in (wish, layer))
    assert found.provenance.parameters["layer"] == layer
    assert torch.equal(found.values, named.values)


def test_a_cell_is_as_large_as_its_longest_edge(make, volume):
    model, x = TorchModel(make("unet"), info=ModelInfo(spacing=(1.0, 2.0, 4.0))), volume(1, 1, 16, 16, 16)
    assert [chosen_layer(model, x, f"{edge} mm") for edge in (4, 8, 16)] == ["model", "model.1", "model.1.submodule.1"]
    with pytest.raises(LayerError, match=r"No layer has cells of 2 mm or less: the finest has 4 mm\."):
        chosen_layer(model, x, "2 mm")


@pytest.mark.parametrize("edge", [2, 4])
def test_a_cell_is_measured_on_the_scan_also_where_the_first_layer_has_a_stride(make, volume, edge):
    model, x = TorchModel(make("densenet"), info=ModelInfo(spacing=(1.0, 1.0, 1.0))), volume(1, 1, 32, 32, 32)
    shapes = {layer.name: layer.shape for layer in model.layers(x)}
    assert {(4, 4, 4), (8, 8, 8), (16, 16, 16)} < set(shapes.values())  # cells of 8, 4 and 2 mm
    assert shapes[chosen_layer(model, x, f"{edge} mm")] == (32 // edge,) * 3


@pytest.mark.parametrize("windows", [None, 8])
@pytest.mark.parametrize("method", ["grad-cam++", "hires-cam", "eigen-cam", "fem", "score-cam", "ablation-cam"])
@pytest.mark.parametrize(
    ("net", "layer", "said"),
    [
        ("unet", "nowhere", "no layer 'nowhere'"),
        ("unet", "model.0, nowhere", "no layer 'nowhere'"),
        ("unet", "Last", "no layer 'Last'"),
        ("unet", "2 mm", "spacing is unknown, so that a layer cannot be chosen in mm"),
        ("smooth", "", "No layer of the network lies below full resolution: name one"),
    ],
)
def test_a_layer_that_is_none_is_refused(make, volume, smallest, windows, method, net, layer, said):
    net, x = make(net), volume(1, 1, *TILED)
    model = TorchModel(net) if windows is None else WindowedModel(net, windows)
    with pytest.raises(LayerError, match=said):
        smallest(method, layer=layer)(model, x, PredictedRegion(1))


def test_before_a_head_there_has_to_be_a_layer(volume):
    x = volume(1, 1, 8, 8, 8)
    with pytest.raises(LayerError, match="before its head"):
        chosen_layer(TorchModel(nn.Sequential(nn.Conv3d(1, 2, 1)).double()), x, "last")
    pooled = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(1, 2)).double()
    with pytest.raises(LayerError, match="no layer of more than one voxel before its head"):
        chosen_layer(TorchModel(pooled), x, "last")


# --- maps that are the prediction ---


@pytest.mark.parametrize("windows", [None, 8])
@pytest.mark.parametrize("method", [*("grad-cam++", "xgrad-cam", "smooth-grad-cam++", "ablation-cam"), *ELEMENT])
def test_at_the_head_the_map_is_the_prediction_and_says_so(make, volume, smallest, method, windows):
    net, x, target = make("unet"), volume(1, 1, *TILED), RegionScore(1, torch.ones(TILED, dtype=torch.bool))
    model = TorchModel(net) if windows is None else WindowedModel(net, windows, overlap=0.5)
    found = smallest(method, layer="model", relu=False)(model, x, target)
    assert torch.corrcoef(torch.stack([found.values.flatten(), model.output(x)[0, 1].flatten()]))[0, 1] > 0.999
    assert any("the map of 'model' is the prediction itself" in w for w in found.warnings)


@pytest.mark.parametrize("windows", [None, 8])
@pytest.mark.parametrize("method", [*CHANNEL, *ELEMENT, "fem"])
def test_the_layer_of_choice_is_not_the_prediction(make, volume, smallest, method, windows):
    net, x = make("unet"), volume(1, 1, *TILED)
    model = TorchModel(net) if windows is None else WindowedModel(net, windows, overlap=0.5)
    found = smallest(method)(model, x, PredictedRegion(1))
    assert not any("prediction" in w for w in found.warnings)


# --- laws of all ---


class Mirrored(nn.Module):
    """Kernels that are the same from either side along every axis; half resolution inside."""

    def __init__(self, classify):
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 6, 3, padding=1)
        self.act, self.head = nn.Softplus(), nn.Linear(6, 2) if classify else nn.Conv3d(6, 2, 1)
        self.classify = classify
        with torch.no_grad():
            for conv in (self.a, self.b):
                for axis in (2, 3, 4):
                    conv.weight += conv.weight.flip(axis)

    def forward(self, x):
        h = self.act(self.b(F.avg_pool3d(F.silu(self.a(x)), 2)))
        return self.head(h.mean((2, 3, 4))) if self.classify else F.interpolate(self.head(h), scale_factor=2)


MIRRORED = [m for m in (*CHANNEL, *ELEMENT, "fem", "smoe-scale") if m != "smooth-grad-cam++"]  # noise has two sides


@pytest.mark.parametrize("axis", [2, 3, 4])
@pytest.mark.parametrize(
    ("method", "windows"), [("cam", None), *((m, w) for m in MIRRORED for w in (None, "constant", "gaussian"))]
)
def test_a_mirrored_scan_has_the_mirrored_map(volume, region, smallest, method, windows, axis):
    """Where the network and its windows know no left and right."""
    torch.manual_seed(0)
    net = Mirrored(method == "cam").double()
    x, mask = volume(1, 1, *SHAPE), region(SHAPE, (2, 7), (2, 10), (0, 5))
    model = TorchModel(net) if windows is None else WindowedModel(net, ROI, overlap=0.5, mode=windows)
    settings = {} if method == "smoe-scale" else {"layer": "act"}
    settings |= {} if method in ("fem", "smoe-scale") else {"relu": False}

    def map_of(x, mask):
        target = ClassScore(1) if method == "cam" else RegionScore(1, mask)
        return smallest(method, **settings)(model, x, target)

    straight, mirrored = map_of(x, mask), map_of(x.flip(axis), mask.flip(axis - 2))
    same(mirrored, straight.values[0, 0].flip(axis - 2))
    other(mirrored, straight.values[0, 0])


@pytest.mark.parametrize("windows", [None, 8])
@pytest.mark.parametrize("method", [*CHANNEL, *ELEMENT, "fem", "smoe-scale"])
def test_nothing_is_left_behind(make, volume, smallest, unchanged, method, windows):
    net, x = make("unet"), volume(1, 1, *TILED)
    model = TorchModel(net) if windows is None else WindowedModel(net, windows, overlap=0.0)
    with unchanged(net, x):
        found = smallest(method)(model, x, PredictedRegion(1))
    assert not found.values.requires_grad

    def stop(done, total, partial=None):
        raise KeyboardInterrupt

    with unchanged(net, x), pytest.raises(KeyboardInterrupt):
        smallest(method)(model, x, PredictedRegion(1), progress=stop)
    if method != "smoe-scale":
        with unchanged(net, x), pytest.raises(LayerError):
            smallest(method, layer="model.0, nowhere")(model, x, PredictedRegion(1))


@pytest.mark.parametrize("method", [*CHANNEL, *ELEMENT, "fem", "smoe-scale", "cam"])
def test_a_batch_is_its_samples(make, volume, smallest, method):
    net, x = make("plain", 2), volume(2, 2, 8, 8, 8)
    layer = {} if method == "smoe-scale" else {"layer": "4"}
    both = smallest(method, **layer)(TorchModel(net), x, ClassScore(1)).values
    for n in range(2):
        alone = smallest(method, **layer)(TorchModel(net), x[n : n + 1], ClassScore(1))
        torch.testing.assert_close(both[n : n + 1], alone.values, rtol=1e-9, atol=1e-14)
    assert (both[0] - both[1]).abs().max() > 0


# --- what it costs ---


def one_pass(net, x, layer, target):
    """Operations of one forward pass, and of one backward pass that ends at the layer."""
    leaf = []

    def hook(module, args, out):
        leaf.append(out.detach().requires_grad_())
        return leaf[0].clone()

    wanted = [p for p in net.parameters() if p.requires_grad]
    handle = net.get_submodule(layer).register_forward_hook(hook)
    for p in wanted:
        p.requires_grad_(False)
    with Flops() as operations:
        y = net(x)
        torch.autograd.grad(target.bind(y.detach())(y).sum(), leaf)
    handle.remove()
    for p in wanted:
        p.requires_grad_(True)
    return operations


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("method", "name", "layer"),
    [
        ("cam", "plain", "4"),
        *((m, "densenet", "features.denseblock1") for m in ("grad-cam", "grad-cam++", "xgrad-cam", *ELEMENT)),
        *((m, "unet", "model.1.submodule.1") for m in ("grad-cam", "grad-cam++", "xgrad-cam", *ELEMENT)),
    ],
)
def test_one_pass_up_and_one_down_to_the_layer_are_enough(make, volume, method, name, layer, named, smallest):
    net, x = make(name), volume(1, 1, 16, 16, 16)
    target = PredictedRegion(1) if name == "unet" else ClassScore(1)
    with Flops() as spent:
        found = smallest(method, **({"layer": layer} if named else {}))(TorchModel(net), x, target)
    allowed = one_pass(net, x, found.provenance.parameters["layer"], target)
    assert allowed.forward > 1e5
    assert spent.forward <= 1.05 * allowed.forward
    assert spent.backward <= 1.05 * allowed.backward
    assert (spent.backward > 0) == (method != "cam")  # a pooled layer has no convolution above it


def test_monais_grad_cam_goes_down_to_the_weights_of_the_first_layer(make, volume):
    """MONAI 1.6: gradients of every parameter, twice and more what one pass up and one down to the layer take."""
    net, x, layer = make("densenet"), volume(1, 1, 16, 16, 16), "features.transition1.conv"
    allowed = one_pass(net, x, layer, ClassScore(1))
    with Flops() as theirs:
        visualize.GradCAM(make("densenet"), layer)(x, class_idx=1)
    with Flops() as ours:
        GradCAM(layer=layer)(TorchModel(net), x, ClassScore(1))
    assert theirs.forward + theirs.backward > 2 * allowed.forward
    assert ours.forward + ours.backward < 1.1 * allowed.forward
