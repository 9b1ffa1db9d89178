_base_ = './pspnet_repvgg_a0_cityscapes.py'
model = dict(backbone=dict(dilation='fast'))
