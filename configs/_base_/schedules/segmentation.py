# What the schedules of all segmentors share. The hooks of mmengine that are not named
# here, such as those of the timer and of the learning rate, run by default.
train_cfg = dict(type='IterBasedTrainLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', log_metric_by_epoch=False),
    checkpoint=dict(
        type='CrashSafeCheckpointHook', by_epoch=False, save_best='mIoU', max_keep_ckpts=2
    ),
    visualization=dict(type='SegVisualizationHook'),
    samples=dict(type='SampleHook', count=4),
)
