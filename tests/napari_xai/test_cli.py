"""The command line: what it prints, where it writes, and how it refuses."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from methods3d import composite, methods
from methods3d import method as method_named
from napari_xai.cli import main
from napari_xai.cli.method_flags import MethodFlags
from xai_io import write_nifti


def run(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def test_methods_lists_them_all():
    found = json.loads(run("methods", "--json").stdout)
    assert [row["name"] for row in found] == list(methods())
    assert all(row["summary"] and row["source"] for row in found)
    assert "integrated-gradients" in run("methods").stdout


def test_explain_writes_the_map_and_prints_the_record(classifier, scan_file, tmp_path):
    result = run(
        "explain",
        scan_file,
        "--model",
        classifier,
        "-m",
        "saliency",
        "--no-absolute",
        "--out",
        tmp_path / "o",
        "--json",
    )
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["parameters"] == {"absolute": False}
    image = nib.load(record["files"]["relevance"])
    assert np.asanyarray(image.dataobj).min() < 0
    assert np.allclose(image.affine, nib.load(scan_file).affine, atol=1e-5)


def test_a_methods_fields_are_its_flags(classifier):
    help_text = run("explain", "--method", "occlusion", "--help").stdout
    assert all(flag in help_text for flag in ("--size", "--stride", "--unit", "--fill", "--levels"))
    assert "--composite" not in help_text
    assert "--composite" in run("explain", "--help").stdout


def test_a_method_made_of_another_has_the_others_flags_too(classifier, scan_file, tmp_path):
    help_text = run("explain", "-m", "smoothgrad", "--of=lrp", "--help").stdout
    assert all(flag in help_text for flag in ("--samples", "--noise", "--of.composite", "--of.bias"))
    asked = ["-m", "smoothgrad", "--of", "saliency", "--of.no-absolute", "--samples", "2", "--out", tmp_path / "o"]
    result = run("explain", scan_file, "--model", classifier, *asked, "--json")
    assert result.exit_code == 0, result.output
    parameters = json.loads(result.stdout)["parameters"]
    assert parameters["of"] == {"method": "saliency", "absolute": False}
    assert parameters["samples"] == 2


def test_volumes_are_named_by_their_paths_and_recorded_by_their_content(segmenter, scan, scan_file, tmp_path):
    write_nifti(tmp_path / "JaneDoe_organs.nii.gz", scan.with_data((scan.data > 90).astype(np.uint8) * 4))
    place = str(tmp_path / "JaneDoe_organs.nii.gz")
    for n, asked in enumerate(
        (
            ["ablation", "--features", f"labels:{place}", "--fill", "neighbours"],
            ["integrated-gradients", "--baseline", f"inpaint:{place}", "--steps", "2"],
            ["expected-gradients", "--baselines", f"scan:{scan_file}; tissue", "--samples", "2"],
        )
    ):
        result = run("explain", scan_file, "--model", segmenter, "--out", tmp_path / str(n), "-m", *asked, "--json")
        assert result.exit_code == 0, result.output
        assert "sha256" in json.dumps(json.loads(result.stdout)["parameters"])
        assert "JaneDoe" not in json.dumps(json.loads(result.stdout)["parameters"])


def test_a_map_is_measured_on_request(segmenter, scan_file, tmp_path):
    asked = ["explain", scan_file, "--model", segmenter, "-m", "input-x-gradient", "--out", tmp_path / "o"]
    record = json.loads(run(*asked, "--measure", "--json").stdout)
    found = record["faithfulness"]
    assert len(found["shares"]) == len(found["deletion curve"]) == len(found["insertion curve"])
    assert found["settings"] == {"blank": "tissue", "points": 16, "controls": 3, "seed": 0}
    assert len(found["deletion, random maps"]) == 3
    assert "deletion" in run(*asked, "--measure", "--overwrite").stdout
    assert "faithfulness" not in json.loads(run(*asked, "--overwrite", "--json").stdout)


def test_a_neuron_is_explained(classifier, scan_file, tmp_path):
    asked = ["explain", scan_file, "--model", classifier, "-m", "saliency", "--out", tmp_path / "o", "--json"]
    record = json.loads(run(*asked, "--neuron", "features.denseblock1:2").stdout)
    assert record["question"] == "what drives channel 2 of features.denseblock1"
    assert run(*asked, "--neuron", "features.denseblock1:999", "--overwrite").exit_code == 2


def test_a_neuron_is_asked_with_a_method_that_has_a_unit(classifier, scan_file, tmp_path):
    asked = ["explain", scan_file, "--model", classifier, "-m", "occlusion", "--unit", "mm", "--levels", "1"]
    asked += ["--size", "20", "--stride", "20", "--neuron", "features.denseblock1:2", "--out", tmp_path / "o", "--json"]
    assert "channel 2" in json.loads(run(*asked).stdout)["question"]


def test_no_methods_flag_is_the_commands_own():
    own = {flag for option in main.commands["explain"].params for flag in option.opts}
    for name in methods():
        options = MethodFlags(method_named(name), []).options
        assert not own & {flag for option in options for flag in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("asked", [["-msaliency"], ["-m", "lrp", "--method=saliency"], ["--method", "saliency"]])
def test_the_method_is_the_one_that_is_named(asked, classifier, scan_file, tmp_path):
    asked = [*asked, "--no-absolute", "--out", tmp_path / "o", "--json"]
    result = run("explain", scan_file, "--model", classifier, *asked)
    assert json.loads(result.stdout)["method"] == "saliency"


def test_the_record_says_how_the_network_was_run(segmenter, scan_file, tmp_path):
    asked = ["explain", scan_file, "--model", segmenter, "-m", "saliency", "--out", tmp_path / "o", "--overwrite"]
    records = [
        json.loads(run(*asked, *more, "--json").stdout)
        for more in ([], ["--window", "none"], ["--overlap", "0.5"], ["--window", "8", "--autocast", "bfloat16"])
    ]
    windows = [record["running"]["windows"] for record in records]
    assert windows[1] is None
    assert windows[2] == windows[0] | {"overlap": [0.5] * 3}  # the rest is the bundle's
    assert windows[3] == windows[0] | {"roi_size": [8] * 3}
    assert [record["running"]["autocast"] for record in records] == [None, None, None, "bfloat16"]
    assert all("RegionScore" in record["target"] for record in records)
    assert {record["prediction_unit"] for record in records} == {"mm3"}


def test_earlier_results_are_refused_before_any_work(scan_file, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "montage.png").write_bytes(b"kept")
    result = run("explain", scan_file, "--model", tmp_path / "not looked for", "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert "holds montage.png already" in result.stderr


def test_every_method_runs_on_the_samples_dense_and_in_windows():
    result = run("demo", "--all", "--quick", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert {(row["model"], row["method"]) for row in rows} == {
        (model, name) for model in ("classifier", "segmenter", "segmenter, dense") for name in methods()
    }
    refused = {(row["model"], row["method"]): row["refused"] for row in rows if row["refused"]}
    assert set(refused) == {("segmenter", "cam"), ("segmenter, dense", "cam")}
    assert all(sentence.endswith(".") for sentence in refused.values())
    found = {row["method"] for row in rows if row["peak_in_lesion"]}
    assert {"saliency", "lrp", "deeplift", "integrated-gradients", "fullgrad"} <= found
    assert "random" not in found


def test_many_scans_leave_a_manifest(classifier, scan_file, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"not a scan")
    result = run("explain", scan_file, bad, "--model", classifier, "-m", "saliency", "--out", tmp_path / "o")
    assert result.exit_code == 1
    assert "done" in result.stdout
    assert "failed" in result.stdout
    assert (tmp_path / "o" / "0001" / "montage.png").exists()


def test_inspect_tells_what_a_scan_and_a_model_are(classifier, segmenter, scan_file):
    scan = json.loads(run("inspect", scan_file, "--json").stdout)
    assert scan["kind"] == "scan"
    assert scan["voxels"] == [26, 24, 14]
    assert scan["oblique by degrees"] == pytest.approx(np.degrees(0.2), abs=0.1)
    model = json.loads(run("inspect", classifier, "--json").stdout)
    assert model["kind"] == "model"
    assert model["classes"] == ["0: no lesion", "1: lesion"]
    steps = [line.partition(":")[0] for line in model["preprocessing"]]
    assert steps == ["Orientationd", "Spacingd", "ScaleIntensityd"]
    assert any(line.startswith("features.denseblock1") for line in model["layers"])
    assert "16" in run("inspect", segmenter).stdout
    assert "JaneDoe" not in run("inspect", scan_file).stdout


@pytest.mark.parametrize("model", ["classifier", "segmenter"])
def test_inspect_follows_relevance_through_a_model(model, scan_file, request):
    bundle = request.getfixturevalue(model)
    on_noise = json.loads(run("inspect", bundle, "--lrp", "--json").stdout)
    on_scan = json.loads(run("inspect", bundle, "--lrp", "--scan", scan_file, "--bias", "absorb", "--json").stdout)
    for report in (on_noise, on_scan):
        accounted = report["sum of relevance"] + sum(report["absorbed"].values())
        size = abs(report["score"]) + sum(abs(kept) for kept in report["absorbed"].values())
        assert accounted == pytest.approx(report["score"], abs=1e-4 * size)
        sites = report["sites"]
        assert any(site["function"] == "conv3d" and site["rule"] == "gamma" and site["layer"] for site in sites)
        for site in sites:
            kept = sum(site["absorbed"].values())
            assert site["received"] == pytest.approx(site["handed on"] + kept, abs=1e-3 * size)
    assert "noise" in on_noise["question"]
    printed = run("inspect", bundle, "--lrp", "--composite", "epsilon-plus; first: flat").stdout
    assert "reached the scan" in printed
    assert "flat" in printed


def test_composites_are_listed_with_their_rules():
    found = json.loads(run("composites", "--json").stdout)
    assert {"gamma", "epsilon-plus", "lrp-cmp", "deep-taylor", "attnlrp"} <= {row["name"] for row in found}
    for row in found:
        assert str(composite(row["rules"])) == row["rules"]
        assert row["reason"]
    assert "alpha-beta(2, 1)" in run("composites").stdout.replace("\n", "")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["inspect", "{bundle}", "--composite", "epsilon"], "--composite belongs to the report on LRP"),
        (["inspect", "{bundle}", "--lrp", "--target", "lesion"], "give --scan as well"),
        (["inspect", "{bundle}", "--lrp", "--composite", "gama"], "There is no rule 'gama'"),
        (["inspect", "{bundle}", "--lrp", "--composite", "head: flat; gamma"], "which the network does not have"),
        (["explain", "{scan}", "--model", "{bundle}", "--composite", "pool: gamma"], "serves conv, linear, not pool"),
        (["explain", "nowhere.nii.gz", "--model", "{bundle}"], "does not exist"),
        (["explain", "{scan}", "--model", "nowhere"], "does not exist"),
        (["explain", "{scan}", "--model", "{bundle}", "-m", "nonsense"], "There is no method 'nonsense'"),
        (
            ["explain", "{scan}", "--model", "{bundle}", "-m", "occlusion", "--stride", "0"],
            "stride is 0.0, but has to be above 0",
        ),
        (["explain", "{scan}", "--model", "{bundle}", "--target", "glioma"], "There is no class 'glioma'"),
        (["explain", "{scan}", "--model", "{bundle}", "--neuron", "features"], "give a layer's name and a channel"),
        (["explain", "{scan}", "--model", "{bundle}", "--memory", "lots"], "memory is 'lots': give a size above zero"),
        (["explain", "{scan}", "--model", "{bundle}", "-m", "ablation", "--features", "labels:x"], "does not exist"),
        (["explain", "{scan}", "--model", "{bundle}", "-m", "deeplift", "--baseline", "fog"], "'fog' is not known"),
        (["explain", "{scan}", "--model", "{bundle}", "-m", "smoothgrad", "--of", "x"], "There is no method 'x'"),
        (["explain", "{scan}", "{scan}", "--model", "{bundle}", "--measure"], "explain the scans one by one"),
        (["explain", "{scan}", "--model", "{bundle}", "--window", "a,b"], "give one number, three as I,J,K"),
        (["inspect", "nowhere"], "does not exist"),
    ],
)
def test_a_users_error_is_one_sentence_and_exit_code_2(args, sentence, classifier, scan_file, tmp_path):
    args = [a.format(bundle=classifier, scan=scan_file) for a in args]
    result = run(*args, *(["--out", tmp_path / "o"] if args[0] == "explain" else []))
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "o").exists()


def test_results_are_kept_unless_overwritten(classifier, scan_file, tmp_path):
    args = ["explain", scan_file, "--model", classifier, "-m", "saliency", "--out", tmp_path / "o"]
    assert run(*args).exit_code == 0
    assert run(*args).exit_code == 2
    assert run(*args, "--overwrite").exit_code == 0


def test_the_command_is_installed():
    found = subprocess.run(
        [sys.executable, "-m", "napari_xai", "--version"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0
    assert "0.1.0" in found.stdout
