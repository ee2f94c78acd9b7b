# Places365-Standard, images of 256x256 pixels in folders ("easy directory structure" on the
# download page of places2.csail.mit.edu).
# Layout: data/places365_standard/{train,val}/<class>/<image>.jpg
_base_ = 'places205.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='data/places365_standard/',
        data_prefix='train',
        pipeline={{_base_.train_pipeline}},
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='data/places365_standard/',
        data_prefix='val',
        pipeline={{_base_.test_pipeline}},
    )
)
