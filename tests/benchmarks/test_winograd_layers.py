"""Times and errors of single convolutions."""

from benchmarks.winograd_layers import NUMBERS, layer_table, measure_layer
from mmseg_repvgg.winograd.conv import PRECISIONS
from repvgg_runtime.kernels import build


def test_errors_are_those_of_the_precisions():
    measured = measure_layer((64, 32, 2, 18, 20, 2), rounds=3)
    assert list(measured) == ['direct', *PRECISIONS]
    assert all(seconds > 0 for seconds, _ in measured.values())
    direct, highest, high, medium = (error for _, error in measured.values())
    assert max(direct, highest) < 5e-6
    library = build.library()
    if library and library.winograd_has_matrix_units():
        assert 5e-6 < high < 1e-4 < 1e-3 < medium < 5e-2


def test_table_has_a_row_for_each_layer():
    layers = [(32, 48, 1, 9, 7, 1), (32, 32, 1, 9, 7, 2)]
    table = layer_table(layers, threads=1, rounds=3)
    assert [tuple(row[: len(NUMBERS)]) for row in table.rows] == layers
    assert all(len(row) == len(NUMBERS) + 4 for row in table.rows)


def test_tool_prints_the_table(repo, tmp_path, run_tool):
    layer = ['--layer', 32, 32, 1, 9, 7, 2, '--threads', 1, '--rounds', 1]
    done = run_tool('benchmark_layers.py', *layer, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *_, row = done.stdout.splitlines()
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    assert cells[: len(NUMBERS)] == ['32', '32', '1', '9', '7', '2']
    assert len(cells) == len(NUMBERS) + 4
