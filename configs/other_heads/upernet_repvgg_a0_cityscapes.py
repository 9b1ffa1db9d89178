_base_ = './fcn_repvgg_a0_cityscapes.py'
model = dict(
    backbone=dict(dilation=None),
    decode_head=dict(
        type='UPerHead',
        in_channels=(48, 96, 192, 1280),
        in_index=(0, 1, 2, 3),
    ),
)
