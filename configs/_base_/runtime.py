# What every run shares. Importing the package registers the backbone, the hooks and the
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
# Unnamed: mmengine names it after the run; of one name it would serve all runs of a process.
visualizer = dict(
    type='SegLocalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)
tensorboard = True  # where it is installed, tools/train.py adds its backend
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
tta_model = dict(type='RunningMeanTTAModel')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
