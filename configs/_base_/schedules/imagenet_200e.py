# Section 4.1 of RepVGG for its heavy models: 200 epochs, the first 5 of them warm-up.
_base_ = './imagenet_120e.py'
epoch = 5005
max_iters = 200 * epoch
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=5 * epoch, by_epoch=False),
    dict(type='CosineAnnealingLR', begin=5 * epoch, end=max_iters, by_epoch=False),
]
train_cfg = dict(max_iters=max_iters)
