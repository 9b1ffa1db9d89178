"""Recomputation in the backward pass: equal gradients, less memory."""

import pytest
import torch

from mmseg_repvgg import RepVGG

TINY = dict(depths=(1, 2, 3, 1), a=0.25, b=0.25)
EVEN = dict(depths=(2, 2, 2, 1), a=0.125, b=0.125)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('with_cp', [True, '1x1'])
@pytest.mark.parametrize('arch', [TINY, dict(TINY, se=True)])
def test_with_cp_changes_neither_gradients_nor_statistics(
    arch, with_cp, dtype, one_thread
):
    plain = RepVGG(arch).train()
    saving = RepVGG(arch, with_cp=with_cp).train()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 40, 40)
    for model in (plain, saving):
        with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
            loss = sum(y.float().square().mean() for y in model(x))
        loss.backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters()):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(plain.named_buffers(), saving.buffers()):
        assert torch.equal(a, b), name


@pytest.mark.parametrize('given', [True, 1])
def test_with_cp_recomputes_blocks(given):
    calls = []
    model = RepVGG(TINY, with_cp=given).train()
    model.stage_1[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model(torch.randn(2, 3, 32, 32))[-1].sum().backward()
    assert len(calls) == 2


def test_with_cp_of_1x1_convs_keeps_no_output_of_them():
    def kept(with_cp):
        """Return the bytes of maps that a forward pass keeps for the backward pass."""
        model, storages = RepVGG(TINY, with_cp=with_cp).train(), {}

        def note(tensor):
            if tensor.dim() == 4:
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs = model(torch.randn(2, 3, 64, 64))
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        del outputs
        return sum(size for where, size in storages.items() if where not in weights)

    outputs = []
    model = RepVGG(TINY)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1):
            module.register_forward_hook(lambda *a: outputs.append(a[-1].nbytes))
    model(torch.randn(2, 3, 64, 64))
    assert kept(False) - kept('1x1') == sum(outputs) > 0


def test_residual_pairs_are_recomputed_with_cp():
    calls = []
    model = RepVGG(EVEN, with_cp=True, block='plain', residual=True).train()
    model.stage_1[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    assert len(calls) == 2
