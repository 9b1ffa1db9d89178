"""Key names of other projects: their real classes, wrappers, and what is refused."""

import pytest
import recording
import torch
from torch import nn
from torch.nn import functional as F

from mmseg_repvgg import RepVGG, deploy
from mmseg_repvgg.checkpoints.files import read_checkpoint
from mmseg_repvgg.checkpoints.key_names import (
    LAYOUTS,
    Recognised,
    from_native,
    recognise,
    to_native,
)
from mmseg_repvgg.checkpoints.state_dict import extract_state_dict
from mmseg_repvgg.errors import CheckpointError, ConfigError

TINY = dict(depths=(1, 2, 3, 1), a=0.25, b=0.25)
FORMS = ('training', 'fused')
FIRST_KEY = {
    ('mmseg_repvgg', 'training'): 'stem.conv.branch_3x3.conv.weight',
    ('mmseg_repvgg', 'fused'): 'stem.conv.weight',
    ('official', 'training'): 'stage0.se.down.weight',
    ('official', 'fused'): 'stage0.se.down.weight',
    ('mmpretrain', 'training'): 'backbone.stem.branch_3x3.conv.weight',
    ('mmpretrain', 'fused'): 'backbone.stem.branch_reparam.weight',
    ('timm', 'training'): 'stem.conv_kxk.conv.weight',
    ('timm', 'fused'): 'stem.reparam_conv.weight',
}


@pytest.fixture(name='native')
def _native(randomize_norms):
    """Our state dict of a small net with groups and SE, in both forms."""
    model = randomize_norms(RepVGG(dict(TINY, groups=2, se=True)))
    return {'training': model.state_dict(), 'fused': deploy(model).state_dict()}


def assert_same(a, b):
    assert list(a) == list(b)
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


# Recordings of the real classes -----------------------------------------------------

RECORDED = [
    pytest.param(layout, arch, form, id=f'{layout}-{arch}-{form}')
    for layout in ('timm', 'mmpretrain')
    for arch in ('A0', 'B1g4', 'D2se')
    for form in FORMS
]


@pytest.mark.parametrize(('layout', 'arch', 'form'), RECORDED)
def test_recorded_keys_are_consumed_exactly(layout, arch, form):
    shapes = recording.read(f'{layout}_{arch}_{form}')['keys']
    theirs = {key: torch.empty(shape, device='meta') for key, shape in shapes.items()}
    with torch.device('meta'):
        ours = RepVGG(arch, deploy=form == 'fused').state_dict()
    native = to_native(theirs)
    prefix = 'backbone.' if layout == 'mmpretrain' else ''
    assert native.recognised == Recognised(layout, form, prefix)
    assert native.classifier == ('head.fc.weight', 'head.fc.bias')
    assert native.rest == {}
    assert [(k, v.shape) for k, v in native.backbone.items()] == [
        (k, v.shape) for k, v in ours.items()
    ]
    classifier = {key: theirs[f'head.fc.{key}'] for key in ('weight', 'bias')}
    back = from_native(native.backbone, layout, classifier)
    assert all(back[key] is value for key, value in theirs.items())
    assert len(back) == len(theirs)
    if form == 'training':
        # A fused block of the real class has its parts in the order of their creation.
        assert list(back) == list(theirs)


@pytest.mark.parametrize(
    ('layout', 'arch', 'form'),
    [
        pytest.param(*p.values, id=p.id, marks=[pytest.mark.slow] * ('A0' not in p.id))
        for p in RECORDED
        # mmpretrain's fused D2se leaves out its SE and computes something else.
        if p.id not in ('mmpretrain-D2se-fused', 'timm-D2se-fused')
    ],
)
def test_recorded_outputs_are_reproduced(layout, arch, form):
    recorded = recording.read(f'{layout}_{arch}_{form}')
    backbone = to_native(recording.fill(recorded['keys'])).backbone
    with torch.device('meta'):
        model = RepVGG(arch, dilation=None, deploy=form == 'fused')
    model.load_state_dict(backbone, strict=True, assign=True)
    with torch.no_grad():
        outputs = model.double().eval()(recording.image())
    for output, of_theirs in zip(outputs, recorded['outputs'], strict=True):
        assert recording.difference(output, of_theirs) < 1e-8


