_base_ = [
    '_base_/models/pspnet_small.py',
    '_base_/datasets/folder.py',
    '_base_/schedules/folder.py',
    '_base_/runtime.py',
]
norm_cfg = {{_base_.norm_cfg}}
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(type='RepVGG', arch='A0', dilation='fast', norm_cfg=norm_cfg),
    decode_head=dict(in_channels=1280),
    auxiliary_head=dict(in_channels=192),
)
