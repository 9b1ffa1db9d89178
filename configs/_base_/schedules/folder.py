# From scratch on one GPU or on CPU cores, in mixed precision where this is faster, until
# the mIoU of eight validations in a row has not risen by 0.1 %.
max_iters = 8000
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=100, by_epoch=False),
    dict(
        type='PolyLR',
        power=0.9,
        eta_min=0.0,
        begin=0,
        end=max_iters + 1,  # PolyLR reaches 0 at end - 1
        by_epoch=False,
    ),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=200)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=25, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CrashSafeCheckpointHook',
        by_epoch=False,
        interval=200,
        save_best='mIoU',
        max_keep_ckpts=2,
    ),
    early_stopping=dict(type='EarlyStoppingHook', monitor='mIoU', patience=8),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
    samples=dict(type='SampleHook', count=4),
)
auto_scale_lr = dict(enable=False, base_batch_size=8)
