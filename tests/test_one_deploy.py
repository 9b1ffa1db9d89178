"""One way to fuse, ``mmseg_repvgg.deploy``, and all that is shipped goes through it.

Read from the source, so that a second way is found before anything calls it.
"""

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PACKAGE = 'mmseg_repvgg'

# What fuses, by the names it has here and in other projects, and what one would look at
# in order to fuse.
FUSING = re.compile(
    r'(^|_)(fuse|fold|reparameteri[sz]e)(_|$)|^switch_to_deploy$|^_deployed$|^rbr_'
    r'|^get_equivalent_kernel|^add_parallel$|^conv_like$|^identity_kernel$'
    r'|^RepConv$|^ConvBN$|^branch_(3x3|1x1|identity|norm|reparam)$'
)

# Where such names may stand, all of them and no more, and why.
ALLOWED = {
    # The arithmetic, and the module that has the branches: one conv, never a tree.
    'mmseg_repvgg/reparam/algebra.py': {
        'add_parallel',
        'fold_batch_norm',
        'identity_kernel',
    },
    'mmseg_repvgg/reparam/blocks.py': {
        'ConvBN',
        'RepConv',
        'add_parallel',
        'branch_1x1',
        'branch_3x3',
        'branch_identity',
        'conv_like',
        'fold_batch_norm',
        'fuse',
        'identity_kernel',
    },
    'mmseg_repvgg/reparam/__init__.py': {'RepConv'},
    # The walk.
    'mmseg_repvgg/reparam/deploy.py': {'RepConv', '_deployed', 'fuse'},
    # Builds the training form.
    'mmseg_repvgg/models/repvgg.py': {'RepConv'},
    # Trains a block of it, to time bfloat16.
    'mmseg_repvgg/engine/precision.py': {'RepConv'},
    # Tensors of a file, where there is no model to deploy: the same arithmetic, and
    # tests/models/test_layouts.py asks for the same bits as deploy gives.
    'mmseg_repvgg/models/layouts.py': {
        '_fuse_block',
        'add_parallel',
        'fold_batch_norm',
        'fuse_state_dict',
        'identity_kernel',
    },
    'mmseg_repvgg/models/state_dict.py': {'fuse_state_dict'},
    # `fuse` is the user's choice there: whether to.
    'mmseg_repvgg/checkpoints/convert.py': {'fuse', 'fuse_state_dict'},
    'tools/convert_checkpoint.py': {'fuse'},
    # Norms of heads and of ResNet, in what deploy returned: without, a benchmark would
    # flatter RepVGG.
    'mmseg_repvgg/analysis/subjects.py': {'fuse_conv_bn'},
}

# What measures, exports or evaluates, and the module on its way that deploys for it, or
# sees to it that DeployHook does.
FUSED_BY = {
    'benchmark.py': 'analysis/subjects.py',
    'benchmark_winograd.py': 'analysis/subjects.py',
    'compare_forms.py': 'analysis/forms.py',
    'export.py': 'export/exporting.py',
    'get_flops.py': 'analysis/complexity.py',
    'quantize.py': 'export/quantizing.py',
    'test.py': 'engine/launch.py',
    'train.py': 'engine/launch.py',
}
# It runs what export.py or quantize.py has written.
RUN_FILES = {'evaluate_backend.py'}
RUN_NO_MODEL = {
    # It converts tensors, and runs both files' nets only to compare them.
    'convert_checkpoint.py',
    'make_street_scenes.py',
    'openmp.py',
    'plot_log.py',
    'prepare_camvid.py',
    'prepare_cityscapes.py',
}


