_base_ = '../pspnet_repvgg_a0_fast_camvid.py'
model = dict(backbone=dict(block='identity_without_bn'))
