import torch
from mmseg.registry import MODELS

from mmseg_repvgg.export.graph import SegmentorGraph
from mmseg_repvgg.export.metadata import describe
from mmseg_repvgg.export.verify import reference, smooth_noise


def test_normalize_matches_the_data_preprocessor(cfg, model):
    for flip in ('bgr_to_rgb', 'rgb_to_bgr', None):
        preprocessor = cfg.model.data_preprocessor
        preprocessor.update(bgr_to_rgb=False, rgb_to_bgr=False)
        if flip:
            preprocessor[flip] = True
        facts = describe(cfg, model, output='logits', shape=(1, 3, 8, 8), normalize=True)
        model.data_preprocessor = MODELS.build(preprocessor)
        images = smooth_noise(2, 16, 24)
        expected, _ = reference(model, images)
        graph = SegmentorGraph(model, facts)
        assert torch.equal(graph.normalize(torch.from_numpy(images)), expected)
        assert facts.channels == ('RGB' if flip == 'rgb_to_bgr' else 'BGR')
