_base_ = './pspnet_r50_cityscapes.py'
model = dict(backbone=dict(depth=101))
