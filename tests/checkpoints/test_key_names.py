"""Other projects' key names: recorded ones, the author's, wrappers, what is refused."""

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
    fuse_state_dict,
    recognise,
    to_native,
    unwrap,
)
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
    """Ours of a small net with groups and SE, in both forms."""
    model = randomize_norms(RepVGG(dict(TINY, groups=2, se=True)))
    return {'training': model.state_dict(), 'fused': deploy(model).state_dict()}


def assert_same(a, b):
    assert list(a) == list(b)
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


# The real classes, as recorded ------------------------------------------------------

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
        # Fused by its class, a block has its parts in the order of their making.
        assert list(back) == list(theirs)


@pytest.mark.parametrize(
    ('layout', 'arch', 'form'),
    [
        pytest.param(*p.values, id=p.id, marks=[pytest.mark.slow] * ('A0' not in p.id))
        for p in RECORDED
        # What mmpretrain's fused D2se computes, without its SE, is nothing to go by.
        if p.id not in ('mmpretrain-D2se-fused', 'timm-D2se-fused')
    ],
)
def test_recorded_outputs(layout, arch, form):
    recorded = recording.read(f'{layout}_{arch}_{form}')
    backbone = to_native(recording.fill(recorded['keys'])).backbone
    with torch.device('meta'):
        model = RepVGG(arch, dilation=None, deploy=form == 'fused')
    model.load_state_dict(backbone, strict=True, assign=True)
    with torch.no_grad():
        outputs = model.double().eval()(recording.image())
    for output, of_theirs in zip(outputs, recorded['outputs'], strict=True):
        assert recording.difference(output, of_theirs) < 1e-5


