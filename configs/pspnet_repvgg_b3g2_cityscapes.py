_base_ = './pspnet_repvgg_a0_cityscapes.py'
model = dict(
    backbone=dict(arch='B3g2'),
    decode_head=dict(in_channels=2560),
    auxiliary_head=dict(in_channels=768),
)
