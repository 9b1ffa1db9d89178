_base_ = './pspnet_repvgg_a0_cityscapes.py'
model = dict(
    backbone=dict(arch='A1'),
    decode_head=dict(in_channels=1280),
    auxiliary_head=dict(in_channels=256),
)
