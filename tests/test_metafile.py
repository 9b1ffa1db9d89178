"""The metafiles agree with the configs and with the measured results."""

from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from repvgg_runtime.configs import config_files

REPO = Path(__file__).parents[1]
DATA = {
    'CityscapesDataset': 'Cityscapes',
    'CamVidDataset': 'CamVid',
    'FolderDataset': 'a folder of your own',
    'ImageNet': 'ImageNet',
}
HEADS = {
    'PSPHead': 'PSPNet',
    'FCNHead': 'FCN',
    'DepthwiseSeparableASPPHead': 'DeepLabV3+',
    'UPerHead': 'UPerNet',
    'SegformerHead': 'SegFormer',
}
TITLES = {'repvgg': 'RepVGG', 'qarepvgg': 'QARepVGG', 'mobileone': 'MobileOne'}
PARTS = [
    yaml.safe_load((REPO / path).read_text())
    for path in yaml.safe_load((REPO / 'model-index.yml').read_text())['Import']
]
COLLECTIONS = {each['Name'] for part in PARTS for each in part['Collections']}
MODELS = [model for part in PARTS for model in part['Models']]


def test_every_config_is_listed_once():
    leaves = sorted(str(file.relative_to(REPO)) for file in config_files().values())
    assert sorted(model['Config'] for model in MODELS) == leaves


@pytest.mark.parametrize('model', MODELS, ids=[model['Name'] for model in MODELS])
def test_metadata_is_that_of_the_config(model):
    cfg = Config.fromfile(REPO / model['Config'])
    assert model['Name'] == Path(model['Config']).stem
    assert model['In Collection'] in COLLECTIONS
    facts, dataset = model['Metadata'], cfg.train_dataloader.dataset
    drawn = dataset.get('data_root') == 'data/street'
    data = 'drawn street scenes' if drawn else DATA[dataset.type]
    assert facts['Training Data'] == data
    assert facts['Architecture'] == [backbone_name(cfg), head_name(cfg)]
    assert facts['Batch Size'] == cfg.auto_scale_lr.base_batch_size
    assert facts['Iterations'] == cfg.train_cfg.max_iters
    crops = [
        step.get('crop_size') or (step.scale, step.scale)
        for step in dataset.pipeline
        if step.type in ('RandomCrop', 'RandomResizedCrop')
    ]
    assert ['x'.join(map(str, crop)) for crop in crops] == [facts['Crop Size']]
    assert cfg.model.data_preprocessor.get('size', crops[0]) == crops[0]


def backbone_name(cfg):
    backbone = cfg.model.backbone
    if backbone.type not in ('RepVGG', 'mmseg.RepVGG'):
        return f'ResNet-{backbone.depth}'
    dilation = backbone.get('dilation', 'full')
    suffix = {'full': '', None: '-undilated'}.get(dilation, f'-{dilation}')
    block = backbone.get('block', 'repvgg') + '-residual' * backbone.get(
        'residual', False
    )
    return f'{TITLES.get(block, block)}-{backbone.arch}{suffix}'


def head_name(cfg):
    if 'head' in cfg.model:
        return 'classifier'
    return 'FastFCN' if 'neck' in cfg.model else HEADS[cfg.model.decode_head.type]


def test_results_are_those_of_the_documentation():
    readme = (REPO / 'README.md').read_text()
    measured = (REPO / 'docs/results.md').read_text()
    assert any(model.get('Results') for model in MODELS)
    for model in MODELS:
        for result in model.get('Results', []):
            miou = result['Metrics']['mIoU']
            if result['Dataset'] == 'CamVid':
                row = f'| {model["Metadata"]["Architecture"][0]} | – | {miou:.1f} |'
                assert row in readme
            else:
                assert f'| {miou} and {miou} |' in measured
