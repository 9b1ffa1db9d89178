"""Checkpoint files are converted between layouts and forms, or refused."""

import os

import pytest
import torch
from mmseg.registry import MODELS

from mmseg_repvgg import RepVGG, deploy
from mmseg_repvgg.checkpoints.files import read_checkpoint
from mmseg_repvgg.checkpoints.key_names import LAYOUTS, from_native, to_native
from mmseg_repvgg.checkpoints.state_dict import extract_state_dict
from mmseg_repvgg.errors import CheckpointError, ConfigError, WriteError
from mmseg_repvgg.models import convert as module
from mmseg_repvgg.models.convert import convert

TINY = dict(depths=(1, 2, 3, 1), a=0.25, b=0.25, groups=2, se=True)
FORMS = ('training', 'fused')
TOOL = 'convert_checkpoint.py'


@pytest.fixture(name='native')
def _native(randomize_norms):
    model = randomize_norms(RepVGG(TINY))
    return {'training': model.state_dict(), 'fused': deploy(model).state_dict()}


@pytest.fixture(name='classifier')
def _classifier():
    return {'weight': torch.randn(10, 128), 'bias': torch.randn(10)}


@pytest.fixture(name='source')
def _source(native, classifier, tmp_path):
    """A training-form file in the author's layout."""
    path = tmp_path / 'source.pth'
    torch.save(from_native(native['training'], 'official', classifier), path)
    return path


def load(path):
    return to_native(extract_state_dict(read_checkpoint(path)))


def assert_same(a, b):
    assert list(a) == list(b)
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


def assert_nothing_left(folder, *files):
    assert sorted(os.listdir(folder)) == sorted(files)


# Conversions ---------------------------------------------------------------------


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('to', LAYOUTS)
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_converts_to_any(native, tmp_path, layout, form, to, suffix):
    if suffix == '.safetensors':
        pytest.importorskip('safetensors')
    src, dst = tmp_path / f'src{suffix}', tmp_path / f'dst{suffix}'
    theirs = from_native(native[form], layout)
    if suffix == '.pth':
        torch.save(theirs, src)
    else:
        module.write_checkpoint(theirs, src)
    conversion = convert(src, dst, to=to)
    assert conversion.source.layout == layout
    assert (conversion.layout, conversion.form) == (to, form)
    assert conversion.read == conversion.written == len(native[form])
    assert conversion.difference == 0
    written = load(dst)
    assert (written.recognised.layout, written.recognised.form) == (to, form)
    assert_same(written.backbone, native[form])
    assert_nothing_left(tmp_path, src.name, dst.name)


@pytest.mark.parametrize('to', LAYOUTS)
def test_fused_form_is_what_deploy_computes(native, source, tmp_path, to):
    dst = tmp_path / 'dst.pth'
    conversion = convert(source, dst, to=to, fuse=True)
    assert (conversion.source.form, conversion.form) == ('training', 'fused')
    assert 0 < conversion.difference < 1e-6
    assert_same(load(dst).backbone, native['fused'])
    assert ('squeeze-and-excitation out' in str(conversion)) == (to == 'mmpretrain')


def test_eps_is_used_for_fusing(randomize_norms, tmp_path):
    model = randomize_norms(RepVGG(TINY, norm_cfg=dict(type='BN', eps=0.1)))
    torch.save(model.state_dict(), tmp_path / 'src.pth')
    convert(tmp_path / 'src.pth', tmp_path / 'dst.pth', fuse=True, eps=0.1)
    assert_same(deploy(model).state_dict(), load(tmp_path / 'dst.pth').backbone)


def test_fusing_a_fused_file_changes_nothing(native, tmp_path):
    torch.save(native['fused'], tmp_path / 'src.pth')
    assert convert(tmp_path / 'src.pth', tmp_path / 'dst.pth', fuse=True).difference == 0
    assert_same(load(tmp_path / 'dst.pth').backbone, native['fused'])


