"""The backbone: shapes and strides, freezing and loading."""

import copy

import pytest
import torch
from mmengine.runner import load_checkpoint, save_checkpoint
from mmseg.registry import MODELS
from torch import nn
from torch.testing import assert_close

from mmseg_repvgg import RepVGG, deploy
from mmseg_repvgg.checkpoints.key_names import LAYOUTS, from_native
from mmseg_repvgg.errors import CheckpointError, ConfigError
from mmseg_repvgg.models.archs import ARCHS
from mmseg_repvgg.reparam import BLOCKS

TINY = dict(depths=(1, 2, 3, 1), a=0.25, b=0.25)
EVEN = dict(depths=(2, 2, 2, 1), a=0.125, b=0.125)
STRIDES = {'full': (4, 8, 8, 8), 'fast': (4, 8, 8, 8), None: (4, 8, 16, 32)}


@pytest.mark.parametrize('dilation', STRIDES)
@pytest.mark.parametrize('arch', ARCHS)
def test_outputs_have_the_stated_channels_and_strides(arch, dilation):
    with torch.device('meta'):
        model = MODELS.build(dict(type='RepVGG', arch=arch, dilation=dilation))
        outputs = model(torch.empty(2, 3, 97, 129))
    widths = ARCHS[arch].widths[1:]
    assert model.out_channels == widths
    for output, width, stride in zip(outputs, widths, STRIDES[dilation]):
        assert output.shape == (2, width, -(-97 // stride), -(-129 // stride))


@pytest.mark.parametrize('dilation', STRIDES)
@pytest.mark.parametrize(
    'arch', ['A0', 'B1g4', pytest.param('D2se', marks=pytest.mark.slow)]
)
def test_fused_net_matches_training_form(randomize_norms, arch, dilation):
    model = randomize_norms(RepVGG(arch, dilation)).eval()
    fused = deploy(model)
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        for a, b in zip(model(x), fused(x)):
            assert float((a - b).abs().max() / a.abs().max()) < 1e-5


@pytest.mark.parametrize('arch', ['A0', 'B1g2', 'D2se'])
def test_deploy_argument_builds_what_deploy_returns(arch):
    with torch.device('meta'):
        fused = deploy(RepVGG(arch))
        built = RepVGG(arch, deploy=True)
    assert {k: v.shape for k, v in fused.state_dict().items()} == {
        k: v.shape for k, v in built.state_dict().items()
    }
    for a, b in zip(fused.modules(), built.modules()):
        assert type(a) is type(b)
        if isinstance(a, nn.Conv2d):
            assert (a.stride, a.padding, a.dilation, a.groups) == (
                b.stride,
                b.padding,
                b.dilation,
                b.groups,
            )


def test_state_dict_keys_match_the_contract():
    keys = list(RepVGG(TINY).state_dict())
    assert 'stage_1.0.conv.branch_3x3.conv.weight' in keys
    assert 'stem.conv.branch_1x1.bn.running_mean' in keys
    assert 'stage_2.1.conv.branch_identity.weight' in keys
    assert 'stage_1.0.conv.weight' in RepVGG(TINY, deploy=True).state_dict()


@pytest.mark.parametrize('out_indices', [(0,), (3,), (1, 3), (0, 1, 2, 3)])
def test_out_indices_select_outputs(out_indices):
    model = RepVGG(TINY, out_indices=out_indices)
    outputs = model(torch.randn(2, 3, 32, 32))
    widths = (16, 32, 64, 128)
    assert tuple(o.shape[1] for o in outputs) == tuple(widths[i] for i in out_indices)
    assert model.out_channels == tuple(widths[i] for i in out_indices)
    # DDP fails if a parameter never gets a gradient.
    sum(o.sum() for o in outputs).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('bad', [(4,), (-1,), (), (1, 0), (1, 1)])
def test_bad_out_indices_are_refused(bad):
    with pytest.raises(ValueError, match=r'some of \(0, 1, 2, 3\).*but got'):
        RepVGG(TINY, out_indices=bad)


@pytest.mark.parametrize('frozen', range(-1, 5))
def test_frozen_stages_neither_train_nor_update(frozen):
    model = RepVGG(TINY, frozen_stages=frozen).train()
    for index, stage in enumerate(model.stages):
        still = index <= frozen
        assert all(p.requires_grad != still for p in stage.parameters())
        assert all(m.training != still for m in stage.modules())


def test_bad_frozen_stages_are_refused():
    with pytest.raises(ValueError, match='from -1 .* to 4, but got 5'):
        RepVGG(TINY, frozen_stages=5)


@pytest.mark.parametrize('norm_type', ['BN', 'SyncBN'])
def test_norm_eval_keeps_running_statistics(norm_type):
    model = RepVGG(TINY, norm_cfg=dict(type=norm_type), norm_eval=True).train()
    norms = [m for m in model.modules() if hasattr(m, 'running_mean')]
    assert norms
    assert not any(norm.training for norm in norms)
    assert model.training


@pytest.mark.parametrize('norm_type', ['GN', 'IN'])
def test_norm_without_running_statistics_is_refused(norm_type):
    cfg = dict(type=norm_type, **({'num_groups': 1} if norm_type == 'GN' else {}))
    with pytest.raises(ValueError, match=f'running statistics.*{norm_type}'):
        RepVGG(TINY, norm_cfg=cfg)


def test_forward_hooks_of_stages_are_called():
    model, called = RepVGG(TINY).eval(), []
    for stage in model.stages:
        stage.register_forward_hook(lambda *_: called.append(True))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert len(called) == 5


@pytest.mark.parametrize(
    ('argument', 'says'),
    [
        (dict(with_cp='3x3'), "with_cp must be .* got '3x3'"),
        (dict(out_indices=2), 'out_indices must be .* got 2'),
        (dict(frozen_stages=1.0), r'frozen_stages must be .* got 1\.0'),
        (dict(in_channels='3'), "in_channels must be .* got '3'"),
        (dict(in_channels=0), 'in_channels must be .* got 0'),
    ],
)
def test_bad_argument_is_named(argument, says):
    with pytest.raises(ConfigError, match=says):
        RepVGG(TINY, **argument)


def test_squeeze_and_excitation_with_few_channels_runs(randomize_norms):
    net = randomize_norms(RepVGG(dict(TINY, a=0.125, se=True))).eval()
    assert net(torch.randn(1, 3, 33, 33))[0].shape[1] == 8


def test_in_channels_of_the_image_are_free():
    outputs = RepVGG(TINY, in_channels=5)(torch.randn(1, 5, 32, 32))
    assert outputs[0].shape == (1, 16, 8, 8)


def test_init_weights_initializes_convs():
    model = RepVGG(TINY)
    nn.init.zeros_(model.stem.conv.branch_3x3.conv.weight)
    model.init_weights()
    assert model.stem.conv.branch_3x3.conv.weight.std() > 0.01


# Blocks ----------------------------------------------------------------------------

FUSING = [block for block in BLOCKS if block != 'relu_in_branches']


def test_initial_weights_of_repvgg_are_drawn_in_order():
    """A seed gives the weights that it gave before there were other blocks."""
    torch.manual_seed(3)
    model = RepVGG(TINY)
    torch.manual_seed(3)
    for block in (model.stem, *(b for stage in model.stages[1:] for b in stage)):
        for branch in (block.conv.branch_3x3, block.conv.branch_1x1):
            drawn = torch.empty_like(branch.conv.weight)
            nn.init.kaiming_uniform_(drawn, a=5**0.5)
            assert torch.equal(branch.conv.weight, drawn)


@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('block', FUSING)
def test_every_block_is_fused_saved_and_loaded(randomize_norms, block, residual):
    arguments = dict(arch=EVEN, block=block, residual=residual)
    model = randomize_norms(RepVGG(**arguments)).eval()
    fused = deploy(model)
    x = torch.randn(1, 3, 33, 33)
    with torch.no_grad():
        for a, b in zip(model(x), fused(x)):
            assert float((a - b).abs().max() / a.abs().max()) < 1e-4
    training, plain = model.state_dict(), fused.state_dict()
    with_head = {f'backbone.{key}': value for key, value in training.items()}
    with_head['decode_head.conv_seg.bias'] = torch.ones(2)
    for deployed, state, expected in [
        (False, training, training),
        (False, with_head, training),
        (True, training, plain),
        (True, plain, plain),
    ]:
        loaded = RepVGG(**arguments, deploy=deployed)
        loaded.load_state_dict(state)
        assert list(loaded.state_dict()) == list(expected)
        for key, value in expected.items():
            assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.parametrize('block', FUSING[1:])
def test_fused_form_of_any_block_is_that_of_repvgg(block):
    fused = deploy(RepVGG(TINY, block=block))
    RepVGG(TINY, deploy=True).load_state_dict(fused.state_dict())


def test_checkpoint_of_another_block_is_refused():
    state = RepVGG(TINY).state_dict()
    with pytest.raises(CheckpointError, match=r'another arch, block .*missing: .*\.bn\.'):
        RepVGG(TINY, block='qarepvgg').load_state_dict(state)
    state = RepVGG(TINY, block='qarepvgg').state_dict()
    with pytest.raises(CheckpointError, match='keys are not of one'):
        RepVGG(TINY).load_state_dict(state)


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (dict(block='vgg'), "block must be one of repvgg.*got 'vgg'"),
        (dict(block='1x1-bn'), "branch with a 3x3 conv, but got '1x1-bn'"),
        (dict(block='relu_in_branches', deploy=True), 'no fused form'),
        (dict(residual=True), 'even number of layers in stages 2 to 4, but got 1'),
    ],
)
def test_bad_block_is_named(arguments, says):
    with pytest.raises(ConfigError, match=says):
        RepVGG(TINY, **arguments)


