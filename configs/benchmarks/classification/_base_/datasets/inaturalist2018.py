# iNaturalist 2018. Layout:
#   data/inaturalist2018/meta/{train,val}.txt    lines "Plantae/7477/x.jpg 7477"
#   data/inaturalist2018/train_val2018/Plantae/7477/x.jpg
_base_ = 'imagenet.py'

train_dataloader = dict(
    dataset=dict(
        data_root='data/inaturalist2018/',
        ann_file='meta/train.txt',
        data_prefix='train_val2018',
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root='data/inaturalist2018/',
        ann_file='meta/val.txt',
        data_prefix='train_val2018',
    ),
)
