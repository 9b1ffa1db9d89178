# Settings common to the schedules of segmentors. mmengine adds its other default hooks,
# such as the timer and the scheduler of the learning rate.
train_cfg = dict(type='IterBasedTrainLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', log_metric_by_epoch=False),
    checkpoint=dict(
        type='CrashSafeCheckpointHook', by_epoch=False, save_best='mIoU', max_keep_ckpts=2
    ),
    visualization=dict(type='SegVisualizationHook'),
    samples=dict(type='SampleHook', count=4),
)
