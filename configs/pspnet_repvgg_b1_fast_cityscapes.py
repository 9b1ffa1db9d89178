_base_ = './pspnet_repvgg_b1_cityscapes.py'
model = dict(backbone=dict(dilation='fast'))
