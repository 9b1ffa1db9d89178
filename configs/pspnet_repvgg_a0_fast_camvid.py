_base_ = './pspnet_repvgg_a0_camvid.py'
model = dict(backbone=dict(dilation='fast'))
