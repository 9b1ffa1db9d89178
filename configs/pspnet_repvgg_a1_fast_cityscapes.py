_base_ = './pspnet_repvgg_a1_cityscapes.py'
model = dict(backbone=dict(dilation='fast'))
