# ImageNet as in PyTorch's example: random crops of 8 % to 100 % of the area at 224x224,
# flips; the middle 224x224 of a shorter edge of 256. 32 images a GPU, 256 in all on 8.
# The data set, its transforms and its metric are those of mmpretrain.
train_pipeline = [
    dict(type='mmseg.SeedSample'),
    dict(type='mmseg.LoadCheckedImage'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='mmseg.LoadCheckedImage'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
dataset = dict(type='ImageNet', _scope_='mmpretrain', data_root='data/imagenet')
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    worker_init_fn=dict(type='init_worker'),
    sampler=dict(type='PositionSampler', shuffle=True),
    dataset=dict(split='train', pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    worker_init_fn=dict(type='init_worker'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', _scope_='mmpretrain', topk=(1, 5))
test_evaluator = val_evaluator