# The author's net, which no package has, by the names in its state dicts ------------


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
def test_the_authors_net(tmp_path, randomize_norms, groups, se, form):
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
    native = to_native(unwrap(theirs))
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
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_form_and_wrapper(native, tmp_path, layout, form, wrapper):
    theirs = from_native(native[form], layout)
    assert next(iter(theirs)) == FIRST_KEY[layout, form]
    torch.save(WRAPPERS[wrapper](theirs), tmp_path / 'file.pth')
    read = to_native(unwrap(read_checkpoint(tmp_path / 'file.pth')))
    assert (read.recognised.layout, read.recognised.form) == (layout, form)
    assert_same(read.backbone, native[form])
    assert read.classifier == ()
    assert read.rest == {}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_backbone_of_a_segmentor(native, layout, form):
    head = {
        'decode_head.conv_seg.weight': torch.ones(3, 4, 1, 1),
        'auxiliary_head.convs.0.conv.weight': torch.ones(2),
        # Its name is that of a classifier, its place is not.
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


def test_other_names_that_are_read(native):
    theirs = from_native(native['training'], 'mmpretrain')
    older = {key.replace('.norm.', '.bn.'): value for key, value in theirs.items()}
    assert older.keys() != theirs.keys()
    assert_same(to_native(older).backbone, native['training'])

    theirs = from_native(native['training'], 'timm')
    features = {key.replace('stages.', 'stages_'): value for key, value in theirs.items()}
    assert features.keys() != theirs.keys()
    assert_same(to_native(features).backbone, native['training'])


def test_recognise_needs_two_layers():
    assert recognise([]) is None
    # timm's RegNet.
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
    # One in the first block of the first stage behind the stem.
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


def test_two_keys_for_one_tensor(native):
    theirs = from_native(native['training'], 'mmpretrain')
    theirs['backbone.stem.branch_3x3.bn.weight'] = torch.ones(16)
    with pytest.raises(CheckpointError, match='stand for the same tensor') as caught:
        to_native(theirs)
    assert 'backbone.stem.branch_3x3.bn.weight' in str(caught.value)
    assert 'backbone.stem.branch_3x3.norm.weight' in str(caught.value)


def test_fused_in_part(native):
    mixed = dict(native['training'])
    for key in list(mixed):
        if key.startswith('stage_2.'):
            del mixed[key]
    mixed.update({k: v for k, v in native['fused'].items() if k.startswith('stage_2.')})
    with pytest.raises(CheckpointError, match='fused in part'):
        to_native(mixed)


@pytest.mark.parametrize('others', LAYOUTS)
def test_two_backbones(native, others):
    both = {
        **with_module(native['training'], 'student.'),
        **with_module(from_native(native['fused'], others), 'teacher.'),
    }
    with pytest.raises(CheckpointError, match="more than one.*under 'student.'.*teacher"):
        to_native(both)


def test_no_backbone():
    with pytest.raises(CheckpointError, match=r'no RepVGG.*layer1\.0\.conv1\.weight'):
        to_native({'layer1.0.conv1.weight': torch.zeros(1)})


class Holder:
    pass


@pytest.mark.parametrize(
    ('checkpoint', 'says'),
    [
        ([1, 2], 'holds a list'),
        (None, 'holds a NoneType'),
        ({}, 'it is empty'),
        ({'state_dict': {}}, "'state_dict' is empty"),
        ({'epoch': 3}, "'epoch' is a int, not a tensor"),
        ({'model': Holder()}, "'model' is a Holder, not a dict"),
        ({'state_dict': {'a': torch.ones(1), 'b': 'text'}}, "'b' is a str, not a tensor"),
        ({'state_dict': {3: torch.ones(1)}}, '3 is a Tensor'),
    ],
)
def test_what_holds_no_state_dict(checkpoint, says):
    with pytest.raises(CheckpointError, match=says):
        unwrap(checkpoint)


def test_module_prefix_comes_off_only_where_all_have_it():
    some = {'module.a': torch.ones(1), 'b': torch.ones(1)}
    assert list(unwrap(some)) == ['module.a', 'b']
    inside = {'module.a.module.b': torch.ones(1), 'module.c': torch.ones(1)}
    assert list(unwrap(inside)) == ['a.module.b', 'c']
    # Without a wrapper's prefix, this is a tensor of the model's own.
    assert list(unwrap({'steps': torch.ones(1), 'a': torch.ones(1)})) == ['steps', 'a']
    assert list(unwrap({'model': torch.ones(1)})) == ['model']


def test_from_native_refuses(native):
    with pytest.raises(ConfigError, match="one of .*'timm'.* but got 'keras'"):
        from_native(native['fused'], 'keras')
    with pytest.raises(CheckpointError, match=r'no keys .* of ours: stage0\.se'):
        from_native(from_native(native['fused'], 'official'), 'timm')
    with pytest.raises(CheckpointError, match=r'net\.stem'):
        from_native(with_module(native['fused'], 'net.'), 'timm')
    with pytest.raises(ConfigError, match='has no classifier'):
        from_native(native['fused'], 'mmseg_repvgg', {'weight': torch.ones(1)})


# Fusing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    'arch',
    [
        TINY,
        dict(TINY, groups=4),
        dict(TINY, groups=2, se=True),
        'A0',
        pytest.param('B1g4', marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_fusing_is_what_deploy_does(randomize_norms, arch):
    model = randomize_norms(RepVGG(arch))
    fused = fuse_state_dict(model.state_dict())
    assert_same(fused, deploy(model).state_dict())
    assert_same(fuse_state_dict(fused), fused)


@pytest.mark.parametrize('eps', [1e-5, 1e-3])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float16])
def test_fusing_by_eps_and_dtype(randomize_norms, eps, dtype):
    model = randomize_norms(RepVGG(TINY, norm_cfg=dict(type='BN', eps=eps))).to(dtype)
    fused = fuse_state_dict(model.state_dict(), eps)
    assert {value.dtype for value in fused.values()} == {dtype}
    assert_same(fused, deploy(model).state_dict())
    other = fuse_state_dict(model.state_dict(), 0.1)
    assert not torch.equal(other['stem.conv.weight'], fused['stem.conv.weight'])


@pytest.mark.parametrize(
    ('key', 'value', 'says'),
    [
        ('branch_3x3.conv.weight', None, 'stage_2.1.conv has no 3x3 kernel'),
        ('branch_1x1.conv.weight', None, 'stage_2.1.conv has no 1x1 kernel'),
        ('branch_identity.running_mean', None, 'no running_mean of its norm_identity'),
        ('branch_1x1.bn.running_var', None, 'no running_var of its norm_1x1'),
        ('branch_3x3.conv.weight', torch.ones(32, 32, 5, 5), r'\(32, 32, 5, 5\)'),
        ('branch_3x3.conv.weight', torch.ones(32, 32, 3, 3).long(), 'int64'),
        ('branch_3x3.conv.weight', torch.ones(32, 0, 3, 3), r'\(32, 0, 3, 3\)'),
        ('branch_1x1.conv.weight', torch.ones(32, 16, 1, 1), r'different shapes'),
        ('branch_3x3.bn.bias', torch.ones(31), r'norm_3x3 a bias of shape \(31,\)'),
        ('weight', torch.ones(1), 'stage_2.1.conv is there in both forms'),
    ],
)
def test_fusing_names_the_block_that_is_amiss(native, key, value, says):
    backbone = dict(native['training'])
    backbone.pop(f'stage_2.1.conv.{key}', None)
    if value is not None:
        backbone[f'stage_2.1.conv.{key}'] = value
    with pytest.raises(CheckpointError, match=says):
        fuse_state_dict(backbone)
