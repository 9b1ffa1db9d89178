_base_ = [
    '_base_/models/pspnet_small.py',
    '_base_/datasets/camvid.py',
    '_base_/schedules/camvid.py',
    '_base_/runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(161, 161)),
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        contract_dilation=True,
        norm_cfg={{_base_.norm_cfg}},
    ),
    decode_head=dict(in_channels=512, num_classes=11),
    auxiliary_head=dict(in_channels=256, num_classes=11),
)