# A copy of the author's net, which no package provides -------------------------------


class AuthorsBlock(nn.Module):
    def __init__(self, width_in, width, stride, groups, se, fused):
        super().__init__()
        if se:
            self.se = nn.ModuleDict(
                {
                    'down': nn.Conv2d(width, width // 16, 1),
                    'up': nn.Conv2d(width // 16, width, 1),
                }
            )
        if fused:
            self.rbr_reparam = nn.Conv2d(
                width_in, width, 3, stride, padding=1, groups=groups
            )
            return
        if width_in == width and stride == 1:
            self.rbr_identity = nn.BatchNorm2d(width)
        for name, size in (('rbr_dense', 3), ('rbr_1x1', 1)):
            conv = nn.Conv2d(
                width_in, width, size, stride, size // 2, groups=groups, bias=False
            )
            branch = nn.ModuleDict({'conv': conv, 'bn': nn.BatchNorm2d(width)})
            self.add_module(name, branch)

    def forward(self, x):
        parts = dict(self.named_children())
        if 'rbr_reparam' in parts:
            y = parts['rbr_reparam'](x)
        else:
            y = sum(parts[n]['bn'](parts[n]['conv'](x)) for n in ('rbr_dense', 'rbr_1x1'))
            if 'rbr_identity' in parts:
                y = y + parts['rbr_identity'](x)
        if 'se' in parts:
            squeezed = F.relu(parts['se']['down'](F.adaptive_avg_pool2d(y, 1)))
            y = y * torch.sigmoid(parts['se']['up'](squeezed))
        return F.relu(y)


class AuthorsNet(nn.Module):
    def __init__(self, depths, widths, groups, se, fused):
        super().__init__()
        self.stage0 = AuthorsBlock(3, widths[0], 2, 1, se, fused)
        index, previous = 1, widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths[1:]), start=1):
            blocks = []
            for position in range(depth):
                g = 1 if index % 2 else groups
                stride = 1 if position else 2
                blocks.append(AuthorsBlock(previous, width, stride, g, se, fused))
                index, previous = index + 1, width
            self.add_module(f'stage{stage}', nn.Sequential(*blocks))
        self.linear = nn.Linear(previous, 10)

    def forward(self, x):
        outputs = []
        for name, stage in self.named_children():
            if name != 'linear':
                x = stage(x)
                outputs.append(x)
        return outputs[1:]


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('se', [False, True])
@pytest.mark.parametrize('groups', [1, 4])
def test_authors_net_is_read_and_written_back(
    tmp_path, randomize_norms, groups, se, form
):
    widths = (16, 16, 32, 64, 128)
    net = AuthorsNet(TINY['depths'], widths, groups, se, form == 'fused')
    net = randomize_norms(net).eval()
    torch.save(net.state_dict(), tmp_path / 'theirs.pth')
    theirs = read_checkpoint(tmp_path / 'theirs.pth')
    if form == 'training':
        assert {
            'stage0.rbr_dense.conv.weight',
            'stage1.0.rbr_1x1.bn.num_batches_tracked',
            'stage3.2.rbr_identity.running_mean',
        } <= set(theirs)
    else:
        assert 'stage4.0.rbr_reparam.bias' in theirs
    native = to_native(extract_state_dict(theirs))
    assert native.recognised == Recognised('official', form, '')
    assert native.classifier == ('linear.weight', 'linear.bias')

    model = RepVGG(dict(TINY, groups=groups, se=se), None, deploy=form == 'fused')
    model.load_state_dict(native.backbone, strict=True)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for a, b in zip(model.double().eval()(x), net.double()(x), strict=True):
            assert float((a - b).abs().max() / b.abs().max()) < 1e-10

    classifier = {key: theirs[f'linear.{key}'] for key in ('weight', 'bias')}
    back = from_native(native.backbone, 'official', classifier)
    assert_same(back, theirs)


