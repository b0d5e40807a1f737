"""Train the two sample models, measure them on lesions they were not trained on, and write them as MONAI bundles.

    python sample_volumes/train.py [--only classifier|segmenter] [--steps N] [--folder sample_volumes/bundles]

Made for two CPU cores and a few minutes each. Both learn from one brain that is bent, turned, rescanned and given
another lesion at every step; each batch holds every brain twice, with and without its lesion, so that
nothing but the lesion tells the classes apart.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lesions
import monai
import nibabel
import numpy as np
import torch
from make_volumes import oblique_grid, resampled
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.losses import DiceCELoss
from monai.transforms import Compose
from torch import Tensor, nn
from torch.nn import functional as F

BUNDLES = Path(__file__).resolve().parent / "bundles"
PAIRS = 2  # brains in a batch, each with and without its lesion
TESTED = 100  # held-out pairs behind the metrics; their seeds are 0 to 99

INTENSITY: dict[
    str, Any
] = {  # air becomes 0 and white matter about 1, whatever unit and offset the scanner had; lesions exceed 1
    "_target_": "ScaleIntensityRangePercentilesd",
    "keys": "image",
    "lower": 1,
    "upper": 95,
    "b_min": 0.0,
    "b_max": 1.0,
    "clip": False,
}
PREPROCESSING = {
    "_target_": "Compose",
    "transforms": [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [2.0, 2.0, 2.0], "mode": "bilinear"},
        INTENSITY,
    ],
}


@dataclass(frozen=True)
class Batch:
    """Model inputs (b, 1, i, j, k), lesion masks of that shape, and whether there is a lesion (b,)."""

    image: Tensor
    mask: Tensor
    label: Tensor


# --------------------------------------------------------------------------------------------- what is learnt from


def batches(steps: int, seed: int = 0) -> Iterator[Batch]:
    """Draw one batch a step: bent brains in fields of view of varying size, first clean, then with a lesion."""
    brain = lesions.load_brain()
    for step in range(steps):
        rng = np.random.default_rng([lesions.TRAINING, seed, step])
        shape = tuple(int(n) for n in np.array(brain.tissue.shape) + rng.integers(-4, 9, size=3))
        clean, lesioned, masks = [], [], []
        for _ in range(PAIRS):
            brightness, mask = lesions.lesion(brain, rng)
            tissue, brightness, mask = bent(np.stack([brain.tissue, brightness, mask]), shape, rng)
            scanner, sharpness = int(rng.integers(2**63)), rng.uniform(0.5, 1.5, size=3).clip(max=1)
            for scans, seen in ((clean, tissue), (lesioned, tissue + brightness)):
                scan = lesions.scanned(seen, np.random.default_rng(scanner))
                scans.append(normalised(coarsened(scan, sharpness)))
            masks.append(torch.from_numpy(mask)[None] >= 0.5)
        empty = [torch.zeros_like(mask) for mask in masks]
        label = torch.tensor([0] * PAIRS + [1] * PAIRS)
        yield Batch(torch.stack(clean + lesioned), torch.stack(empty + masks).float(), label)


def coarsened(scan: lesions.Array, sharpness: lesions.Array) -> lesions.Array:
    """Sample a scan on a coarser grid and back, as a scan with other voxels is on its way to the model."""
    volume = torch.from_numpy(scan)[None, None]
    coarse = [round(n * share) for n, share in zip(scan.shape, sharpness, strict=True)]
    volume = F.interpolate(volume, coarse, mode="trilinear", align_corners=True)
    return F.interpolate(volume, scan.shape, mode="trilinear", align_corners=True)[0, 0].numpy()


def normalised(scan: lesions.Array) -> Tensor:
    """Do what INTENSITY says, three times faster than MONAI's transform; with a channel."""
    low, high = np.percentile(scan, [INTENSITY["lower"], INTENSITY["upper"]])
    return torch.from_numpy((scan - np.float32(low)) / np.float32(high - low))[None]