def test_classifier_is_kept_where_the_layout_has_one(source, classifier, tmp_path):
    timm, mmpretrain = tmp_path / 'timm.pth', tmp_path / 'mmpretrain.pth'
    assert convert(source, timm, to='timm').classifier == (2, 2)
    convert(timm, mmpretrain, to='mmpretrain')
    state_dict = read_checkpoint(mmpretrain)['state_dict']
    for key, value in classifier.items():
        assert torch.equal(state_dict[f'head.fc.{key}'], value)
    conversion = convert(mmpretrain, tmp_path / 'ours.pth')
    assert conversion.classifier == (2, 0)
    assert load(tmp_path / 'ours.pth').classifier == ()


def test_segmentor_keeps_heads_and_meta(street_config, randomize_norms, tmp_path):
    src, dst, out = (tmp_path / f'{name}.pth' for name in ('src', 'dst', 'out'))
    model = randomize_norms(MODELS.build(street_config.model)).eval()
    meta = {'dataset_meta': {'classes': ('a', 'b')}, 'iter': 7}
    optimizer = {'state': {}, 'param_groups': []}
    state = {'meta': meta, 'state_dict': model.state_dict(), 'optimizer': optimizer}
    torch.save(state, src)
    conversion = convert(src, dst, fuse=True)
    heads = [k for k in model.state_dict() if not k.startswith('backbone.')]
    assert conversion.arch == 'of depths (1, 2, 6, 1)'
    assert conversion.rest == (len(heads), len(heads))
    written = read_checkpoint(dst)
    assert written.keys() == {'meta', 'state_dict'}
    assert written['meta'] == meta

    street_config.model.backbone.deploy = True
    fused = MODELS.build(street_config.model).eval()
    fused.load_state_dict(written['state_dict'], strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        a, b = (net.encode_decode(x, [{'img_shape': (64, 64)}]) for net in (model, fused))
    assert float((a - b).abs().max() / a.abs().max()) < 1e-5

    conversion = convert(src, out, to='timm')
    assert conversion.rest == (len(heads), 0)
    assert len(extract_state_dict(read_checkpoint(out))) == conversion.written


def test_files_are_wrapped_as_each_project_expects(source, tmp_path):
    for to, wrapped in zip(LAYOUTS, (True, False, True, False), strict=True):
        convert(source, tmp_path / f'{to}.pth', to=to)
        assert ('state_dict' in read_checkpoint(tmp_path / f'{to}.pth')) == wrapped


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_kept(native, tmp_path, dtype):
    half = {
        k: v.to(dtype) if v.is_floating_point() else v
        for k, v in native['training'].items()
    }
    torch.save(half, tmp_path / 'src.pth')
    convert(tmp_path / 'src.pth', tmp_path / 'dst.pth', to='timm', fuse=True)
    written = read_checkpoint(tmp_path / 'dst.pth')
    assert {value.dtype for value in written.values()} == {dtype}


def test_dtypes_of_parameters_are_kept(native, tmp_path):
    state = {
        k: torch.nn.Parameter(v.clone()) if v.is_floating_point() else v
        for k, v in native['training'].items()
    }
    torch.save(state, tmp_path / 'src.pth')
    convert(tmp_path / 'src.pth', tmp_path / 'dst.pth')
    written = load(tmp_path / 'dst.pth').backbone
    assert_same(written, native['training'])
    for key, value in written.items():
        assert value.dtype == state[key].dtype, key


def test_other_input_channels_and_missing_stages_convert(randomize_norms, tmp_path):
    model = randomize_norms(RepVGG('A1', in_channels=4, out_indices=(0, 1)))
    torch.save(model.state_dict(), tmp_path / 'src.pth')
    conversion = convert(tmp_path / 'src.pth', tmp_path / 'dst.pth', to='timm', fuse=True)
    assert conversion.arch == 'A1'
    assert_same(load(tmp_path / 'dst.pth').backbone, deploy(model).state_dict())


# Refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('dst', 'says'),
    [
        ('no/such/dst.pth', 'folder .*no/such does not exist'),
        ('folder', 'folder is a folder'),
        ('source.pth', 'is the source itself'),
        ('link.pth', 'is the source itself'),
        ('other.pth', r'other\.pth exists already\. Pass --force'),
    ],
)
@pytest.mark.parametrize('force', [False, True])
def test_unusable_destination_is_refused(source, tmp_path, dst, says, force):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'link.pth').symlink_to(source)
    (tmp_path / 'other.pth').write_bytes(b'precious')
    before, files = source.read_bytes(), os.listdir(tmp_path)
    if (force, dst) == (True, 'other.pth'):
        convert(source, tmp_path / dst, force=True)
        assert load(tmp_path / dst).recognised.layout == 'mmseg_repvgg'
    else:
        with pytest.raises(ConfigError, match=says):
            convert(source, tmp_path / dst, force=force)
        assert (tmp_path / 'other.pth').read_bytes() == b'precious'
    assert source.read_bytes() == before
    assert_nothing_left(tmp_path, *files)


