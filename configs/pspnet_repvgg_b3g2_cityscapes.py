_base_ = [
    '_base_/models/pspnet.py',
    '_base_/datasets/cityscapes.py',
    '_base_/schedules/cityscapes_40e.py',
    '_base_/runtime.py',
]
model = dict(
    backbone=dict(type='RepVGG', arch='B3g2', norm_cfg={{_base_.norm_cfg}}),
    decode_head=dict(in_channels=2560),
    auxiliary_head=dict(in_channels=768),
)
