"""The command line on scans that leave something open, models that bring code, and what is written besides the map."""

import json
import shutil

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from dicom_maker import make_4d, make_series
from identified import SECRETS, identified

from napari_xai.cli import main
from xai_io import Volume, write_nifti

STORED = np.random.default_rng(0).integers(0, 300, (20, 18, 16)).astype(np.uint16)
AFFINE = np.diag([-2.0, -2.0, 2.0, 1])


def run(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def asked(*scans, model, out, method="input-x-gradient"):
    return "explain", *scans, "--model", model, "-m", method, "--out", out


@pytest.fixture
def gap(tmp_path):
    """A series without its fifth slice."""
    make_series(tmp_path / "gap", STORED, AFFINE, edit=lambda k, image: k != 4)
    return tmp_path / "gap"


def test_what_is_open_is_asked_and_the_answer_recorded(gap, segmenter, tmp_path):
    result = run(*asked(gap, model=segmenter, out=tmp_path / "o"))
    assert result.exit_code == 2 and "--on-gap fill" in result.stderr
    result = run(*asked(gap, model=segmenter, out=tmp_path / "o"), "--on-gap", "fill", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["scan"]["shape"] == [20, 18, 16]
    assert any("1 missing slices were interpolated" in note for note in record["scan"]["notes"])


def test_series_are_listed_and_one_is_chosen(gap, segmenter, tmp_path):
    make_series(gap / "second", STORED[:, :, ::-1], AFFINE, series="1.2.3.99")
    listed = json.loads(run("inspect", gap, "--json").stdout)
    assert listed["kind"] == "series" and [one["number"] for one in listed["series"]] == [1, 2]
    assert {one["geometry"] == "regular" for one in listed["series"]} == {True, False}
    shown = run("inspect", gap).stdout
    assert "--series NUMBER" in shown
    number = next(one["number"] for one in listed["series"] if one["geometry"] == "regular")
    assert json.loads(run("inspect", gap, "--series", number, "--json").stdout)["kind"] == "scan"
    assert run(*asked(gap, model=segmenter, out=tmp_path / "o")).exit_code == 2
    assert run(*asked(gap, model=segmenter, out=tmp_path / "o"), "--series", number).exit_code == 0


def test_one_volume_of_a_4d_series(segmenter, tmp_path):
    volumes = np.stack([STORED, STORED + 1000])
    make_4d(tmp_path / "s", volumes, AFFINE, lambda t, k, image: setattr(image, "EchoTime", 10 * (t + 1)))
    result = run(*asked(tmp_path / "s", model=segmenter, out=tmp_path / "o"))
    assert result.exit_code == 2 and "2 channel(s), but the model takes 1" in result.stderr
    assert run(*asked(tmp_path / "s", model=segmenter, out=tmp_path / "o"), "--frame", 2).exit_code == 0


def test_dicom_results_are_asked_for_and_nobodys(segmenter, tmp_path):
    make_series(tmp_path / "Erika Mueller", STORED, AFFINE, edit=identified)
    given = asked(tmp_path / "Erika Mueller", model=segmenter, out=tmp_path / "o")
    result = run(*given, "--export", "pm", "--export", "html", "--with-source", "--json")
    assert result.exit_code == 0, result.output
    assert {"pm", "html", "source"} <= json.loads(result.stdout)["files"].keys()
    printed = result.output.replace(str(tmp_path), "")
    assert not [secret for secret in SECRETS if secret in printed]
    assert run(*given, "--export", "pm", "--keep-identity", "--overwrite").exit_code == 0
    assert pydicom.dcmread(tmp_path / "o" / "parametric_map.dcm").PatientID == "PID-778812"
    assert not (tmp_path / "o" / "source").exists()


def test_dicom_of_a_nifti_is_refused_before_the_model_is_run(segmenter, scan_file, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_xai.explainer.Explainer.explain", lambda *a, **k: pytest.fail("the model was run"))
    result = run(*asked(scan_file, model=segmenter, out=tmp_path / "o"), "--export", "dicom")
    assert result.exit_code == 2 and "not on the grid of a DICOM series" in result.stderr
    result = run(*asked(scan_file, model=segmenter, out=tmp_path / "o"), "--export", "word")
    assert result.exit_code == 2 and "choose from report, dicom" in result.stderr


def test_the_display_of_an_earlier_result_is_used_again(segmenter, scan_file, tmp_path):
    record = json.loads(run(*asked(scan_file, model=segmenter, out=tmp_path / "a"), "--json").stdout)
    preset = {**record["display"], "window": [5.0, 50.0], "opacity": 0.5}
    (tmp_path / "preset.json").write_text(json.dumps(preset))
    again = asked(scan_file, model=segmenter, out=tmp_path / "b")
    found = json.loads(run(*again, "--display", tmp_path / "preset.json", "--json").stdout)
    assert found["display"] == preset
    found = json.loads(run(*again, "--overwrite", "--display", tmp_path / "b" / "provenance.json", "--json").stdout)
    assert found["display"] == preset
    (tmp_path / "look.json").write_text(json.dumps({"display": preset, "filters": {"smoothing_mm": 6.0}}))
    result = run(*again, "--overwrite", "--display", tmp_path / "look.json", "--json")
    assert json.loads(result.stdout)["display"] == preset
    assert "pictures show the map itself" in " ".join(result.stderr.split())
    result = run(*again, "--overwrite", "--display", "sepia")
    assert result.exit_code == 2 and "lung" in result.stderr


def test_many_scans_get_their_exports_too(segmenter, scan_file, tmp_path):
    make_series(tmp_path / "s", STORED, AFFINE, edit=identified)
    given = asked(tmp_path / "s", scan_file, model=segmenter, out=tmp_path / "o")
    result = run(*given, "--export", "seg", "--json")
    first, second = json.loads(result.stdout)["scans"]
    assert (first["status"], second["status"]) == ("done", "failed")
    assert "not on the grid of a DICOM series" in second["error"]
    assert (tmp_path / "o" / "0001" / "segmentation.dcm").exists()
    text = (tmp_path / "o" / "manifest.json").read_text()
    assert "JaneDoe" not in text and not [secret for secret in SECRETS if secret in text]


def test_a_scan_for_each_channel(tmp_path):
    import torch
    from torch import nn

    class Two(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0].mean((1, 2, 3)), (x[:, 1] * x[:, 0]).mean((1, 2, 3))], 1)

    torch.jit.script(Two()).save(tmp_path / "two.ts")
    for n, name in enumerate(("0000", "0001")):
        data = np.random.default_rng(n).random((1, 6, 6, 6), dtype=np.float32)
        write_nifti(tmp_path / f"case_{name}.nii.gz", Volume(data, np.eye(4)))
    pairs = [f"--channel={name}={tmp_path / f'case_{name}.nii.gz'}" for name in ("0000", "0001")]
    result = run(*asked(model=tmp_path / "two.ts", out=tmp_path / "o"), *pairs, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["scan"]["channels"] == 2
    result = run(*asked(tmp_path / "case_0000.nii.gz", model=tmp_path / "two.ts", out=tmp_path / "p"), *pairs)
    assert result.exit_code == 2 and "Give SCANS, or one scan with --channel" in result.stderr
    result = run(*asked(model=tmp_path / "two.ts", out=tmp_path / "p"), "--channel", "T1")
    assert result.exit_code == 2 and "NAME=PATH" in result.stderr


def test_trust_is_given_remembered_and_taken_back(segmenter, scan_file, tmp_path):
    bundle = shutil.copytree(segmenter, tmp_path / "bundle")
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    config["network_def"]["out_channels"] = "$__import__('math').floor(2.5)"
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    given = asked(scan_file, model=bundle, out=tmp_path / "o")
    result = run(*given)
    assert result.exit_code == 2 and "out_channels" in result.stderr
    assert "network_def::out_channels" in run("inspect", bundle).stdout.replace("\n", "")
    assert "out_channels" in run("trust", bundle).stdout
    assert run(*given, "--json").exit_code == 0
    assert json.loads((tmp_path / "o" / "provenance.json").read_text())["model"]["code that was run"]
    assert "any longer" in run("trust", bundle, "--forget").stdout
    assert run(*given, "--overwrite").exit_code == 2
    assert run(*given, "--overwrite", "--trust").exit_code == 0
    assert run(*given, "--overwrite").exit_code == 2
    assert "needs no trust" in run("trust", segmenter).stdout