def bent(volumes: lesions.Array, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[lesions.Array, ...]:
    """Turn, scale, mirror, shift and bend the volumes alike, and cut or pad them to a shape."""
    angles, scale = np.deg2rad(rng.uniform(-12, 12, size=3)), rng.uniform(0.9, 1.1, size=3)
    matrix = np.diag(scale * [rng.choice([-1.0, 1.0]), 1.0, 1.0])
    for axis, angle in enumerate(angles):
        turn, (a, b) = np.eye(3), [x for x in range(3) if x != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    shift = rng.uniform(-3, 3, size=3)

    grid = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"), dim=-1)
    source = grid @ torch.from_numpy(matrix.T).float() + torch.from_numpy(shift).float()
    knots = torch.from_numpy(rng.normal(0, 1.2, size=(1, 3, 6, 6, 6))).float()
    source += F.interpolate(knots, size=shape, mode="trilinear", align_corners=True)[0].movedim(0, -1)
    unit = source / ((torch.tensor(volumes.shape[1:]) - 1) / 2)
    # grid_sample names its coordinates last axis first
    result = F.grid_sample(torch.from_numpy(volumes)[None], unit.flip(-1)[None], align_corners=True)[0]
    return tuple(volume.numpy() for volume in result)


def patches(batch: Batch, size: int, rng: np.random.Generator) -> Batch:
    """Cut two cubes that hold a part of the lesion and one anywhere, and two from the clean twin."""
    image, mask, label = [], [], []
    for i in range(PAIRS):
        twin = i + PAIRS
        inside = np.argwhere(batch.mask[twin, 0].numpy() > 0)
        for kind in ("lesion", "lesion", "anywhere", "clean", "clean anywhere"):
            source = i if kind.startswith("clean") else twin
            room = np.array(batch.image.shape[2:]) - size
            # a sliding window often ends where the scan does, with a slice of brain at its rim
            start = np.where(rng.random(3) < 0.5, rng.integers(0, room + 1), rng.integers(2, size=3) * room)
            if not kind.endswith("anywhere") and len(inside):
                voxel = inside[rng.integers(len(inside))]
                start = (voxel - rng.integers(2, size - 2, size=3)).clip(0, room)
            cube = (source, slice(None), *(slice(s, s + size) for s in start))
            image.append(batch.image[cube])
            mask.append(batch.mask[cube])
            label.append(mask[-1].amax().long())
    return Batch(torch.stack(image), torch.stack(mask), torch.stack(label))


# ------------------------------------------------------------------------------------------------------ the models


@dataclass(frozen=True)
class Sample:
    """A model to make: its bundle's name and config, how it learns, how it is measured."""

    name: str
    config: dict[str, Any]
    task: str
    classes: dict[str, str]
    steps: int
    learn: Callable[[nn.Module, int], None]
    measure: Callable[[nn.Module, "Reader"], dict[str, float]]
    required: tuple[str, float]


class Reader:
    """The bundle's own preprocessing for scans that are in memory: everything but the reading of a file."""

    def __init__(self, config: dict[str, Any]) -> None:
        steps = ConfigParser(config).get_parsed_content("preprocessing").transforms
        self.transform = Compose(steps[2:])

    def __call__(self, scan: Any, affine: Any) -> Tensor:
        image = MetaTensor(torch.as_tensor(np.ascontiguousarray(scan))[None].float(), affine=torch.as_tensor(affine))
        return self.transform({"image": image})["image"].as_tensor()[None]


def learn_classifier(network: nn.Module, steps: int) -> None:
    """Learn the label, helped by a 1x1x1 head on the second dense block that learns where the lesion is.

    From the label alone such a small network does not find a 4 mm lesion in a brain. The head is dropped afterwards.
    """
    taken: list[Tensor] = []
    block = network.features.denseblock2
    handle = block.register_forward_hook(lambda module, inputs, output: taken.append(output))
    head = nn.LazyConv3d(1, kernel_size=1)
    network(torch.zeros(2, 1, 64, 64, 64))
    head(taken.pop())
    network.apply(lambda m: m.reset_running_stats() if isinstance(m, nn.BatchNorm3d) else None)

    def loss(batch: Batch) -> Tensor:
        scores = network(batch.image)
        where = head(taken.pop())
        cells = F.adaptive_max_pool3d(batch.mask, where.shape[2:])
        there = F.binary_cross_entropy_with_logits(where, cells, pos_weight=torch.tensor(10.0))
        return F.cross_entropy(scores, batch.label) + 5 * there

    fit(nn.ModuleList([network, head]), batches(steps), steps, loss, rate=4e-3)
    handle.remove()


def learn_segmenter(network: nn.Module, steps: int) -> None:
    """Learn the mask from cubes of the size that the sliding window has."""
    size = SEGMENTER["inferer"]["roi_size"][0]
    rng = np.random.default_rng([lesions.TRAINING, 1])
    overlap_and_entropy = DiceCELoss(
        to_onehot_y=True, softmax=True, include_background=False, batch=True, weight=torch.tensor([1.0, 2.0])
    )

    def loss(batch: Batch) -> Tensor:
        cubes = patches(batch, size, rng)
        return overlap_and_entropy(network(cubes.image), cubes.mask)

    fit(network, batches(steps, seed=1), steps, loss, rate=6e-3)


def fit(
    network: nn.Module,
    data: Iterator[Batch],
    steps: int,
    loss: Callable[[Batch], Tensor],
    rate: float,
) -> None:
    """Descend with AdamW along a one-cycle rate, and tell how it goes."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    network.train()
    recent, start = [], time.monotonic()
    for step, batch in enumerate(data, start=1):
        value = loss(batch)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        recent.append(value.item())
        if step % 25 == 0 or step == steps:
            seconds = time.monotonic() - start
            print(f"  step {step:4d}/{steps}  loss {np.mean(recent[-25:]):.4f}  {seconds:5.0f} s", flush=True)
    network.eval()


# -------------------------------------------------------------------------------------------------- how they do


def held_out_scans(count: int, *, oblique: bool = False) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Yield clean scan, scan with lesion, truth and affine of lesions that were never trained on."""
    brain = lesions.load_brain()
    for seed in range(count):
        scan, mask = lesions.held_out(seed)
        clean, affine = lesions.held_out_clean(seed), brain.affine
        if oblique:
            new, shape = oblique_grid(brain)
            clean, scan, mask = (resampled(v, affine, new, shape) for v in (clean, scan, mask))
            mask, affine = mask >= 0.5, new
        yield clean, scan, mask, affine


def measure_classifier(network: nn.Module, reader: Reader) -> dict[str, float]:
    """Count right answers on held-out scans, half of them clean, and on oblique copies of some."""
    metrics = {}
    for name, count, oblique in (("accuracy", TESTED, False), ("accuracy_oblique", TESTED // 5, True)):
        right = 0
        for clean, scan, _, affine in held_out_scans(count, oblique=oblique):
            for volume, label in ((clean, 0), (scan, 1)):
                right += int(network(reader(volume, affine)).argmax().item() == label)
        metrics[name] = round(right / (2 * count), 4)
    metrics["peak_in_lesion"] = peaks(reader, network, lambda x: lesion_margin(network(x)))
    return metrics


def measure_segmenter(network: nn.Module, reader: Reader) -> dict[str, float]:
    """Measure the overlap with the truth on held-out scans through the sliding window, and on oblique copies."""
    inferer = ConfigParser(SEGMENTER).get_parsed_content("inferer")
    metrics = {}
    for name, count, oblique in (("mean_dice", TESTED * 2 // 5, False), ("mean_dice_oblique", TESTED // 10, True)):
        dices, false_alarms = [], 0
        for clean, scan, mask, affine in held_out_scans(count, oblique=oblique):
            predicted = inferer(reader(scan, affine), network).argmax(dim=1)[0]
            truth = reader(mask, affine)[0, 0] if oblique else torch.from_numpy(mask)
            truth = truth >= 0.5
            dices.append((2 * (predicted * truth).sum() / (predicted.sum() + truth.sum())).item())
            false_alarms += int(inferer(reader(clean, affine), network).argmax(dim=1).any())
        metrics[name] = round(float(np.mean(dices)), 4)
        metrics[name.replace("mean_dice", "clean_scans_with_a_finding")] = round(false_alarms / count, 4)
        print("   ", name, np.round(np.sort(dices), 2))

    def region_score(x: Tensor) -> Tensor:
        output = inferer(x, network)
        region = output.detach().argmax(dim=1)[0] == 1
        return output[0, 1][region].mean()

    metrics["peak_in_lesion"] = peaks(reader, network, region_score)
    return metrics


def lesion_margin(scores: Tensor) -> Tensor:
    """By how much the lesion's score exceeds the other's."""
    return scores[0, 1] - scores[0, 0]


@torch.enable_grad()
def peaks(reader: Reader, network: nn.Module, score: Callable[[Tensor], Tensor], count: int = 20) -> float:
    """Return how often input x gradient, smoothed by 4 mm, is greatest inside the lesion."""
    smooth = monai.networks.layers.GaussianFilter(3, sigma=2.0)
    hits = 0
    for _, scan, mask, affine in held_out_scans(count):
        x = reader(scan, affine).requires_grad_()
        (gradient,) = torch.autograd.grad(score(x), x)
        relevance = smooth((gradient * x).detach())
        hits += int(mask.flat[int(relevance.argmax())])
    return round(hits / count, 4)


# ----------------------------------------------------------------------------------------------------- the bundles

CLASSIFIER: dict[str, Any] = {
    "bundle_root": ".",
    "network_def": {
        "_target_": "DenseNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "init_features": 16,
        "growth_rate": 8,
        "block_config": [2, 4, 4],
    },
    "preprocessing": PREPROCESSING,
    "inferer": {"_target_": "SimpleInferer"},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
    },
}
SEGMENTER: dict[str, Any] = {
    "bundle_root": ".",
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [8, 16, 32, 64],
        "strides": [2, 2, 2],
        "num_res_units": 2,
    },
    "preprocessing": PREPROCESSING,
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": [48, 48, 48],
        "sw_batch_size": 4,
        "overlap": 0.25,
        "mode": "gaussian",
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        ],
    },
}
SAMPLES = {
    "classifier": Sample(
        name="lesion_classifier",
        config=CLASSIFIER,
        task="Tell whether a skull-stripped T1 brain scan shows a bright lesion",
        classes={"0": "no lesion", "1": "lesion"},
        steps=600,
        learn=learn_classifier,
        measure=measure_classifier,
        required=("accuracy", 0.95),
    ),
    "segmenter": Sample(
        name="lesion_segmenter",
        config=SEGMENTER,
        task="Outline bright lesions in a skull-stripped T1 brain scan",
        classes={"0": "background", "1": "lesion"},
        steps=500,
        learn=learn_segmenter,
        measure=measure_segmenter,
        required=("mean_dice", 0.75),
    ),
}


def metadata(sample: Sample, metrics: dict[str, float], minutes: float) -> dict[str, Any]:
    """Describe the model in MONAI's terms."""
    segments = sample.name.endswith("segmenter")
    patch = sample.config["inferer"].get("roi_size")
    shape = patch or list(lesions.load_brain().tissue.shape)
    output: dict[str, Any] = {
        "type": "image" if segments else "probabilities",
        "format": "segmentation" if segments else "classification",
        "num_channels": 2,
        "spatial_shape": shape if segments else [],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": segments,
        "channel_def": sample.classes,
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": "first version"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": nibabel.__version__},
        "name": sample.name,
        "task": sample.task,
        "description": f"{sample.task}. Trained on synthetic lesions in one averaged brain.",
        "authors": "The napari-xai developers",
        "copyright": "Copyright (c) The napari-xai developers",
        "license": "BSD-3-Clause",
        "intended_use": "demonstration only, not a medical device",
        "data_source": "ICBM 152 2009a nonlinear symmetric T1 average with lesions drawn by lesions.py",
        "data_type": "nibabel",
        "image_classes": "one channel, T1 MRI, skull-stripped, air 0",
        "eval_metrics": metrics,
        "eval_data": f"lesions not trained on: lesions.held_out(seed), seeds from 0, of {TESTED} at most",
        "training_minutes": round(minutes, 1),
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "MR",
                    "num_channels": 1,
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [0, 2],
                    "is_patch_data": patch is not None,
                    "channel_def": {"0": "T1"},
                }
            },
            "outputs": {"pred": output},
        },
    }


