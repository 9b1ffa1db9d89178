"""Forms are timed by turns, and compared with the first one."""

import numpy as np

from repvgg_runtime.forms import time_forms


def test_forms_run_by_turns_and_agree_with_the_first():
    ran = []

    def form(name, labels):
        def run(image):
            assert image.shape == (2, 4, 3)
            ran.append(name)
            return labels

        return run

    first = np.array([[0, 1, 2, 3], [4, 5, 6, 7]], np.uint8)
    other = np.where(first < 2, 9, first)
    forms = {'first': form('first', first), 'other': form('other', other)}
    found = time_forms(forms, np.zeros((2, 4, 3), np.uint8), repeats=2)
    assert ran == ['first', 'other'] * 3
    assert [(each.name, each.agreement) for each in found] == [
        ('first', 1),
        ('other', 0.75),
    ]
    assert all(each.seconds > 0 for each in found)
