_base_ = './fcn_repvgg_a0_cityscapes.py'
# JPU brings maps of strides 8, 16 and 32 to one of stride 8.
model = dict(
    backbone=dict(dilation=None, out_indices=(1, 2, 3)),
    neck=dict(type='JPU', in_channels=(96, 192, 1280), norm_cfg={{_base_.norm_cfg}}),
    decode_head=dict(type='PSPHead', in_channels=2048, in_index=2),
    auxiliary_head=dict(in_index=1),
)
