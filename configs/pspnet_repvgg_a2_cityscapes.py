_base_ = './pspnet_repvgg_a0_cityscapes.py'
model = dict(
    backbone=dict(arch='A2'),
    decode_head=dict(in_channels=1408),
    auxiliary_head=dict(in_channels=384),
)
