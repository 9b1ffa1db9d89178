_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_120e.py',
    '../_base_/runtime.py',
]
model = dict(
    backbone=dict(type='mmseg.RepVGG', arch='A0', dilation=None, out_indices=(3,)),
    head=dict(in_channels=1280),
)
