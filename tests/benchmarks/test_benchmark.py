"""Small networks are measured in their forms, and the tool reports them."""

import contextlib
import copy
import dataclasses
import importlib.util
import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from mmengine.config import Config
from mmseg.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks import benchmark as benchmarking
from benchmarks import runtimes, subjects
from benchmarks.benchmark import benchmark
from benchmarks.machine import describe_machine
from benchmarks.memory import PeakMemory
from benchmarks.paper import PAPER, paper_ratio
from benchmarks.report import Protocol, Report, Variant
from benchmarks.runtimes import FORMS, Form
from benchmarks.subjects import Setup, Source, Subject
from benchmarks.table import short_names, table
from benchmarks.tradeoff import draw_tradeoff
from mmseg_repvgg import cli
from mmseg_repvgg.analysis.curves import save_figure
from mmseg_repvgg.errors import CheckpointError, ConfigError, WriteError
from mmseg_repvgg.export.int8_graph import INT8
from mmseg_repvgg.export.openvino_graph import convolutions
from mmseg_repvgg.reparam import RepConv
from repvgg_runtime.backends import open_backend
from repvgg_runtime.cores import usable_cores
from repvgg_runtime.kernels.build import library

QUICK = Protocol(1, (33, 65), 1, 4)
IN_TORCH = ['training', 'fused', 'channels-last']
needs_export = pytest.mark.skipif(
    not all(map(find_spec, ('onnx', 'onnxscript', 'onnxruntime', 'openvino'))),
    reason='of the extra `export`',
)


@pytest.fixture
def ours(street_config, tmp_path) -> Config:
    """A narrow RepVGG with every kind of layer."""
    model = street_config.model
    model.backbone.update(arch=dict(depths=(1, 2, 2, 1), a=0.25, b=0.25), dilation='full')
    model.decode_head.update(in_channels=128, channels=16)
    model.auxiliary_head.update(in_channels=64, channels=16)
    return street_config


@pytest.fixture
def files(ours, tmp_path) -> list[str]:
    """Its config, and that of a peer whose norms can be folded."""
    theirs = copy.deepcopy(ours)
    theirs.model.backbone = dict(
        type='ResNetV1c',
        depth=18,
        base_channels=8,
        stem_channels=8,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        contract_dilation=True,
        norm_cfg=dict(type='SyncBN'),
    )
    theirs.model.decode_head.update(in_channels=64)
    theirs.model.auxiliary_head.update(in_channels=32)
    paths = [tmp_path / 'net_ours_small.py', tmp_path / 'net_theirs_small.py']
    for cfg, path in zip((ours, theirs), paths):
        cfg.dump(path)
    return [str(path) for path in paths]


@pytest.fixture
def sources(files) -> list[Source]:
    return [Source(name, path) for name, path in zip(('ours', 'theirs'), files)]


@pytest.fixture
def weights(files, randomize_norms, tmp_path) -> list[str]:
    """Checkpoints with norms as after training."""
    paths = []
    for file in files:
        model = randomize_norms(MODELS.build(Config.fromfile(file).model))
        paths.append(f'{file}.pth')
        torch.save({'state_dict': model.state_dict()}, paths[-1])
    return paths


def setup(tmp_path, **changes) -> Setup:
    return dataclasses.replace(
        Setup((2, 3, 33, 65), 1, 'cpu', False, str(tmp_path)), **changes
    )


@pytest.fixture
def main(monkeypatch, repo, tmp_path):
    """The tool, in this process: what it prints, and the status of its exit."""
    path = repo / 'tools' / 'benchmark.py'
    # Python adds the folder of a script to the path.
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location('benchmark_tool', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.chdir(tmp_path)

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['benchmark.py', *map(str, args)])
        cli.run(tool.main)

    return run


# What is measured ---------------------------------------------------------------------


