# Settings common to the data sets: dataloaders and the metric.
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    worker_init_fn=dict(type='init_worker'),
    sampler=dict(type='PositionSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    worker_init_fn=dict(type='init_worker'),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