# Loading ---------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, randomize_norms):
    model = randomize_norms(RepVGG(TINY)).eval()
    other = RepVGG(dict(TINY, depths=(1, 2, 4, 1)))
    wider = RepVGG(dict(TINY, b=0.5))
    state, spoilt = model.state_dict(), 'stem.conv.branch_1x1.conv.weight'
    saved = {
        'training': model.state_dict(),
        'fused': deploy(model).state_dict(),
        'another arch': other.state_dict(),
        'another width': wider.state_dict(),
        'one layer': {'stage1.0.rbr_dense.conv.weight': torch.zeros(1)},
        'NaN': {**state, spoilt: state[spoilt] * float('nan')},
        'integers': {**state, spoilt: state[spoilt].int()},
        'nothing': {},
    }
    for name, state in saved.items():
        save_checkpoint({'state_dict': state}, str(tmp_path / f'{name}.pth'))
    return model, tmp_path


def test_pretrained_init_cfg_loads(files):
    model, folder = files
    init = dict(type='Pretrained', checkpoint=str(folder / 'training.pth'))
    loaded = RepVGG(TINY, init_cfg=init)
    loaded.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key


def test_fused_checkpoint_loads_into_fused_backbone(files):
    model, folder = files
    built = RepVGG(TINY, deploy=True).eval()
    load_checkpoint(built, str(folder / 'fused.pth'))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert_close(built(x)[-1], model(x)[-1], rtol=1e-4, atol=1e-5)


