_base_ = [
    '_base_/models/pspnet_small.py',
    '_base_/datasets/camvid.py',
    '_base_/schedules/camvid.py',
    '_base_/runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(161, 161)),
    backbone=dict(type='RepVGG', arch='A0', norm_cfg={{_base_.norm_cfg}}),
    decode_head=dict(in_channels=1280, num_classes=11),
    auxiliary_head=dict(in_channels=192, num_classes=11),
)