def fusing_names(source):
    """The identifiers of a source, and the attributes it asks for, that are of fusing."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Name):
            names = [node.id]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.alias):
            names = [*node.name.split('.'), node.asname or '']
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            # hasattr(module, 'rbr_reparam')
            strings = [a.value for a in node.args if isinstance(a, ast.Constant)]
            if node.func.id in ('hasattr', 'getattr', 'setattr', 'methodcaller'):
                names = [name for name in strings if isinstance(name, str)]
        found |= {name for name in names if FUSING.search(name)}
    return found


def sources():
    for folder in (PACKAGE, 'tools', 'configs'):
        for path in sorted((REPO / folder).rglob('*.py')):
            yield path.relative_to(REPO).as_posix(), path.read_text()


@pytest.mark.parametrize(
    'source',
    [
        'for m in model.modules():\n    if hasattr(m, "switch_to_deploy"): pass',
        'for m in model.modules():\n    if isinstance(m, RepConv): m = m.fuse()',
        'convs = [block.conv.fuse for block in blocks]',
        'model = fuse_conv_bn(model)',
        'from torch.nn.utils.fusion import fuse_conv_bn_eval as merge',
        'from torch.ao.quantization import fuse_modules',
        'import torch.fx.experimental.optimization as o\no.fuse(model)',
        'kernel = block.branch_3x3.conv.weight',
        'ready = getattr(block, "rbr_reparam", None)',
        'def reparameterize_model(model): ...',
        'from mmseg_repvgg.reparam.deploy import _deployed',
    ],
)
def test_a_second_way_would_be_found(source):
    assert fusing_names(source)


def test_there_is_no_second_way():
    found = {path: names for path, source in sources() if (names := fusing_names(source))}
    # An entry that nothing needs any more would let something in.
    assert found == ALLOWED


def test_there_is_one_function_of_that_name():
    defined = [
        path
        for path, source in sources()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == 'deploy'
    ]
    assert defined == ['mmseg_repvgg/reparam/deploy.py']


def imported(path):
    """The files of the package that a file imports, and what it takes from each."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            folder = path.parents[node.level - 1]
        elif node.module and node.module.split('.')[0] == PACKAGE:
            folder = REPO
        else:
            continue
        module = folder.joinpath(*(node.module or '').split('.'))
        for alias in node.names:
            for file in (module / f'{alias.name}.py', module.with_suffix('.py')):
                if file.is_file():
                    yield file, alias.name
                    break
            else:
                yield module / '__init__.py', alias.name


def reached(path):
    """All files of the package that are imported when a file is."""
    done, todo = set(), [path]
    while todo:
        for file, _ in imported(todo.pop()):
            if file not in done:
                done.add(file)
                todo.append(file)
    return done


def test_every_tool_is_known():
    tools = {path.name for path in (REPO / 'tools').glob('*.py')}
    assert tools == FUSED_BY.keys() | RUN_FILES | RUN_NO_MODEL


@pytest.mark.parametrize('tool', FUSED_BY)
def test_what_is_measured_or_shipped_is_deployed(tool):
    path = REPO / PACKAGE / FUSED_BY[tool]
    assert path in reached(REPO / 'tools' / tool)
    nodes = list(ast.walk(ast.parse(path.read_text())))
    deploys = any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == 'deploy'
        for node in nodes
    )
    if deploys:
        assert (REPO / PACKAGE / 'reparam' / 'deploy.py', 'deploy') in imported(path)
    else:
        constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
        assert 'DeployHook' in constants


@pytest.mark.parametrize('tool', sorted(RUN_FILES))
def test_what_runs_files_loads_no_checkpoint(tool):
    paths = REPO / 'tools' / tool, REPO / PACKAGE / 'export' / 'evaluate.py'
    assert paths[1] in reached(paths[0])
    taken = {name for path in paths for _, name in imported(path)}
    assert not taken & {'load_model', 'prepare_testing', 'read_checkpoint'}


@pytest.mark.parametrize('tool', sorted(RUN_NO_MODEL - {'convert_checkpoint.py'}))
def test_what_runs_no_model_has_none(tool):
    assert REPO / PACKAGE / 'engine' / 'launch.py' not in reached(REPO / 'tools' / tool)
