# Heads as narrow as mmseg's zoo has them for ResNet-18, and whole-image inference.
_base_ = './pspnet.py'
model = dict(
    decode_head=dict(channels=128),
    auxiliary_head=dict(channels=64),
    test_cfg=dict(_delete_=True, mode='whole'),
)
