_base_ = './pspnet_repvgg_a0_street.py'
model = dict(backbone=dict(dilation='fast'))
