"""Hundreds of damaged checkpoints are each refused or loaded correctly."""

import io
import random

import torch

from mmseg_repvgg import RepVGG
from mmseg_repvgg.errors import CheckpointError

TINY = dict(depths=(1, 1, 1, 1), a=0.125, b=0.125)
TRIES = 600


def saved(state):
    buffer = io.BytesIO()
    torch.save({'state_dict': state, 'meta': {'iter': 3}}, buffer)
    return buffer.getvalue()


def mutate(rng, state, data):
    """Damage a checkpoint; return what was done and the bytes."""
    kind = rng.choice(
        ['cut', 'flip', 'missing', 'shape', 'dtype', 'nan', 'noise', 'extra', 'no tensor']
    )
    changed = dict(state)
    key = rng.choice(list(state))
    if kind == 'cut':
        return kind, data[: rng.randrange(len(data))]
    if kind == 'flip':
        spoilt = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return kind, bytes(spoilt)
    if kind == 'noise':
        return kind, rng.randbytes(rng.randrange(3000))
    if kind == 'missing':
        del changed[key]
    elif kind == 'shape':
        shape = (*state[key].shape, 2) if rng.random() < 0.5 else (3,)
        changed[key] = torch.zeros(shape)
    elif kind == 'dtype':
        changed[key] = state[key].to(rng.choice([torch.int8, torch.float16, torch.bool]))
    elif kind == 'nan':
        changed[key] = torch.full(state[key].shape, float(rng.choice(['nan', 'inf'])))
    elif kind == 'extra':
        changed[rng.choice(['stage_9.0.conv.weight', 'stem.more', ''])] = torch.ones(1)
    else:
        changed[key] = rng.choice([None, 3, 'text', [1]])
    return f'{kind} {key}', saved(changed)


def test_damaged_checkpoints_are_refused_or_loaded_correctly(tmp_path, randomize_norms):
    source = randomize_norms(RepVGG(TINY))
    state = source.state_dict()
    data = saved(state)
    rng = random.Random(0)
    model = RepVGG(TINY)
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    errors = loads = 0
    for number in range(TRIES):
        path = tmp_path / f'spoilt {number}.pth'
        what, spoilt = mutate(rng, state, data)
        path.write_bytes(spoilt)
        model.init_cfg = dict(type='Pretrained', checkpoint=str(path))
        model._is_init = False
        try:
            model.init_weights()
        except CheckpointError as error:
            assert path.name in str(error), (what, str(error))
            now, expected, errors = model.state_dict(), fresh, errors + 1
        else:
            now, expected, loads = model.state_dict(), state, loads + 1
            if what.startswith(('dtype', 'missing')):  # float16; a counter
                expected = {k: v for k, v in state.items() if k not in what}
        for key, value in expected.items():
            assert torch.equal(now[key], value), (what, key)
        model.load_state_dict(fresh)
        path.unlink()
    assert loads > 0
    assert errors > TRIES / 2
