"""The documentation names only files, modules, headings and versions that exist.

Links between the pages of docs/ are checked by ``make docs``.
"""

import ast
import importlib
import re
from pathlib import Path

import pytest
import torch
import yaml

import mmseg_repvgg
from mmseg_repvgg import RepVGG
from mmseg_repvgg.reparam.formulas import BLOCKS, parse
from repvgg_runtime.command import SUBCOMMANDS

REPO = Path(__file__).parents[1]
PAGES = sorted([*REPO.glob('*.md'), *REPO.glob('docs/*.md')])
ids = [str(page.relative_to(REPO)) for page in PAGES]


def prose(page):
    """Return a page without its blocks of code."""
    return re.sub(r'```.*?```', '', page.read_text(), flags=re.S)


def anchors(page):
    """Return the anchors of a page's headings, as GitHub and MkDocs form them."""
    titles = re.findall(r'^#+ (.*)$', prose(page), flags=re.M)
    return {
        re.sub(r'[^\w\- ]', '', title).strip().lower().replace(' ', '-')
        for title in titles
    }


@pytest.mark.parametrize('page', PAGES, ids=ids)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r'\]\((?!https?:)([^)\s]+)\)', prose(page)):
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f'{page.name} links to {target}'
        assert not anchor or anchor in anchors(file), f'{page.name} links to {target}'


@pytest.mark.parametrize('page', PAGES, ids=ids)
def test_paths_in_text_and_commands_exist(page):
    ours = 'mmseg_repvgg|repvgg_runtime|benchmarks|demo'
    others = 'tools|configs|tests|requirements|docs'
    path = rf'(?<![\w/.-])((?:{ours}|{others})/[\w./*{{}},-]+)'
    for found in re.findall(path, page.read_text()):
        if found.startswith('configs/pspnet/'):
            continue  # MMSegmentation's
        # A shell would expand `{a,b}`; one of them has to exist.
        pattern = re.sub(r'\{.*?\}', '*', found).rstrip('.,')
        assert any(REPO.glob(pattern)), f'{page.name} names {found}'


@pytest.mark.parametrize('page', PAGES, ids=ids)
def test_modules_in_text_and_code_exist(page):
    text = page.read_text()
    ours = 'mmseg_repvgg|repvgg_runtime|benchmarks'
    names = set(re.findall(rf'\b(?:{ours})(?:\.[a-zA-Z_]\w*)+', text))
    for block in re.findall(r'```python\n(.*?)```', text, flags=re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                names |= {f'{node.module}.{alias.name}' for alias in node.names}
    for name in names:
        if re.match(rf'(?:{ours}|demo)\b', name):
            assert resolves(name), f'{page.name} names {name}'


@pytest.mark.parametrize('page', PAGES, ids=ids)
def test_commands_have_the_options_that_are_named(page):
    text = page.read_text().replace('\\\n', ' ')
    for name, rest in re.findall(r'mmseg-repvgg ([a-z][a-z-]*)((?: [^`|;&\n]*)?)', text):
        if name not in SUBCOMMANDS:
            continue  # In a sentence.
        target = SUBCOMMANDS[name][0]
        is_tool = target.endswith('.py')
        file = f'tools/{target}' if is_tool else target.replace('.', '/') + '.py'
        code = (REPO / file).read_text() + (REPO / 'mmseg_repvgg/cli.py').read_text()
        known = {*re.findall(r"'(--[a-z][\w-]*)'", code), '--help'}
        used = set(re.findall(r'(?<![\w-])--[a-z][\w-]*', rest))
        assert used <= known, f'{page.name}: {name} has no {used - known}'


def resolves(name):
    """Return whether a dotted name is a module or an attribute of one."""
    parts = name.split('.')
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module('.'.join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def test_design_lists_every_room():
    listed = re.findall(r'^  (\w+)/', (REPO / 'docs/design.md').read_text(), flags=re.M)
    packages = [REPO / 'mmseg_repvgg', REPO / 'repvgg_runtime']
    inits = [path for package in packages for path in package.glob('*/__init__.py')]
    rooms = [path.parent.name for path in inits]
    assert sorted(listed) == sorted(rooms)


def test_versions_agree():
    version = mmseg_repvgg.__version__
    assert yaml.safe_load((REPO / 'CITATION.cff').read_text())['version'] == version
    headings = re.findall(
        r'^## (\d[\w.]*)', (REPO / 'CHANGELOG.md').read_text(), flags=re.M
    )
    assert headings[0] == version


def test_table_of_blocks_has_their_formulas_and_parameters():
    rows = re.findall(
        r'^\| `(\w+)` \| `(.+?)` \| .* \| (yes|no) \| ([\d.]+) \|$',
        (REPO / 'docs/blocks.md').read_text(),
        flags=re.M,
    )
    assert {name: formula for name, formula, *_ in rows} == BLOCKS
    for name, _, fuses, millions in rows:
        with torch.device('meta'):
            backbone = RepVGG('A0', block=name)
        count = sum(parameter.numel() for parameter in backbone.parameters())
        assert f'{count / 1e6:.2f}' == millions, name
        assert (fuses == 'yes') == parse(name).fuses
