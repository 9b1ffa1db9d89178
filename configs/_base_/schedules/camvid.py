# From scratch on two CPU cores, in mixed precision where this is faster.
_base_ = './segmentation.py'
max_iters = 1500
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
)
# PolyLR reaches 0 at end - 1.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, end=50, by_epoch=False),
    dict(type='PolyLR', power=0.9, end=max_iters + 1, by_epoch=False),
]
train_cfg = dict(max_iters=max_iters, val_interval=300)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=300))
auto_scale_lr = dict(enable=False, base_batch_size=8)