def test_negative_eps_is_refused(source, tmp_path):
    with pytest.raises(ConfigError, match='eps must be at least 0, but got -1'):
        convert(source, tmp_path / 'dst.pth', eps=-1)


def test_checksum_of_a_replaced_file_is_removed(source, tmp_path):
    dst = tmp_path / 'dst.pth'
    module.write_checkpoint({'a': torch.ones(1)}, dst)
    (tmp_path / 'dst.pth.sha256').write_text('0' * 64 + '  dst.pth\n')
    convert(source, dst, force=True)
    assert load(dst).recognised.layout == 'mmseg_repvgg'


def _nan(state):
    state['linear.bias'][3] = float('nan')


def _negative_variance(state):
    state['stage1.0.rbr_1x1.bn.running_var'].fill_(-1)


def _integers(state):
    key = 'stage1.0.rbr_dense.conv.weight'
    state[key] = state[key].long()


def _another_width(state):
    for key in [k for k in state if k.startswith('stage4.0.rbr_dense.conv')]:
        state[key] = torch.ones(127, 64, 3, 3)


def _no_stem(state):
    for key in [k for k in state if k.startswith('stage0.')]:
        del state[key]


@pytest.mark.parametrize(
    ('spoil', 'says'),
    [
        (_nan, r'linear\.bias holds NaN'),
        (_negative_variance, 'not finite'),
        (_integers, r'dtype: stage_1\.0\.conv\.branch_3x3\.conv\.weight \(torch.int64'),
        (_another_width, 'shapes are those of no RepVGG. Pass --arch'),
        (_no_stem, 'no RepVGG backbone in the layout of any'),
        (lambda s: s.pop('stage2.1.rbr_dense.conv.weight'), 'shapes are those of no'),
        (lambda s: s.pop('stage2.1.rbr_1x1.bn.bias'), 'missing'),
        (lambda s: s.update({'x.y': torch.ones(1)}), 'not of one: x.y'),
        (lambda s: s.update({'x.y': 3}), 'x.y.* is a int'),
        (lambda s: s.clear(), 'empty'),
    ],
)
@pytest.mark.parametrize('fuse', [None, True])
def test_unfit_source_is_refused(source, tmp_path, spoil, says, fuse):
    state = torch.load(source)
    spoil(state)
    torch.save(state, source)
    with pytest.raises(CheckpointError, match=r'(?s)source\.pth: .*' + says):
        convert(source, tmp_path / 'dst.pth', fuse=fuse)
    assert_nothing_left(tmp_path, 'source.pth')


def test_fusing_cannot_be_undone(native, tmp_path):
    torch.save(native['fused'], tmp_path / 'src.pth')
    with pytest.raises(
        CheckpointError, match='training-form file that it was fused from'
    ):
        convert(tmp_path / 'src.pth', tmp_path / 'dst.pth', fuse=False)
    assert_nothing_left(tmp_path, 'src.pth')


