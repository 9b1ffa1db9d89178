import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / 'checkpoints'))


def pytest_addoption(parser):
    parser.addoption(
        '--record', action='store_true', help='write tests/checkpoints/recorded anew'
    )
