# The paper's schedule, section 4.3: SGD 0.01, momentum 0.9, weight decay 1e-4, poly 0.9,
# batch 16; 40 epochs of 2,975 images are 7,440 iterations.
_base_ = './segmentation.py'
max_iters = 7440
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
)
# PolyLR reaches 0 at end - 1.
param_scheduler = [dict(type='PolyLR', power=0.9, end=max_iters + 1, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=1860)
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=1860, max_keep_ckpts=3)
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
