"""A training step is measured in time and memory."""

from benchmarks.training_step import FORMS, build_step, training_table

ARCH = dict(depths=(1, 1, 1, 1), a=0.25, b=0.25)


def test_table_compares_each_form_with_the_first():
    forms = dict(repvgg={}, plain=dict(block='plain'))
    table = training_table(ARCH, (2, 3, 32, 32), rounds=3, forms=forms)
    (first, second) = table.rows
    assert (first[0], second[0]) == ('repvgg', 'plain')
    assert first[2] == '1.00 (1.00 to 1.00)'
    assert first[4] == '1.00'
    assert float(second[3]) > 0


def test_forms_compute_the_same_training(one_thread):
    _, *ours = FORMS.values()
    steps = [build_step(ARCH, options, (2, 3, 32, 32)) for options in ours]
    losses = [[step() for _ in range(3)] for step in steps]
    assert losses[0] == losses[1] == losses[2]
    assert len(set(losses[0])) == 3
