_base_ = './pspnet_repvgg_b1g2_cityscapes.py'
model = dict(backbone=dict(dilation='fast'))
