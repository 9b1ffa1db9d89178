_base_ = './pspnet_repvgg_b2g2_cityscapes.py'
model = dict(backbone=dict(dilation='fast'))