# Layouts, forms and wrappers --------------------------------------------------------


def with_module(state_dict, name='module.'):
    return {name + key: value for key, value in state_dict.items()}


OTHER = {'stem.conv.weight': torch.zeros(2)}
WRAPPERS = {
    'bare': lambda s: s,
    'state_dict': lambda s: {'state_dict': s, 'meta': {'epoch': 1}},
    'model': lambda s: {'model': s, 'optimizer': {'lr': 1.0}, 'epoch': 3},
    'model_state_dict': lambda s: {'model_state_dict': s},
    'state_dict_ema': lambda s: {'state_dict_ema': s, 'arch': 'repvgg'},
    'model_ema': lambda s: {'model_ema': s},
    'module': with_module,
    'state_dict, module': lambda s: {'state_dict': with_module(s)},
    'compiled': lambda s: with_module(with_module(s, '_orig_mod.')),
    'EMA': lambda s: {
        'ema_state_dict': {'steps': torch.tensor(9), **with_module(s)},
        'epoch': 1,
    },
    'averaged': lambda s: {'n_averaged': torch.tensor(9), **with_module(s)},
    'beside EMA': lambda s: {
        'ema_state_dict': {'steps': torch.tensor(9), **with_module(OTHER)},
        'state_dict_ema': OTHER,
        'state_dict': s,
    },
}


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_every_wrapper_is_read(native, tmp_path, wrapper):
    theirs = from_native(native['training'], 'timm')
    torch.save(WRAPPERS[wrapper](theirs), tmp_path / 'file.pth')
    read = extract_state_dict(read_checkpoint(tmp_path / 'file.pth'))
    assert_same(to_native(read).backbone, native['training'])


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_and_form_is_read(native, layout, form):
    theirs = from_native(native[form], layout)
    assert next(iter(theirs)) == FIRST_KEY[layout, form]
    read = to_native(theirs)
    assert (read.recognised.layout, read.recognised.form) == (layout, form)
    assert_same(read.backbone, native[form])
    assert read.classifier == ()
    assert read.rest == {}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_backbone_of_a_segmentor_is_separated_from_heads(native, layout, form):
    head = {
        'decode_head.conv_seg.weight': torch.ones(3, 4, 1, 1),
        'auxiliary_head.convs.0.conv.weight': torch.ones(2),
        # It is named like a classifier, but is not at a classifier's place.
        'decode_head.head.fc.weight': torch.ones(2),
    }
    theirs = from_native(native[form], layout)
    theirs = {f'backbone.{k.removeprefix("backbone.")}': v for k, v in theirs.items()}
    read = to_native({**head, **theirs})
    assert read.recognised == Recognised(layout, form, 'backbone.')
    assert_same(read.backbone, native[form])
    assert_same(read.rest, head)
    assert read.classifier == ()


@pytest.mark.parametrize(
    ('layout', 'prefix', 'keys'),
    [
        ('official', '', ('linear.weight', 'linear.bias')),
        ('official', 'net.', ('net.linear.weight', 'net.linear.bias')),
        ('mmpretrain', 'backbone.', ('head.fc.weight', 'head.fc.bias')),
        ('mmpretrain', 'a.backbone.', ('a.head.fc.weight', 'a.head.fc.bias')),
        ('timm', '', ('head.fc.weight', 'head.fc.bias')),
    ],
)
def test_classifier_is_set_aside(native, layout, prefix, keys):
    theirs = from_native(native['training'], layout)
    theirs = {prefix + k.removeprefix('backbone.'): v for k, v in theirs.items()}
    theirs.update({key: torch.ones(2) for key in keys})
    read = to_native(theirs)
    assert read.classifier == keys
    assert read.recognised.prefix == prefix
    assert read.rest == {}


def test_variants_of_layouts_are_read(native):
    theirs = from_native(native['training'], 'mmpretrain')
    older = {key.replace('.norm.', '.bn.'): value for key, value in theirs.items()}
    assert older.keys() != theirs.keys()
    assert_same(to_native(older).backbone, native['training'])

    theirs = from_native(native['training'], 'timm')
    features = {key.replace('stages.', 'stages_'): value for key, value in theirs.items()}
    assert features.keys() != theirs.keys()
    assert_same(to_native(features).backbone, native['training'])


