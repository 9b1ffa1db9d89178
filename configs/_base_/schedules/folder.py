# From scratch on one GPU or on CPU cores, in mixed precision where this is faster, until
# the mIoU of eight validations in a row has not risen by 0.1 %.
_base_ = './segmentation.py'
max_iters = 8000
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
)
# PolyLR reaches 0 at end - 1.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, end=100, by_epoch=False),
    dict(type='PolyLR', power=0.9, end=max_iters + 1, by_epoch=False),
]
train_cfg = dict(max_iters=max_iters, val_interval=200)
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(interval=200),
    early_stopping=dict(type='EarlyStoppingHook', monitor='mIoU', patience=8),
)
auto_scale_lr = dict(enable=False, base_batch_size=8)