@pytest.mark.isa
@pytest.mark.parametrize('whole', [True, False])
def test_every_form_computes_the_same(files, weights, tmp_path, whole):
    for number, (file, checkpoint) in enumerate(zip(files, weights)):
        source = Source(f'net{number}', file, checkpoint=checkpoint)
        subject = Subject(source, setup(tmp_path, backbone_only=not whole))
        trained, fused = FORMS['training'].make(subject)(), FORMS['fused'].make(subject)()
        assert fused.shape == ((2, 19, 33, 65) if whole else trained.shape)
        assert runtimes.difference(trained, fused) < 1e-5
        assert runtimes.difference(FORMS['channels-last'].make(subject)(), fused) < 1e-5
        assert 1e-4 < runtimes.difference(FORMS['bf16'].make(subject)(), fused) < 0.2
        if whole and find_spec('openvino') and number == 0:
            by_winograd = ['openvino-winograd'] if library() else []
            phases = ('phases', 'onnxruntime-phases', 'openvino-phases')
            for form in ('onnxruntime', 'openvino', *by_winograd, *phases):
                assert runtimes.difference(FORMS[form].make(subject)(), fused) < 1e-4
        # For peers too: nothing is left that could be folded, nor anything of training.
        kinds = {type(module) for module in subject.fused.modules()}
        assert not any(issubclass(kind, (_BatchNorm, RepConv)) for kind in kinds)
        assert any(isinstance(m, _BatchNorm) for m in subject.trained.modules())
        assert not any(
            'auxiliary' in name for name, _ in subject.fused.named_parameters()
        )


def test_report_has_all_variants_and_ratios(sources, tmp_path):
    path = tmp_path / 'new' / 'out.json'
    seen = []

    before = torch.get_num_threads()

    def keep(report):
        assert torch.get_num_threads() == (before if report.complete else 1)
        report.save(path)
        seen.append(json.loads(path.read_text()))

    report = benchmark(sources, IN_TORCH, QUICK, threads=1, on_progress=keep)
    stored = json.loads(path.read_text())
    assert not list(path.parent.glob('.*'))
    assert [(row['name'], row['form']) for row in stored['variants']] == [
        (name, form) for name in ('ours', 'theirs') for form in IN_TORCH
    ]
    for row in stored['variants']:
        assert row['failure'] is None
        assert row['output_error'] < 1e-5
        assert row['weights'] == 'random'
        assert len(row['seconds']) == 4
        assert row['images_per_second'] == pytest.approx(1 / row['spread']['median'])
    assert stored['complete']
    assert [each['complete'] for each in seen[:-1]] == [False] * (len(seen) - 1)
    assert [each['rounds'] for each in seen[-5:]] == [1, 2, 3, 4, 4]
    assert stored['setup']['shape'] == [1, 3, 33, 65]
    assert stored['setup']['threads'] == 1
    assert torch.get_num_threads() == before
    # The version of some wheels lacks the part behind the plus.
    assert torch.__version__.startswith(stored['machine']['versions']['torch'])
    assert str(tmp_path) not in path.read_text()

    name, form = stored['baseline'].split(':')
    assert (name, form) == ('ours', stored['best']['ours'])
    best = report.best('ours')
    medians = {key: report.timings.spread(key).median for key in report.timed}
    assert medians[best.key] == min(medians[f'ours:{form}'] for form in IN_TORCH)
    assert report.speedup(best).median == 1
    pairs = zip(best.seconds, report.timed['theirs:fused'].seconds)
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    median = report.speedup(report.timed['theirs:fused']).median
    assert median == pytest.approx((ratios[1] + ratios[2]) / 2)

    text = table(report)
    assert 'batch 1, 33x65, 1 thread, cpu, 4 rounds by turns after 1' in text
    assert text.count('| theirs') == 4
    assert f'Times as fast as ours ({best.form})' in text


def test_failing_forms_do_not_stop_the_others(sources, monkeypatch):
    def missing(subject):
        raise MemoryError('not enough of it\nand more')

    def wrong(subject):
        run = FORMS['fused'].make(subject)
        return lambda: run() * 1.01

    def lost(subject):
        run = FORMS['fused'].make(subject)
        return lambda: run() * float('nan')

    for name, make in (('missing', missing), ('wrong', wrong), ('lost', lost)):
        monkeypatch.setitem(FORMS, name, Form(make))
    forms = ['missing', 'wrong', 'lost', 'fused']
    report = benchmark(sources[:1], forms, QUICK, threads=1)
    failures = [variant.failure for variant in report.variants]
    assert failures[0] == 'MemoryError: not enough of it'
    assert 'computes something else: its output differs by 1.0e-02' in failures[1]
    assert 'computes something else: its output differs by nan' in failures[2]
    assert failures[3] is None
    assert list(report.timed) == ['ours:fused']
    assert 'missing: MemoryError: not enough of it' in table(report)
    with pytest.raises(ConfigError, match='nothing can be run here: ours:missing'):
        benchmark(sources[:1], ['missing'], QUICK, threads=1)