def test_recognise_needs_a_stem_and_a_first_block():
    assert recognise([]) is None
    # These are keys of timm's RegNet.
    assert recognise(['stem.conv.weight', 'stem.bn.bias', 's1.b1.conv1.bn.bias']) is None
    assert recognise(['xstem.conv.weight', 'xstage_1.0.conv.weight']) is None
    keys = ['net.stem.conv.weight', 'net.stage_1.0.conv.bias']
    assert recognise(keys) == Recognised('mmseg_repvgg', 'fused', 'net.')


# What is refused --------------------------------------------------------------------


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(
    'change',
    [
        lambda key: key + '2',
        lambda key: key.replace('weight', 'wait'),
        lambda key: key.replace('.0.', '.00.'),
        lambda key: key.replace('.0.', '.x.'),
        lambda key: key.replace('1', '7', 1).replace('stages.0', 'stages.7'),
    ],
)
def test_unknown_keys_are_listed(native, layout, change):
    theirs = from_native(native['training'], layout)
    # A key in the first block of the first stage behind the stem.
    place = {'official': 'stage1.0', 'timm': 'stages.0.0'}.get(layout, 'stage_1.0')
    key = next(k for k in theirs if place in k and k.endswith('weight'))
    theirs[change(key)] = theirs.pop(key)
    with pytest.raises(CheckpointError, match='1 of its keys are not of one') as caught:
        to_native(theirs)
    assert change(key) in str(caught.value)
    assert layout in str(caught.value)


def test_only_the_first_few_unknown_keys_are_listed(native):
    extra = {f'extra.{i}': torch.zeros(1) for i in range(9)}
    with pytest.raises(CheckpointError, match=r'extra\.0, .*extra\.4 and 4 more$'):
        to_native({**native['training'], **extra})


def test_second_name_of_a_tensor_is_unknown(native):
    theirs = from_native(native['training'], 'mmpretrain')
    theirs['backbone.stem.branch_3x3.bn.weight'] = torch.ones(16)
    says = r'not of one: backbone\.stem\.branch_3x3\.bn\.weight$'
    with pytest.raises(CheckpointError, match=says):
        to_native(theirs)


def test_partly_fused_backbone_is_refused(native):
    mixed = dict(native['training'])
    for key in list(mixed):
        if key.startswith('stage_2.'):
            del mixed[key]
    mixed.update({k: v for k, v in native['fused'].items() if k.startswith('stage_2.')})
    with pytest.raises(CheckpointError, match='fused in part'):
        to_native(mixed)


@pytest.mark.parametrize('others', LAYOUTS)
def test_two_backbones_are_refused(native, others):
    both = {
        **with_module(native['training'], 'student.'),
        **with_module(from_native(native['fused'], others), 'teacher.'),
    }
    with pytest.raises(CheckpointError, match="more than one.*under 'student.'.*teacher"):
        to_native(both)


def test_state_dict_without_backbone_is_refused():
    with pytest.raises(CheckpointError, match=r'no RepVGG.*layer1\.0\.conv1\.weight'):
        to_native({'layer1.0.conv1.weight': torch.zeros(1)})


def test_from_native_refuses_unknown_layouts_and_keys(native):
    with pytest.raises(ConfigError, match="one of .*'timm'.* but got 'keras'"):
        from_native(native['fused'], 'keras')
    with pytest.raises(CheckpointError, match=r'no backbone of ours has: stage0\.se'):
        from_native(from_native(native['fused'], 'official'), 'timm')
    with pytest.raises(CheckpointError, match=r'net\.stem'):
        from_native(with_module(native['fused'], 'net.'), 'timm')
    with pytest.raises(ConfigError, match='has no classifier'):
        from_native(native['fused'], 'mmseg_repvgg', {'weight': torch.ones(1)})
