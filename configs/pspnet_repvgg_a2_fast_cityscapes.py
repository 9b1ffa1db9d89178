_base_ = './pspnet_repvgg_a2_cityscapes.py'
model = dict(backbone=dict(dilation='fast'))