def test_winograd_is_not_timed_without_its_kernel(sources, monkeypatch):
    """PyTorch's convs would be timed under another name."""
    monkeypatch.setattr(runtimes, 'library', lambda: None)
    report = benchmark(sources[:1], ['fused', 'winograd', 'auto'], QUICK, threads=1)
    assert list(report.timed) == ['ours:fused']
    assert 'winograd.cpp could not be compiled here' in report.variants[1].failure


@needs_export
def test_openvino_without_bfloat16_is_refused(tmp_path, monkeypatch):
    """OpenVINO falls back to float32 on a processor without bfloat16."""
    openvino = importlib.import_module('openvino')
    ops = importlib.import_module('openvino.opset13')
    x = ops.parameter([1, 4], np.float32)
    openvino.save_model(openvino.Model([ops.relu(x)], [x]), tmp_path / 'x.xml')
    setup = Setup((1, 4), 1, 'cpu', False, '')
    subject = SimpleNamespace(
        onnx=tmp_path / 'x.xml', setup=setup, input=torch.ones(1, 4)
    )
    compile_model = openvino.Core.compile_model

    def without_bfloat16(self, model, device, settings):
        settings['INFERENCE_PRECISION_HINT'] = 'f32'
        return compile_model(self, model, device, settings)

    monkeypatch.setattr(openvino.Core, 'compile_model', without_bfloat16)
    assert FORMS['openvino'].make(subject)().tolist() == [[1, 1, 1, 1]]
    with pytest.raises(ConfigError, match='computes in f32 here: this processor has no'):
        FORMS['openvino-bf16'].make(subject)


def test_int8_names_missing_instructions(sources, monkeypatch):
    monkeypatch.setattr(runtimes, 'missing_for_int8', lambda: 'no VNNI')
    subject = SimpleNamespace(source=dataclasses.replace(sources[0], int8='x.xml'))
    assert runtimes.note(subject, 'int8') == 'no VNNI'
    assert runtimes.note(subject, 'fused') is None


def test_failing_network_does_not_stop_the_others(sources, monkeypatch):
    fused = FORMS['fused'].make

    def too_large(subject):
        if subject.source.name == 'ours':
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return fused(subject)

    monkeypatch.setitem(FORMS, 'fused', Form(too_large))
    report = benchmark(sources, ['training', 'fused'], QUICK, threads=1)
    assert [bool(variant.failure) for variant in report.variants] == [True] * 2 + [
        False
    ] * 2
    # Times are kept even if there are no ratios.
    assert report.reference is None
    assert 'ours, fused: RuntimeError: DefaultCPUAllocator' in table(report)


def test_interrupted_report_keeps_its_rounds(sources, tmp_path):
    path = tmp_path / 'out.json'

    def stop_in_the_second_round(report):
        report.save(path)
        if report.timed and report.timings.rounds == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark(
            sources, ['fused'], QUICK, threads=1, on_progress=stop_in_the_second_round
        )
    stored = json.loads(path.read_text())
    assert (stored['complete'], stored['rounds']) == (False, 2)
    assert all(row['speedup'] for row in stored['variants'])


@pytest.mark.slow
@needs_export
@pytest.mark.skipif(not find_spec('nncf'), reason='of the extra `quantize`')
def test_int8_on_random_numbers_is_noted(sources):
    report = benchmark(sources[:1], ['openvino', 'int8'], QUICK, threads=1)
    int8 = report.timed['ours:int8']
    assert 'calibrated on random numbers' in int8.note
    assert (int8.precision, 1e-4 < int8.output_error < 1) == ('int8', True)
    # It is never the best form, which is float32.
    assert report.best('ours').form == 'openvino'


@pytest.mark.slow
@needs_export
@pytest.mark.skipif(not find_spec('nncf'), reason='of the extra `quantize`')
def test_every_convolution_is_timed_in_int8(ours, tmp_path):
    ours.model.backbone.arch.groups = 2
    ours.dump(tmp_path / 'grouped.py')
    source = Source('grouped', str(tmp_path / 'grouped.py'))
    subject = Subject(source, Setup((1, 3, 33, 65), 1, 'cpu', True, str(tmp_path)))
    precisions = open_backend(subject.int8).precisions()
    model = importlib.import_module('openvino').Core().read_model(subject.int8)
    types = {name: precisions[name] for name, *_ in convolutions(model)}
    assert len(types) == 7
    assert not {name: found for name, found in types.items() if found not in INT8}


