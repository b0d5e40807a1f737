"""The rows of a question, without a viewer."""

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs the gui extra")
from napari.layers import Labels, Layer
from qtpy.QtWidgets import QFormLayout, QWidget

from napari_xai._choices import scans
from napari_xai._question_rows import QuestionRows
from napari_xai.layers import scan_layers

pytestmark = pytest.mark.gui


def test_labels_on_another_grid_are_listed_and_say_why_they_are_not_offered(qtbot, scan):
    (one,) = (Layer.create(*layer) for layer in scan_layers(scan))
    there = Labels(np.ones(one.data.shape, np.uint8), affine=one.affine, name="there")
    elsewhere = Labels(np.ones((5, 5, 5), np.uint8), name="elsewhere")
    (chosen,) = scans([one]).values()
    qtbot.addWidget(place := QWidget())
    asked = QuestionRows(QFormLayout(place))
    asked.offer_regions([one, elsewhere, there], chosen)
    model = asked._region.model()
    assert [(model.item(n).text(), model.item(n).isEnabled()) for n in range(model.rowCount())] == [
        ("Where it is predicted", True),
        ("there", True),
        ("elsewhere", False),
    ]
    assert model.item(2).toolTip().startswith("It lies on another grid than the scan: resample it")
    asked.choose(labels=there)
    assert asked.labels is there
    asked.offer_regions([one, elsewhere], chosen)
    assert asked.labels is None
    assert asked._region.currentIndex() == 0
