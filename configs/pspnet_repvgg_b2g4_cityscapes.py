_base_ = './pspnet_repvgg_a0_cityscapes.py'
model = dict(
    backbone=dict(arch='B2g4'),
    decode_head=dict(in_channels=2560),
    auxiliary_head=dict(in_channels=640),
)