def save_bundle(sample: Sample, network: nn.Module, described: dict[str, Any], folder: Path) -> None:
    """Write the bundle: configs, weights, a short README and the licence."""
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in (("metadata", described), ("inference", sample.config)):
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4) + "\n")
    weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
    torch.save(weights, folder / "models" / "model.pt")
    metrics = "\n".join(f"- {name}: {value}" for name, value in described["eval_metrics"].items())
    (folder / "docs" / "README.md").write_text(
        f"# {sample.name}\n\n{sample.task}. A demonstration of explanations: **not a medical device**.\n\n"
        f"Network: MONAI `{sample.config['network_def']['_target_']}`; input: one T1 volume at 2 mm; classes: "
        f"{', '.join(sample.classes.values())}. Trained by `sample_volumes/train.py` on synthetic lesions in the\n"
        f"ICBM 152 average brain. Measured on lesions not trained on:\n\n{metrics}\n"
    )
    licence = Path(__file__).resolve().parent.parent / "LICENSE"
    (folder / "LICENSE").write_text(licence.read_text())


def make(sample: Sample, steps: int, folder: Path) -> None:
    """Train, measure and write one model; a model that is not good enough is not written."""
    torch.manual_seed(0)
    network = ConfigParser(sample.config).get_parsed_content("network_def")
    print(f"{sample.name}: {sum(p.numel() for p in network.parameters())} parameters, {steps} steps")
    start = time.monotonic()
    sample.learn(network, steps)
    minutes = (time.monotonic() - start) / 60
    with torch.no_grad():
        metrics = sample.measure(network, Reader(sample.config))
    print(f"  {minutes:.1f} minutes; {metrics}")
    name, least = sample.required
    if metrics[name] < least:
        raise SystemExit(f"{sample.name}: {name} is {metrics[name]}, and {least} is required; nothing was written")
    save_bundle(sample, network, metadata(sample, metrics, minutes), folder / sample.name)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--only", choices=SAMPLES, help="make one of the two")
    arguments.add_argument("--steps", type=int, help="training steps, for a quick try")
    arguments.add_argument("--folder", type=Path, default=BUNDLES)
    options = arguments.parse_args()
    for kind, sample in SAMPLES.items():
        if options.only in (None, kind):
            make(sample, options.steps or sample.steps, options.folder)


if __name__ == "__main__":
    main()
