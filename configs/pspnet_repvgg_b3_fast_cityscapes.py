_base_ = './pspnet_repvgg_b3_cityscapes.py'
model = dict(backbone=dict(dilation='fast'))
