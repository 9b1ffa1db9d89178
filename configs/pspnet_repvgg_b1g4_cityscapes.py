_base_ = './pspnet_repvgg_a0_cityscapes.py'
model = dict(
    backbone=dict(arch='B1g4'),
    decode_head=dict(in_channels=2048),
    auxiliary_head=dict(in_channels=512),
)
