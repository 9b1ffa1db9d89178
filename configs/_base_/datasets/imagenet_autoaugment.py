# ImageNet with AutoAugment's policy for it.
_base_ = './imagenet.py'
train_pipeline = [
    dict(type='mmseg.SeedSample'),
    dict(type='mmseg.LoadCheckedImage'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='AutoAugment', policies='imagenet', hparams=dict(pad_val=[104, 116, 124])),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