@pytest.mark.slow
def test_memory_of_a_form():
    source = Source('A0', 'A0')
    protocol = Protocol(1, (64, 64), 0, 1)
    report = benchmark(
        [source], ['fused'], protocol, threads=1, backbone_only=True, memory=True
    )
    (variant,) = report.variants
    # 7.0 million parameters of 4 bytes, and the code that is read in meanwhile.
    assert 28e6 < variant.memory.model < 50e6
    assert report.as_json()['variants'][0]['memory']['run'] == variant.memory.run >= 0
    assert f'{variant.memory.model / 1e6:.0f} + ' in table(report)


def test_description_of_the_machine_has_no_paths():
    facts = describe_machine()
    assert facts['cores'] == usable_cores() >= 1
    assert '/' not in json.dumps({**facts, 'processor': ''})


# The paper's protocol -----------------------------------------------------------------


@pytest.mark.slow
def test_paper_protocol_at_a_small_size(ours, files, tmp_path, main, capsys):
    """Small networks run under the names of the paper's six, in all forms of a CPU."""
    theirs = Config.fromfile(files[1])
    for name in PAPER:
        cfg = theirs if '_r' in name.replace('_repvgg', '') else copy.deepcopy(ours)
        if cfg is not theirs:
            cfg.model.backbone.dilation = 'fast' if 'fast' in name else 'full'
        cfg.dump(tmp_path / f'{name}.py')
    # No time is left for what is slow to get ready, and for 3 rounds nevertheless.
    main(
        *['--protocol', 'paper', *(f'{name}.py' for name in PAPER), '--baseline', R50],
        *['--device', 'cpu', '--size', 33, 65, '--batch', 2, '--threads', 1],
        *['--budget', '1e-9', '--out', 'out.json'],
    )
    stored = json.loads((tmp_path / 'out.json').read_text())
    assert stored['complete']
    assert (stored['rounds'], stored['protocol']['warmup']) == (3, 1)
    forms = ['training', 'fused', 'channels-last', 'compile', 'bf16']
    rows = {(row['name'], row['form']): row for row in stored['variants']}
    assert list(rows) == [(name, form) for name in PAPER for form in forms]
    for (_, form), row in rows.items():
        late = 'left out, since half of --budget had been used' in (row['failure'] or '')
        assert late == (form == 'compile')
        assert len(row['seconds']) == (0 if late else 3)

    def ratio(name, other, form, other_form=None):
        ours, theirs = rows[name, form], rows[other, other_form or form]
        pairs = zip(ours['seconds'], theirs['seconds'])
        return sorted(their / our for our, their in pairs)[1]

    found = {
        title: {key: spread['median'] for key, spread in speedups.items()}
        for title, speedups in stored['paper_speedups'].items()
    }
    fast = B2.replace('_cityscapes', '_fast_cityscapes')
    assert {title: len(found[title]) for title in found} == {
        'ResNet-50 in the same form': 5 * 4,
        'ResNet-101 in the same form': 5 * 4,
        'the fast net in the same form': 2 * 4,
        'its training form': 6 * 3,
    }
    assert found['ResNet-50 in the same form'][f'{B2}:bf16'] == ratio(B2, R50, 'bf16')
    assert found['the fast net in the same form'][f'{B2}:fused'] == ratio(
        B2, fast, 'fused'
    )
    assert found['its training form'][f'{R50}:fused'] == ratio(
        R50, R50, 'fused', 'training'
    )
    said = capsys.readouterr().out
    assert 'Times as fast as its training form' in said
    assert 'MB' not in said


