"""The rooms import one way, as docs/design.md states."""

import ast

import pytest

# A room imports from itself and from the rooms before it. Modules that belong to no room
# are listed as rooms of their own.
ROOMS = [
    *['errors', 'special_files', 'cores', 'registry_types'],
    *['winograd', 'reparam', 'checkpoints', 'safe_loading', 'models', 'datasets'],
    *['hooks', 'engine', 'analysis', 'export', 'cli'],
]
PLAIN_PYTORCH = ['winograd', 'reparam']


def imported_modules(path, package):
    """Yield the dotted name of everything that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [each.name for each in node.names]
            yield from ('.'.join([*base, name]) for name in names)


def imports_of(repo, room):
    for path in [
        repo / f'mmseg_repvgg/{room}.py',
        *repo.glob(f'mmseg_repvgg/{room}/*.py'),
    ]:
        if path.exists():
            package = path.relative_to(repo).parts[:-1]
            yield from imported_modules(path, package)


def test_every_room_is_listed(repo):
    found = {
        path.stem
        for path in (repo / 'mmseg_repvgg').iterdir()
        if path.suffix == '.py' or (path / '__init__.py').exists()
    }
    assert found - {'__init__'} == set(ROOMS)


@pytest.mark.parametrize('room', ROOMS)
def test_room_imports_only_rooms_before_it(repo, room):
    ours = {
        name.split('.')[1]
        for name in imports_of(repo, room)
        if name.startswith('mmseg_repvgg.') and name != 'mmseg_repvgg.__version__'
    }
    assert ours <= set(ROOMS[: ROOMS.index(room) + 1])


@pytest.mark.parametrize('room', PLAIN_PYTORCH)
def test_room_is_plain_pytorch(repo, room):
    roots = {name.split('.')[0] for name in imports_of(repo, room)}
    assert not roots & {'mmseg', 'mmengine', 'mmcv'}


def test_package_does_not_import_what_surrounds_it(repo):
    roots = {name.split('.')[0] for room in ROOMS for name in imports_of(repo, room)}
    assert not roots & {'benchmarks', 'demo', 'tools', 'tests'}
