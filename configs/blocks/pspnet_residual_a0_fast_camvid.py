_base_ = './pspnet_plain_a0_fast_camvid.py'
model = dict(backbone=dict(residual=True))
