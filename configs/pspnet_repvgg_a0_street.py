_base_ = [
    '_base_/models/pspnet_small.py',
    '_base_/datasets/street.py',
    '_base_/schedules/street.py',
    '_base_/runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(type='RepVGG', arch='A0', norm_cfg={{_base_.norm_cfg}}),
    decode_head=dict(in_channels=1280),
    auxiliary_head=dict(in_channels=192),
)
