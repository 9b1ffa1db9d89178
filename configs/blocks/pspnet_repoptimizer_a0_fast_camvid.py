_base_ = './pspnet_plain_a0_fast_camvid.py'
optim_wrapper = dict(constructor='RepOptimizerConstructor')
