_base_ = './pspnet_repvgg_b0_cityscapes.py'
model = dict(backbone=dict(dilation='fast'))
