"""Damaged files of every format beside DICOM: a typed error or a volume, quickly, never anything else."""

import shutil
import time

import numpy as np
import pytest
from mutations import mutated, seeds

from xai_io import XaiIOError, read_volume, sniff

CASES = 30  # of each kind; 300 of each have been run by hand


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return seeds(tmp_path_factory.mktemp("fuzz") / "seeds", np.random.default_rng(0))


@pytest.mark.filterwarnings("ignore")
def test_damage_is_typed_and_quick(sound, tmp_path):
    for path in sound.values():
        assert sniff(path) and read_volume(path).shape in ((4, 5, 6), (6, 5, 4))
    rng = np.random.default_rng(1)
    outcomes = {name: {"read": 0, "refused": 0} for name in sound}
    for name, path in sound.items():
        for _ in range(CASES):
            target = tmp_path / f"a{path.suffix}"
            mutated(path, target, rng)
            start = time.perf_counter()
            sniff(target)
            try:
                read_volume(target)
                outcomes[name]["read"] += 1
            except XaiIOError:
                outcomes[name]["refused"] += 1
            assert time.perf_counter() - start < 5
            shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert all(outcome["refused"] > CASES / 5 for outcome in outcomes.values()), outcomes
