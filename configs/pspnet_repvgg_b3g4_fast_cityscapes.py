_base_ = './pspnet_repvgg_b3g4_cityscapes.py'
model = dict(backbone=dict(dilation='fast'))