def test_defaults_of_the_paper_protocol(main, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        main('--protocol', 'paper', '--device', 'cpu', '--baseline', 'none')
    said = capsys.readouterr().err
    assert f'{", ".join(PAPER)}; training, fused, channels-last, compile, bf16' in said
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit):
        main('--protocol', 'paper', '--threads', 0)
    said = capsys.readouterr().err
    assert said.startswith('error: --device cuda needs a CUDA device')
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    'form', ['training', 'fused', 'channels-last', 'tf32', 'compile']
)
def test_only_the_tf32_form_computes_in_tf32(sources, tmp_path, monkeypatch, form):
    """PyTorch's own default for convolutions is TF32."""
    allowed = []

    @contextlib.contextmanager
    def noting(allow):
        allowed.append(allow)
        yield

    monkeypatch.setattr(runtimes, 'tf32', noting)
    monkeypatch.setattr(torch, 'compile', lambda network, **_: network)
    FORMS[form].make(Subject(sources[0], setup(tmp_path)))()
    assert allowed == [form == 'tf32']


# What is refused ----------------------------------------------------------------------


def test_different_inputs_or_threads_are_refused(files, sources, ours, tmp_path):
    ours.model.backbone.in_channels = 4
    ours.dump(tmp_path / 'four.py')
    four = Source('four', str(tmp_path / 'four.py'))
    with pytest.raises(ConfigError, match='different input channels.*ours 3, four 4'):
        benchmark([sources[0], four], ['fused'], QUICK, threads=1)
    with pytest.raises(
        ConfigError, match=f'--threads must be from 1 to {usable_cores()}'
    ):
        benchmark(sources, ['fused'], QUICK, threads=usable_cores() + 1)
    with pytest.raises(ConfigError, match='ours is given twice'):
        benchmark([sources[0]] * 2, ['fused'], QUICK, threads=1)


@needs_export
def test_int8_file_of_another_input_is_refused(sources, tmp_path):
    from mmseg_repvgg.export.formats import write_openvino

    path = tmp_path / 'x.xml'
    for changes, complaint in (
        ({}, 'x.xml takes images of 2x3x33x65, but .* 1x3x33x65'),
        ({'quantized': None}, 'is not int8'),
        ({'output': 'labels'}, 'not comparable with the other forms'),
    ):
        facts = dataclasses.replace(
            subjects.exporting_facts((2, 3, 33, 65)), **{'quantized': {}, **changes}
        )
        write_openvino(nn.Conv2d(3, 19, 1), path, facts)
        source = dataclasses.replace(sources[0], int8=str(path))
        with pytest.raises(ConfigError, match=complaint):
            benchmark([source], ['fused', 'int8'], QUICK, threads=1)


@pytest.mark.parametrize(
    ('args', 'complaint'),
    [
        (['none.py'], 'the config none.py does not exist'),
        (['B9', '--backbone-only'], 'B9 is neither a config file'),
        (['B0'], 'B0 is a backbone: give --backbone-only'),
        (['A0-slow', '--backbone-only'], 'dilation'),
        (['A0', '--backbone-only', '--forms', 'fastest'], '--forms must be among'),
        (['A0', '--backbone-only', '--baseline', 'B0'], '--baseline B0 is not among'),
        (['A0', '--backbone-only', '--baseline', 'A0:bf16'], 'is not among'),
        (['A0', '--backbone-only', '--size', '0', '9'], 'must be at least 1'),
        (['A0', '--backbone-only', '--rounds', '0'], 'must be at least 1'),
        (['A0', '--backbone-only', '--threads', '0'], '--threads must be from 1'),
        (['A0', '--backbone-only', '--checkpoint', 'x.pth'], '--checkpoint takes NAME='),
        (
            ['A0', '--backbone-only', '--checkpoint', 'A0=x'],
            'a checkpoint needs a config',
        ),
        (['A0', '--backbone-only', '--int8', 'B0=x.xml'], '--int8 takes NAME=VALUE'),
        (
            ['A0', '--backbone-only', '--plot', 'x.gif'],
            'must be one of .png, .svg',
        ),
        (['A0', '--backbone-only', '--plot', 'x.png'], '--plot needs --miou'),
        (['A0', '--backbone-only', '--miou', 'A0=high'], '--miou takes numbers'),
        (['A0', '--backbone-only', '--miou', 'no.json'], 'no.json cannot be read'),
        (['A0', '--backbone-only', '--out', 'file/x.json'], 'cannot be written'),
    ],
)
def test_user_errors_are_one_line(main, args, complaint, capsys, tmp_path):
    (tmp_path / 'file').write_text('')
    quick = [] if '--size' in args else ['--size', '32', '32']
    with pytest.raises(SystemExit) as left:
        main(*args, *quick)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert complaint in said
    (line,) = (line for line in said.splitlines() if line.startswith('error: '))
    assert said.rstrip().endswith(line)
    assert not list(tmp_path.glob('*.json'))


