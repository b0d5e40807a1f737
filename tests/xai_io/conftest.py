"""Makers of scans and bundles, small and with a known truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dicom_maker import make_series


def rotation(*degrees: float) -> np.ndarray:
    """Rotation about x, then y, then z."""
    x, y, z = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def affine_of(axes: np.ndarray, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = axes @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def make_bundle(
    root: Path, *, config=None, metadata=None, weights=None, config_name="inference.json", **changes
) -> Path:
    """Write a MONAI bundle: a tiny UNet in windows, with the forms that configs have in the wild."""
    import torch
    import yaml
    from monai.networks.nets import UNet

    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    if config is None:
        config = {
            "imports": ["$import glob", "$import os"],
            "bundle_root": ".",
            "image_key": "image",
            "label_names": {"background": 0, "liver": 1, "spleen": 2},
            "output_dir": "$@bundle_root + '/eval'",
            "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
            "datalist": "$list(sorted(glob.glob(@bundle_root + '/*.nii.gz')))",
            "network_def": {
                "_target_": "UNet",
                "spatial_dims": 3,
                "in_channels": 1,
                "out_channels": "$len(@label_names)",
                "channels": [2, 4],
                "strides": [2],
            },
            "network": "$@network_def.to(@device)",
            "preprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "LoadImaged", "keys": "@image_key", "reader": "$scripts.Reader"},
                    {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
                    {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
                    {"_target_": "Spacingd", "keys": ["@image_key"], "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
                    {
                        "_target_": "monai.transforms.ScaleIntensityRanged",
                        "keys": "@image_key",
                        "a_min": -57,
                        "a_max": 164,
                        "b_min": 0,
                        "b_max": 1,
                        "clip": True,
                    },
                    {"_target_": "EnsureTyped", "keys": "@image_key", "device": "@device"},
                    {"_target_": "RandFlipd", "keys": "@image_key", "_disabled_": True},
                ],
            },
            "inferer": {
                "_target_": "SlidingWindowInferer",
                "roi_size": [16, 16, 16],
                "sw_batch_size": 4,
                "overlap": 0.5,
                "mode": "gaussian",
                "device": "@device",
            },
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                    {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
                    {"_target_": "AsDiscreted", "keys": ["pred", "label"], "argmax": [True, False]},
                    {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
                ],
            },
        }
    config = {**config, **changes}
    if metadata is None:
        metadata = {
            "name": "Spleen CT segmentation",
            "task": "Decathlon spleen segmentation",
            "network_data_format": {
                "inputs": {
                    "image": {
                        "modality": "CT",
                        "num_channels": 1,
                        "spatial_shape": [96, 96, 96],
                        "channel_def": {"0": "image"},
                    }
                },
                "outputs": {
                    "pred": {
                        "format": "segmentation",
                        "num_channels": 3,
                        "channel_def": {"0": "background", "1": "liver", "2": "spleen"},
                    }
                },
            },
        }
    text = json.dumps(config) if config_name.endswith(".json") else yaml.safe_dump(config)
    (root / "configs" / config_name).write_text(text)
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    if weights is None:
        torch.manual_seed(0)
        weights = UNet(3, 1, 3, (2, 4), (2,)).state_dict()
    torch.save(weights, root / "models" / "model.pt")
    return root


@pytest.fixture
def series():
    return make_series


@pytest.fixture
def bundle():
    return make_bundle


@pytest.fixture
def rotate():
    return rotation


@pytest.fixture
def placed():
    return affine_of
