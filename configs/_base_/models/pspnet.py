# PSPNet (Zhao et al., CVPR 2017) without its backbone.
_base_ = './encoder_decoder.py'
model = dict(decode_head=dict(type='PSPHead', pool_scales=(1, 2, 3, 6)))
