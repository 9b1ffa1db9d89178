"""Formulas of blocks: what is read from them, and what is refused."""

import pytest

from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.reparam.formulas import BLOCKS, parse


def test_branches_and_norm_are_read():
    formula = parse('(3x3-bn + 1x1 + identity-scale-relu)-bn')
    assert formula.branches == (
        ('3x3', 'bn'),
        ('1x1',),
        ('identity', 'scale', 'relu'),
    )
    assert formula.norm
    assert not parse('3x3-bn + 1x1-bn').norm


def test_name_stands_for_its_formula():
    assert parse('qarepvgg') == parse('(3x3-bn + 1x1 + identity)-bn')


@pytest.mark.parametrize('name', BLOCKS)
def test_every_block_has_a_3x3_kernel_and_one_has_a_relu(name):
    formula = parse(name)
    assert formula.kernel == (3, 3)
    assert formula.fuses == (name != 'relu_in_branches')


@pytest.mark.parametrize(
    'bad',
    [
        'vgg',
        '',
        '5x5-bn',
        '3x3-gn',
        '3x3-bn-relu-bn',
        'bn-3x3',
        '3x3-bn + ',
        '((3x3)-bn + 1x1)-bn',
        'identity-bn',
        3,
    ],
)
def test_what_is_no_formula_is_refused_with_the_words(bad):
    with pytest.raises(ConfigError, match='block must be one of repvgg, .*begin with'):
        parse(bad)