def test_training_form_is_fused_when_a_fused_backbone_loads_it(files):
    model, folder = files
    built = RepVGG(TINY, deploy=True)
    load_checkpoint(built, str(folder / 'training.pth'))
    for key, value in deploy(model).state_dict().items():
        assert torch.equal(built.state_dict()[key], value), key


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: {'model': s, 'epoch': 3}])
@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('via', ['load_checkpoint', 'init_cfg'])
def test_every_layout_loads(files, tmp_path, layout, wrap, fused, via):
    model, _ = files
    source = deploy(model) if fused else model
    classifier = {'weight': torch.ones(10, 128), 'bias': torch.ones(10)}
    theirs = from_native(
        source.state_dict(), layout, classifier if layout != 'mmseg_repvgg' else None
    )
    file = str(tmp_path / 'theirs.pth')
    torch.save(wrap(theirs), file)
    loaded = RepVGG(TINY, deploy=fused)
    if via == 'init_cfg':
        loaded.init_cfg = dict(type='Pretrained', checkpoint=file)
        loaded.init_weights()
    else:
        load_checkpoint(loaded, file)
    for key, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.parametrize(
    ('name', 'deployed', 'says'),
    [
        ('fused', False, r'fused, and the model is in the training form.*deploy=True'),
        ('another arch', False, 'of another arch.*stage_3.3'),
        ('another width', False, r'of another arch.*\(256, 64, 3, 3\) where the model'),
        ('one layer', False, 'no RepVGG backbone in the layout of any of'),
        ('nothing', False, 'is empty'),
        ('NaN', False, r'stem.conv.branch_1x1.conv.weight holds NaN'),
        (
            'integers',
            False,
            r'another dtype: stem.conv.branch_1x1.conv.weight \(torch.int',
        ),
    ],
)
@pytest.mark.parametrize('via', ['load_checkpoint', 'load_state_dict', 'init_cfg'])
def test_unfit_checkpoint_is_refused_on_every_path(files, name, deployed, says, via):
    file = str(files[1] / f'{name}.pth')
    model = RepVGG(TINY, deploy=deployed)
    before = copy.deepcopy(model.state_dict())

    def load():
        if via == 'load_checkpoint':
            load_checkpoint(model, file)
        elif via == 'load_state_dict':
            model.load_state_dict(torch.load(file)['state_dict'], strict=False)
        else:
            model.init_cfg = dict(type='Pretrained', checkpoint=file)
            model.init_weights()

    with pytest.raises(CheckpointError, match='(?s)' + says) as caught:
        load()
    assert via != 'init_cfg' or file in str(caught.value)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), f'{key} was loaded all the same'


def test_stages_behind_the_last_output_are_dropped(files):
    model, folder = files
    short = RepVGG(TINY, out_indices=(0, 1))
    load_checkpoint(short, str(folder / 'training.pth'))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(short.eval()(x)[1], model(x)[1])
