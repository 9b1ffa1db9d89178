# Settings of every run. Importing the package registers the backbone, the hooks and the
# data sets, so that mmseg's own tools and MMSegInferencer run these configs as well.
# Importing safe_loading makes mmengine read checkpoints without running their code.
custom_imports = dict(
    imports=['mmseg_repvgg', 'mmseg_repvgg.safe_loading'], allow_failed_imports=False
)
default_scope = 'mmseg'
custom_hooks = [
    dict(type='DeployHook'),
    dict(type='FiniteHook'),
    dict(type='IterationSeedHook'),
    dict(type='LoadHook', strict=False),  # new heads may differ from load_from
    dict(type='MeanLossHook'),
    dict(type='ProgressHook'),
    dict(type='SameBuffersHook'),
    dict(type='TerminationHook'),
]
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=0)
# mmengine names the visualizer after the run; a name here would make all runs of a process
# share one.
visualizer = dict(
    type='SegLocalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
        dict(type='OptionalTensorboardVisBackend'),  # warns if TensorBoard is missing
    ],
)
tensorboard = True  # False makes the tools of this project leave TensorBoard out
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
tta_model = dict(type='RunningMeanTTAModel')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