def test_wrong_arch_or_layout_is_refused(source, tmp_path):
    with pytest.raises(
        CheckpointError, match=r'(?s)source\.pth: .*another arch.*stage_1'
    ):
        convert(source, tmp_path / 'dst.pth', arch='A0')
    with pytest.raises(ConfigError, match="arch must be one of .* but got 'A9'"):
        convert(source, tmp_path / 'dst.pth', arch='A9')
    with pytest.raises(ConfigError, match="layout must be one of .* but got 'keras'"):
        convert(source, tmp_path / 'dst.pth', to='keras')
    assert_nothing_left(tmp_path, 'source.pth')


def _off_by_a_little(deploy):
    def wrong(model):
        fused = deploy(model)
        fused.stage_4[0].conv.bias += 0.01
        return fused

    return wrong


def _one_of_the_head(write):
    def wrong(checkpoint, path):
        write({**checkpoint, 'linear.bias': checkpoint['linear.bias'] + 1}, path)

    return wrong


def _torn(write):
    def wrong(checkpoint, path):
        write(checkpoint, path)
        path.write_bytes(path.read_bytes()[:1000])

    return wrong


def _stopped(write):
    def wrong(checkpoint, path):
        write(checkpoint, path)
        raise KeyboardInterrupt

    return wrong


@pytest.mark.parametrize('there_before', [False, True])
@pytest.mark.parametrize(
    ('name', 'wrong', 'error', 'says'),
    [
        ('deploy', _off_by_a_little, CheckpointError, 'computes something else'),
        (
            'write_checkpoint',
            _one_of_the_head,
            CheckpointError,
            'linear.bias was changed',
        ),
        ('write_checkpoint', _torn, CheckpointError, 'cannot be read'),
        ('write_checkpoint', _stopped, KeyboardInterrupt, None),
    ],
)
def test_failed_conversion_leaves_nothing(
    source, tmp_path, monkeypatch, there_before, name, wrong, error, says
):
    files = ['source.pth']
    if there_before:
        (tmp_path / 'dst.pth').write_bytes(b'precious')
        files.append('dst.pth')
    monkeypatch.setattr(module, name, wrong(getattr(module, name)))
    with pytest.raises(error, match=says):
        convert(source, tmp_path / 'dst.pth', to='official', fuse=True, force=True)
    assert_nothing_left(tmp_path, *files)
    if there_before:
        assert (tmp_path / 'dst.pth').read_bytes() == b'precious'


def test_full_disk_leaves_nothing(source, tmp_path, full_disk):
    says = rf'^{tmp_path}/dst.pth cannot be written: File too large\. '
    with full_disk(1000), pytest.raises(WriteError, match=says) as caught:
        convert(source, tmp_path / 'dst.pth')
    assert '--work-dir' not in str(caught.value)
    assert_nothing_left(tmp_path, 'source.pth')


# The tool ---------------------------------------------------------------------------


def test_tool_reports_the_conversion(source, native, tmp_path, run_tool):
    done = run_tool(TOOL, 'source.pth', 'dst.pth', '--fuse', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *_, first, second, third = done.stdout.splitlines()
    assert 'layout of official, training form' in first
    assert f'{len(native["training"])} tensors of the backbone, 2 of the class' in first
    assert f'layout of mmseg_repvgg, fused form: {len(native["fused"])} tens' in second
    assert 'outputs differ by' in third
    assert_same(load(tmp_path / 'dst.pth').backbone, native['fused'])


def test_tool_writes_safetensors(source, native, tmp_path, run_tool):
    pytest.importorskip('safetensors')
    dst = tmp_path / 'dst.safetensors'
    done = run_tool(TOOL, source, dst, '--to', 'timm', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b'stem.conv_kxk.conv.weight' in dst.read_bytes()[:65536]
    assert_same(load(dst).backbone, native['training'])


@pytest.mark.parametrize(
    ('args', 'says'),
    [
        (['missing.pth', 'dst.pth'], 'missing.pth does not exist'),
        (['source.pth', 'dst.pth', '--arch', 'B1'], 'another arch'),
    ],
)
def test_tool_names_the_error(source, tmp_path, run_tool, args, says):
    done = run_tool(TOOL, *args, cwd=tmp_path)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith('error: ')
    assert says in last
    assert 'Traceback' not in done.stderr
    assert_nothing_left(tmp_path, 'source.pth')
