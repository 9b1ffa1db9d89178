_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/imagenet_autoaugment.py',
    '../_base_/schedules/imagenet_200e.py',
    '../_base_/runtime.py',
]
model = dict(
    backbone=dict(type='mmseg.RepVGG', arch='B2', dilation=None, out_indices=(3,)),
    head=dict(
        in_channels=2560,
        loss=dict(
            _delete_=True,
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            num_classes=1000,
            mode='original',
        ),
    ),
    train_cfg=dict(augments=dict(type='Mixup', alpha=0.2)),
)
