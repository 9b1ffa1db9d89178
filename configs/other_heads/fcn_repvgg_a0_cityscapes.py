_base_ = [
    '../_base_/models/encoder_decoder.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/cityscapes_40e.py',
    '../_base_/runtime.py',
]
# Without align_corners, as in mmseg's configs of these heads, an exported file can leave
# the size of the image open.
model = dict(
    backbone=dict(type='RepVGG', arch='A0', norm_cfg={{_base_.norm_cfg}}),
    decode_head=dict(type='FCNHead', in_channels=1280, align_corners=False),
    auxiliary_head=dict(in_channels=192, align_corners=False),
)
