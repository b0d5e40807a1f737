"""What the table of conservation requires holds on every network of the zoo, and leaves each network as it was."""

import pytest
import torch
from conservation import METHODS, REQUIREMENTS, measured, of_entry
from zoo import zoo

ENTRIES = {entry.name: entry for entry in zoo()}
SLOW = ("DenseNet121", "SEResNet50", "HighResNet", "SwinUNETR", "SwinUNETR v2", "FlexibleUNet")


@pytest.mark.parametrize("name", ENTRIES)
def test_lrp_keeps_what_is_required_of_it(name, unchanged):
    case = of_entry(ENTRIES[name])
    composites = ["gamma"] if name in SLOW else ["gamma", "z-plus", "epsilon, absorb"]
    with unchanged(case.model.network, case.x):
        rows = measured(name, case, composites)
    assert [row.composite for row in rows if not row.refused] == composites
    for requirement in REQUIREMENTS:
        assert requirement.met(rows), requirement.line(rows)


@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in SLOW])
def test_the_same_question_has_the_same_answer_bit_for_bit(name):
    case = of_entry(ENTRIES[name])
    first, second = (METHODS["gamma"](case.model, case.x, case.target) for _ in range(2))
    assert torch.equal(first.values, second.values)
    assert all(torch.equal(kept, second.absorbed[cause]) for cause, kept in first.absorbed.items())
