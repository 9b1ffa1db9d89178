# The paper's schedule, section 4.3: SGD 0.01, momentum 0.9, weight decay 1e-4, poly 0.9,
# batch 16; 40 epochs of 2,975 images are 7,440 iterations.
max_iters = 7440
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(
        type='PolyLR',
        power=0.9,
        eta_min=0.0,
        begin=0,
        end=max_iters + 1,  # PolyLR reaches 0 at end - 1
        by_epoch=False,
    )
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=1860)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CrashSafeCheckpointHook',
        by_epoch=False,
        interval=1860,
        save_best='mIoU',
        max_keep_ckpts=3,
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
    samples=dict(type='SampleHook', count=4),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
