"""The paper's figures of PSPNet on Cityscapes, shown beside measured ones.

RepVGG (https://arxiv.org/abs/2101.03697), section 4.3. The mIoU of all but B1g2 is in its
text; that one and the speeds are widely quoted and were not checked against its table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's table.

    Attributes:
        miou: mIoU in percent on the validation set.
        speed: Images per second at 713x713, batch 16, float32, on a GTX 1080Ti.
    """

    miou: float
    speed: float


PAPER: dict[str, PaperRow] = {
    'pspnet_repvgg_b1g2_fast_cityscapes': PaperRow(78.88, 10.9),
    'pspnet_r50_cityscapes': PaperRow(77.17, 10.4),
    'pspnet_repvgg_b1g2_cityscapes': PaperRow(78.70, 8.0),
    'pspnet_repvgg_b2_fast_cityscapes': PaperRow(79.52, 6.9),
    'pspnet_r101_cityscapes': PaperRow(78.51, 6.7),
    'pspnet_repvgg_b2_cityscapes': PaperRow(80.57, 4.5),
}
"""Rows by the name of our config."""

R50, R101 = 'pspnet_r50_cityscapes', 'pspnet_r101_cityscapes'


def counterparts(name: str, form: str) -> dict[str, str]:
    """Return the variants with which the paper compares a network.

    Args:
        name: Name of the config.
        form: Name in :data:`~benchmarks.runtimes.FORMS`.

    Returns:
        ``NAME:FORM`` of each counterpart, by its description; empty if the network is not
        in the paper.
    """
    if name not in PAPER:
        return {}
    fast = name.replace('_cityscapes', '_fast_cityscapes')
    found = {
        'ResNet-50 in the same form': f'{R50}:{form}',
        'ResNet-101 in the same form': f'{R101}:{form}',
        'the fast net in the same form': f'{fast}:{form}',
        'its training form': f'{name}:training',
    }
    return {title: key for title, key in found.items() if key != f'{name}:{form}'}


def paper_ratio(name: str, baseline: str) -> float | None:
    """Return the paper's speedup of a config over another, None if unknown."""
    if name not in PAPER or baseline not in PAPER:
        return None
    return PAPER[name].speed / PAPER[baseline].speed