def test_checkpoint_of_another_network_is_refused(sources, weights):
    source = dataclasses.replace(sources[0], checkpoint=weights[1])
    with pytest.raises(CheckpointError):
        benchmark([source], ['fused'], QUICK, threads=1)


def test_forms_are_refused_on_other_devices(sources):
    with pytest.raises(ConfigError, match='onnxruntime is measured on the CPU only'):
        benchmark(sources, ['onnxruntime'], QUICK, threads=1, device='cuda')
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match='--device cuda needs a CUDA device'):
            benchmark(sources, ['fused'], QUICK, threads=1, device='cuda')
    with pytest.raises(ConfigError, match='cuda-graphs is measured on a GPU only'):
        benchmark(sources, ['cuda-graphs'], QUICK, threads=1)


# Tables and pictures ------------------------------------------------------------------


def report_of(seconds: dict[str, list[float]], **changes) -> Report:
    """A report of given numbers; a name that begins with r is of a ResNet."""
    variants = []
    for key, taken in seconds.items():
        name, form = key.split(':')
        backbone = 'ResNetV1c' if '_r' in name and 'repvgg' not in name else 'RepVGG'
        variants.append(
            Variant(name, backbone, form, FORMS[form].precision, 'random', seconds=taken)
        )
    for name in dict.fromkeys(variant.name for variant in variants):
        for form in dict.fromkeys(variant.form for variant in variants):
            if f'{name}:{form}' not in seconds:
                variants.append(Variant(name, '', form, '', 'random', failure='OOM'))
    shape = Setup((1, 3, 256, 512), 1, 'cpu', False, '')
    baseline = changes.pop('baseline', variants[0].name)
    return Report(shape, QUICK, {}, variants, baseline, 1, True)


R50, B1, B2 = (
    'pspnet_r50_cityscapes',
    'pspnet_repvgg_b1g2_fast_cityscapes',
    'pspnet_repvgg_b2_cityscapes',
)
MEASURED = {
    f'{R50}:fused': [0.5, 0.5, 0.6],
    f'{R50}:openvino': [0.4, 0.4, 0.5],
    f'{B1}:fused': [0.2, 0.2, 0.2],
    f'{B1}:int8': [0.1, 0.1, 0.1],
    f'{B2}:fused': [0.8, 0.8, 1.0],
}


def test_table_shows_the_ratios_of_the_paper():
    text = table(report_of(MEASURED))
    of_resnet = text.split('Times as fast as ResNet-50 in the same form')[1]
    lines = [line.replace(' ', '') for line in of_resnet.splitlines()]
    assert "||thepaper's|fused|openvino|int8|" in lines
    assert '|repvgg_b1g2_fast|1.05|2.50|||' in lines
    assert '|repvgg_b2|0.43|0.62|||' in lines
    assert not any(line.startswith('|r50') for line in lines)
    lines = [line.replace(' ', '') for line in text.splitlines()]
    assert '|r50|500|**400**|failed|' in lines
    assert '|repvgg_b1g2_fast|**200**|failed|100|' in lines
    assert '|r50|**openvino**|2.5|1.00(1.00to1.00)|1.00|' in lines
    assert '|repvgg_b1g2_fast|**fused**|5|2.00(2.00to2.25)|1.05|' in lines
    assert '|repvgg_b1g2_fast|int8|10|4.00(4.00to4.50)||' in lines
    assert '|repvgg_b2|**fused**|1.25|0.50(0.50to0.50)|0.43|' in lines
    against = table(report_of(MEASURED, baseline=f'{R50}:fused'))
    assert 'Times as fast as r50 (fused)' in against
    assert paper_ratio(B1, 'mine') is None


def test_slower_bfloat16_is_noted():
    seconds = {f'{R50}:fused': [0.5, 0.5], f'{R50}:bf16': [0.6, 0.7]}
    slower = f'- {R50}, bf16: slower than float32 (fused)'
    assert slower in table(report_of(seconds))
    seconds[f'{R50}:bf16'] = [0.4, 0.4]
    assert 'slower than float32' not in table(report_of(seconds))


