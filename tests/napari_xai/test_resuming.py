"""A checkpoint on the disk: written when a run ends early, read when it starts again, gone when it is through."""

import pytest
import torch

from methods3d import Cancelled, Occlusion
from napari_xai import Explainer, explain
from napari_xai.errors import ExplainError

METHOD = Occlusion(size=12.0, stride=12.0, levels=1)


def stop_after(count):
    def stop(done, total, partial=None):
        if done >= count and total > count:
            raise Cancelled("enough")

    return stop


def interrupted(model, scan, path, method=METHOD):
    with pytest.raises(Cancelled):
        explain(scan, model, method=method, target="lesion", checkpoint=path, progress=stop_after(8))


@pytest.mark.parametrize("bundle", ["classifier", "segmenter"])
def test_a_run_goes_on_from_its_checkpoint(bundle, request, scan, tmp_path):
    model, path = request.getfixturevalue(bundle), tmp_path / "run.checkpoint"
    straight = explain(scan, model, method=METHOD, target="lesion")
    interrupted(model, scan, path)
    assert path.exists()
    assert path.stat().st_size < 100_000  # scores, and nothing of the scan
    found = explain(scan, model, method=METHOD, target="lesion", checkpoint=path)
    assert abs(found.relevance.data - straight.relevance.data).max() < 1e-5
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []


def test_another_runs_checkpoint_is_refused(classifier, scan, tmp_path):
    path = tmp_path / "run.checkpoint"
    interrupted(classifier, scan, path)
    explainer = Explainer.of(classifier)
    for other in (
        {"scan": scan.with_data(scan.data + 1)},
        {"method": Occlusion(size=12.0, stride=11.0, levels=1)},
        {"target": "no lesion"},
    ):
        asked = {"scan": scan, "method": METHOD, "target": "lesion"} | other
        with pytest.raises(ExplainError, match="is a checkpoint of another run"):
            explainer.explain(**asked, checkpoint=path)
    with pytest.raises(ExplainError, match="is a checkpoint of another run"):
        Explainer.of(classifier, autocast=torch.bfloat16).explain(scan, method=METHOD, target="lesion", checkpoint=path)
    assert path.exists()


def test_a_checkpoint_that_could_not_be_written_is_refused_first(classifier, scan, tmp_path):
    with pytest.raises(ExplainError, match="its folder does not exist"):
        interrupted(classifier, scan, tmp_path / "nowhere" / "run.checkpoint")


def test_interrupted_while_it_is_measured_nothing_is_lost(classifier, scan, tmp_path):
    path, heard = tmp_path / "run.checkpoint", []

    def stop(done, total, partial=None):
        heard.append((done, total))
        if done > 0.6 * total and total == 2000:  # the second half is the curves
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        explain(scan, classifier, method=METHOD, target="lesion", checkpoint=path, measure=True, progress=stop)
    assert path.exists()
    shares = [done / total for done, total in heard if total == 2000]
    assert shares == sorted(shares)  # one bar for both


def test_a_damaged_checkpoint_is_refused(classifier, scan, tmp_path):
    path = tmp_path / "run.checkpoint"
    path.write_bytes(b"not one of ours")
    with pytest.raises(ExplainError, match="no checkpoint of this program, or is damaged"):
        explain(scan, classifier, method=METHOD, target="lesion", checkpoint=path)
