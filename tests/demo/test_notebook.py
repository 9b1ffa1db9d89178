"""The notebook runs from top to bottom, and what it shows is true."""

import base64
import copy
import re
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

REPO = Path(__file__).parents[2]
NOTEBOOK = REPO / 'docs/street_scenes.ipynb'

NEEDED = ('nbformat', 'nbclient', 'ipykernel', 'onnxruntime', 'openvino', 'nncf')
MISSING = [name for name in NEEDED if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f'needs {", ".join(MISSING)}')

FORMS = ('training form', 'fused form', 'ONNX Runtime', 'OpenVINO', 'OpenVINO int8')
SMALL = 'SCENES, ITERATIONS = 8, 2\nHEIGHT, WIDTH = 64, 128'


@pytest.fixture(scope='module')
def stored():
    import nbformat

    return nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)


@pytest.fixture(scope='module')
def executed(stored, tmp_path_factory):
    """Execute it with small scenes in a real kernel; return its cells and its folder."""
    import nbclient
    import nbformat

    notebook, folder = copy.deepcopy(stored), tmp_path_factory.mktemp('notebook')
    (index,) = (
        i
        for i, cell in enumerate(notebook.cells)
        if 'parameters' in cell.metadata.get('tags', [])
    )
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(SMALL))
    client = nbclient.NotebookClient(
        notebook,
        timeout=900,
        kernel_name='python3',
        resources={'metadata': {'path': str(folder)}},
    )
    with pytest.MonkeyPatch.context() as patch:
        # Jupyter and IPython write into the home folder otherwise.
        for name in ('IPYTHONDIR', 'JUPYTER_RUNTIME_DIR'):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        client.execute()
    return {cell.id: cell for cell in notebook.cells}, folder


def text(cell):
    """Return what a cell printed or shows as text."""
    shown = [
        each.text if each.output_type == 'stream' else each.data.get('text/plain', '')
        for each in cell.outputs
    ]
    return ''.join(shown)


def test_stored_notebook_is_valid_and_has_no_outputs(stored):
    import nbformat

    nbformat.validate(stored)
    for cell in stored.cells:
        if cell.cell_type == 'code':
            assert not cell.outputs, cell.id
            assert cell.execution_count is None, cell.id


@pytest.mark.slow
def test_every_file_is_in_the_work_dir(executed):
    _, folder = executed
    assert [path.name for path in folder.iterdir()] == ['work_dirs']
    work_dir = folder / 'work_dirs/street_scenes'
    files = {path.name for path in work_dir.iterdir() if path.is_file()}
    exported = {'street.onnx', 'street.xml', 'street.bin'}
    assert files == exported | {'street_int8.xml', 'street_int8.bin'}
    assert (work_dir / 'training/iter_2.pth').is_file()


@pytest.mark.slow
def test_training_shows_one_line_of_progress(executed):
    cells, _ = executed
    assert re.fullmatch(
        r'Iteration 2 of 2, [\d.]+ s each, 0:00:00 left  loss [\d.]+',
        text(cells['train']),
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', ['scenes', 'curves', 'overlay', 'pictures'])
def test_pictures_are_shown(executed, name):
    cells, _ = executed
    (data,) = (each.data for each in cells[name].outputs if 'data' in each)
    content = np.frombuffer(base64.b64decode(data['image/png']), np.uint8)
    picture = cv2.imdecode(content, cv2.IMREAD_COLOR)
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 10


@pytest.mark.slow
def test_block_fused_by_hand_equals_its_branches(executed):
    cells, _ = executed
    largest, difference = map(float, re.findall(r'\S+$', text(cells['fuse']), flags=re.M))
    assert largest > 0.1
    assert difference < 1e-5 * largest


@pytest.mark.slow
def test_forms_agree(executed):
    cells, _ = executed
    rows = {}
    for line in text(cells['compare']).splitlines():
        name, *numbers = (part.strip() for part in line.strip('|').split('|'))
        if name in FORMS:
            rows[name] = [float(number) for number in numbers]
    assert tuple(rows) == FORMS
    same, miou, megabytes, _ = (dict(zip(rows, column)) for column in zip(*rows.values()))
    for name in ('fused form', 'ONNX Runtime', 'OpenVINO'):
        assert same[name] > 99.9
        assert miou[name] == pytest.approx(miou['training form'], abs=0.05)
    assert megabytes['fused form'] < megabytes['training form']
    assert megabytes['OpenVINO int8'] < 0.3 * megabytes['OpenVINO']
