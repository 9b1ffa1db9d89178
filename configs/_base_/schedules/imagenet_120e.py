# Section 4.1 of RepVGG: SGD 0.1, momentum 0.9, weight decay 1e-4, cosine to 0, batch 256;
# 120 epochs of 5,005 iterations. As in the authors' code, only kernels, the classifier's
# matrix and the scales of identity branches are decayed.
epoch = 5005
max_iters = 120 * epoch
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys={'branch_identity.weight': dict(decay_mult=1)},
    ),
)
param_scheduler = [dict(type='CosineAnnealingLR', begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=epoch)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100, log_metric_by_epoch=False),
    checkpoint=dict(
        type='CrashSafeCheckpointHook',
        by_epoch=False,
        interval=epoch,
        save_best='accuracy/top1',
        max_keep_ckpts=3,
    ),
)
auto_scale_lr = dict(enable=False, base_batch_size=256)