def test_earlier_report_with_another_baseline(tmp_path, main, capsys):
    report = report_of(MEASURED)
    report.variants[0].memory = PeakMemory(1_000_000, 5_000_000, 7_000_000)
    report.save(tmp_path / 'out.json')
    assert Report.load(tmp_path / 'out.json').as_json() == report.as_json()
    untimed = dataclasses.replace(
        report, variants=[dataclasses.replace(report.variants[0], seconds=[])]
    )
    untimed.save(tmp_path / 'untimed.json')
    main('--from', 'out.json', '--baseline', f'{B2}:fused', '--out', 'new.json')
    shown = capsys.readouterr().out
    assert 'Times as fast as repvgg_b2 (fused)' in shown
    assert '4 + 2' in shown
    assert json.loads((tmp_path / 'new.json').read_text())['baseline'] == f'{B2}:fused'
    for args, complaint in (
        (['--from', 'out.json', '--baseline', 'B9'], '--baseline B9 is not among'),
        (['--from', 'none.json'], 'none.json is not a report'),
        (['--from', 'untimed.json'], 'untimed.json is not a report of mmseg-repvgg'),
        (['--from', 'out.json', 'A0'], 'give the configs to measure, or --from'),
        ([], 'give the configs to measure, or --from'),
    ):
        with pytest.raises(SystemExit):
            main(*args)
        assert complaint in capsys.readouterr().err


def test_short_names():
    assert short_names([R50, B2]) == ['r50', 'repvgg_b2']
    assert short_names(['a_x', 'a']) == ['a_x', 'a']
    assert short_names([R50]) == [R50]


def test_tradeoff_shows_speed_against_accuracy(tmp_path):
    figure = draw_tradeoff(
        report_of(MEASURED), {name: PAPER[name].miou for name in (R50, B1)}, 'the paper'
    )
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == {
        'r50, openvino',
        'repvgg_b1g2_fast, fused',
    }
    points = {round(float(line.get_xdata()[0]), 3) for line in axes.lines}
    assert {1.0, 2.0, round(10.9 / 10.4, 3)} <= points
    assert axes.get_ylabel() == 'mIoU (%), the paper'
    assert 'the paper' in figure.legends[0].get_texts()[-1].get_text()
    for kind in ('png', 'svg'):
        save_figure(figure, tmp_path / f'plot.{kind}')
        assert (tmp_path / f'plot.{kind}').stat().st_size > 5000
    assert pyplot.get_fignums() == []
    # One's own figures do not mention the paper.
    own = draw_tradeoff(report_of(MEASURED), {R50: 60.0, B2: 61.0})
    assert len(own.legends[0].get_texts()) == 2
    with pytest.raises(ConfigError, match='nothing to draw'):
        draw_tradeoff(report_of(MEASURED), {'another': 70.0})


def test_unwritable_report_leaves_nothing(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(WriteError, match='cannot be written'):
        report_of(MEASURED).save(tmp_path / 'file' / 'x.json')
    assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.slow
def test_compiled_form_computes_the_same(sources):
    report = benchmark(sources[:1], ['compile'], QUICK, threads=1)
    assert report.timed['ours:compile'].output_error < 1e-5


@pytest.mark.slow
def test_tool(files, tmp_path, run_tool):
    (tmp_path / 'miou.json').write_text('{"net_ours_small": 50, "net_theirs_small": 51}')
    result = run_tool(
        'benchmark.py',
        *files,
        '--forms',
        'training',
        'fused',
        '--size',
        33,
        65,
        '--rounds',
        3,
        '--threads',
        1,
        '--baseline',
        'net_theirs_small:fused',
        '--out',
        'out.json',
        '--plot',
        'plot.png',
        'plot.svg',
        '--miou',
        'miou.json',
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert 'Times as fast as theirs (fused)' in result.stdout
    stored = json.loads((tmp_path / 'out.json').read_text())
    assert stored['complete']
    assert stored['baseline'] == 'net_theirs_small:fused'
    assert [row['failure'] for row in stored['variants']] == [None] * 4
    assert (tmp_path / 'plot.png').stat().st_size > 5000
    assert (tmp_path / 'plot.svg').stat().st_size > 5000


def test_another_process_builds_the_same(sources, tmp_path):
    first = benchmarking.build(sources[0], 'fused', setup(tmp_path))()
    torch.manual_seed(5)
    assert torch.equal(first, benchmarking.build(sources[0], 'fused', setup(tmp_path))())
