"""What the published recipes set, written down apart from the configs.

Sources:

- CoKe: the authors' scripts and README (github.com/idstcv/CoKe): batch 1024 on 8 GPUs. The recipes
  here have 512; lr and dual_lr are linear in the batch.
- DeepCluster, ODC: OpenMMLab's model zoo (MMSelfSup, trained with OpenSelfSup 0.x).
- DeepCluster-v2: Caron et al., NeurIPS 2020, appendix, and the settings of the authors' script
  (batch 4096, 4.8); an epoch at rate 0 is added.
- ViT-S/16: no published recipe. CoKe's, with the optimizer of DINO (Caron et al., ICCV 2021).

Normalization (means and standard deviations of ImageNet's colours) is that of torchvision.
"""

LOAD = [dict(type='LoadImageFromFile'), dict(type='NumpyToPIL', to_rgb=True)]
PACK = [dict(type='PackInputs')]
PREPROCESSOR = dict(
    type='SelfSupDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
)


# ---- CoKe: views


STRONG, WEAK = (0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.2, 0.1)
FULL = dict(size=224, scale=(0.08, 1.0))
ONE_VIEW = [dict(crop=FULL, jitter=STRONG, blur=0.5)]
FIRST = dict(crop=FULL, jitter=WEAK, blur=1.0)
SECOND = dict(crop=FULL, jitter=WEAK, blur=0.1, solarize=0.2)
SMALL = dict(crop=dict(size=96, scale=(0.05, 0.6)), jitter=STRONG, blur=0.5)
"""Crop, colour jitter with probability 0.8, grey with 0.2, blur, solarize, flip with 0.5."""


def in_workers(views):
    """Pipeline and preprocessor that leave all to torchvision and Pillow."""
    if len(views) == 1:
        return [*LOAD, *with_pillow(**views[0]), *PACK], PREPROCESSOR
    kinds = [view for i, view in enumerate(views) if view not in views[:i]]
    multi_view = dict(
        type='MultiView',
        num_views=[views.count(kind) for kind in kinds],
        transforms=[with_pillow(**kind) for kind in kinds],
    )
    return [*LOAD, multi_view, *PACK], PREPROCESSOR


def on_device(views):
    """Pipeline that crops, and preprocessor that does the rest in batch."""
    return crops(*(view['crop'] for view in views)), batch_augment(
        *(in_batch(**view) for view in views)
    )


def crops(*views):
    return [dict(type='RandomResizedCrops', views=list(views), flip=0.5), *PACK]


def batch_augment(*views):
    return PREPROCESSOR | dict(type='BatchAugmentPreprocessor', views=list(views))


def colour_jitter(kind, jitter, **options):
    names = ('brightness', 'contrast', 'saturation', 'hue')
    return dict(type=kind, **dict(zip(names, jitter, strict=True)), **options)


def with_pillow(crop, jitter, blur, solarize=None):
    jitter = colour_jitter('torchvision/ColorJitter', jitter)
    return [
        dict(type='torchvision/RandomResizedCrop', **crop),
        dict(type='RandomApply', prob=0.8, transforms=[jitter]),
        dict(type='torchvision/RandomGrayscale', p=0.2),
        dict(type='PILToNumpy'),
        # A standard deviation that is uniform in the range.
        dict(type='GaussianBlur', magnitude_range=(0.1, 2.0), magnitude_std='inf', prob=blur),
        *([dict(type='Solarize', thr=128, prob=solarize)] if solarize else []),
        dict(type='RandomFlip', prob=0.5),
    ]


def in_batch(jitter, blur, solarize=None, crop=None):
    return [
        colour_jitter('ColorJitter', jitter, p=0.8),
        dict(type='RandomGrayscale', p=0.2),
        dict(type='GaussianBlur', sigma=(0.1, 2.0), p=blur),
        *([dict(type='RandomSolarize', threshold=128 / 255, p=solarize)] if solarize else []),
    ]


# ---- CoKe: method and schedule

SYNC_BN = dict(type='SyncBN', requires_grad=True)


def coke_model(head, clustering=None):
    return dict(
        type='CoKe',
        backbone=dict(type='ResNet', depth=50, norm_cfg=SYNC_BN, zero_init_residual=False),
        neck=dict(  # 2048-2048-2048-128, BN after every layer, the last one included
            type='NonLinearNeck',
            hid_channels=2048,
            out_channels=128,
            num_layers=3,
            with_bias=True,
            with_last_bn=True,
            with_last_bias=True,
            with_avg_pool=True,
            norm_cfg=SYNC_BN,
        ),
        head=dict(type='CoKeHead', in_channels=128, hid_channels=2048, norm_cfg=SYNC_BN, **head),
        clustering=dict(
            num_clusters=[3000, 4000, 5000],
            min_ratio=0.4,
            dual_lr=20.0,
            dual_lr_base_batch_size=1024,
            **(clustering or {}),
        ),
    )


def training_set(sampler):
    return dict(
        batch_size=64,
        drop_last=True,
        sampler=sampler,
        dataset=dict(type='CustomDataset', with_label=False),
    )


def with_images(recipe, pipeline, preprocessor):
    """A recipe with what makes its views."""
    images = recipe['train_dataloader']
    return recipe | dict(
        model=recipe['model'] | dict(data_preprocessor=preprocessor),
        train_dataloader=images | dict(dataset=images['dataset'] | dict(pipeline=pipeline)),
    )


def coke(model, num_epochs):
    """Epochs count the one with learning rate 0."""
    return dict(
        model=model,
        train_dataloader=training_set(dict(type='TruncatedSampler', shuffle=True)),
        custom_hooks=[dict(type='CoKeHook')],
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(
                type='LARS',
                lr=1.6 * 512 / 1024,
                momentum=0.9,
                weight_decay=1e-6,
                trust_coefficient=0.001,
            ),
        ),
        param_scheduler=[
            dict(type='WarmupCosineLR', zero=1, warmup=10, convert_to_iter_based=True)
        ],
        train_cfg=dict(by_epoch=True, max_epochs=num_epochs),
        auto_scale_lr=dict(base_batch_size=512, enable=False),
    )


ONE_VIEW_HEAD = dict(temperature=0.1, prediction_weight=1.0)
TWO_VIEW_HEAD = dict(temperature=0.05, prediction_weight=0.5, label_weight=0.2)
STAGE_2 = dict(average_from_epoch=801, num_slots=5, label_temperature=0.5)

VIT = coke(
    coke_model(ONE_VIEW_HEAD)
    | dict(
        backbone=dict(
            type='VisionTransformer',
            arch='deit-small',
            img_size=224,
            patch_size=16,
            drop_path_rate=0.1,
            out_type='cls_token',
        )
    ),
    301,
) | dict(
    optim_wrapper=dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=5e-4 * 512 / 256, weight_decay=0.04),
        clip_grad=dict(max_norm=3.0),
        paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    )
)
VIT['model']['neck']['with_avg_pool'] = False  # the class token is one vector


# ---- DeepCluster and ODC

CLASSIFIER_JITTER = (0.4, 0.4, 1.0, 0.5)
CLASSIFIER_IN_WORKERS = (
    [
        *LOAD,
        dict(type='torchvision/RandomResizedCrop', size=224),
        dict(type='torchvision/RandomHorizontalFlip'),
        dict(type='torchvision/RandomRotation', degrees=2),
        colour_jitter('torchvision/ColorJitter', CLASSIFIER_JITTER),
        dict(type='torchvision/RandomGrayscale', p=0.2),
        dict(type='PILToNumpy'),
        *PACK,
    ],
    PREPROCESSOR,
)
CLASSIFIER_ON_DEVICE = (
    crops(dict(size=224)),
    batch_augment(
        [
            dict(type='RandomAffine', degrees=2),
            colour_jitter('ColorJitter', CLASSIFIER_JITTER),
            dict(type='RandomGrayscale', p=0.2),
        ]
    ),
)
PLAIN = [
    *LOAD,
    dict(type='torchvision/Resize', size=256),
    dict(type='torchvision/CenterCrop', size=224),
    dict(type='PILToNumpy'),
    *PACK,
]


def classifier(model, sampler, hook, lr, num_epochs):
    return dict(
        model=model | dict(head=dict(type='ClusterClsHead')),
        train_dataloader=training_set(dict(type=sampler)),
        custom_hooks=[dict(hook, pipeline=PLAIN)],
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=lr, momentum=0.9, weight_decay=1e-5),
            paramwise_cfg=dict(custom_keys=dict(head=dict(momentum=0.0))),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=num_epochs),
        auto_scale_lr=dict(base_batch_size=512, enable=False),
    )


def deepcluster(backbone):
    model = dict(
        type='DeepCluster',
        backbone=dict(type=backbone, depth=50, norm_cfg=dict(type='BN'), zero_init_residual=False),
        neck=dict(type='GlobalAveragePooling'),
        clustering=dict(num_clusters=10_000, pca_dim=256, num_iters=20),
    )
    hook = dict(type='DeepClusterHook', interval=1)
    return classifier(model, 'ClusterUniformSampler', hook, lr=0.1, num_epochs=200)


ODC = classifier(
    dict(
        type='ODC',
        backbone=dict(
            type='ResNet', depth=50, norm_cfg=dict(type='SyncBN'), zero_init_residual=False
        ),
        neck=dict(
            type='ODCNeck',
            hid_channels=512,
            out_channels=256,
            dropout=0.5,
            norm_cfg=dict(type='SyncBN'),
        ),
        clustering=dict(num_clusters=10_000, momentum=0.5, min_size=20, reweight_pow=0.5),
    ),
    'ReplacementSampler',
    dict(type='ODCHook', centroids_interval=10, small_clusters_interval=1),
    lr=0.06,
    num_epochs=440,
) | dict(param_scheduler=[dict(type='MultiStepLR', by_epoch=True, milestones=[400], gamma=0.4)])


# ---- DeepCluster-v2

CROP = dict(jitter=STRONG, blur=0.5)
DEEPCLUSTER_V2 = coke(
    dict(
        type='DeepClusterV2',
        backbone=dict(type='ResNet', depth=50, norm_cfg=SYNC_BN, zero_init_residual=False),
        neck=dict(  # 2048-2048-128, BN after the first layer
            type='NonLinearNeck',
            hid_channels=2048,
            out_channels=128,
            num_layers=2,
            with_bias=True,
            with_last_bn=False,
            with_last_bias=True,
            with_avg_pool=True,
            norm_cfg=SYNC_BN,
        ),
        head=dict(type='CentroidHead', temperature=0.1),
        clustering=dict(num_clusters=[3000, 3000, 3000], num_iters=10),
    ),
    801,
) | dict(
    custom_hooks=[dict(type='DeepClusterV2Hook')],
    optim_wrapper=dict(
        type='OptimWrapper',
        optimizer=dict(
            type='LARS',
            lr=4.8 * 512 / 4096,
            momentum=0.9,
            weight_decay=1e-6,
            trust_coefficient=0.001,
        ),
    ),
    param_scheduler=[
        dict(
            type='WarmupCosineLR',
            zero=1,
            warmup=10,
            start_factor=0.3 / 4.8,
            end_factor=0.0048 / 4.8,
            convert_to_iter_based=True,
        )
    ],
)
DEEPCLUSTER_V2_VIEWS = [
    *[dict(crop=dict(size=224, scale=(0.14, 1.0)), **CROP)] * 2,
    *[dict(crop=dict(size=96, scale=(0.05, 0.14)), **CROP)] * 6,
]


# ---- linear evaluation of CoKe: frozen, 90 epochs, batch 1024


def linear(lr):
    def images(name, pipeline, batch_size, shuffle, **options):
        return {
            f'{name}_dataloader': dict(
                batch_size=batch_size,
                sampler=dict(type='DefaultSampler', shuffle=shuffle),
                dataset=dict(type='CustomDataset', pipeline=pipeline),
                **options,
            )
        }

    crop_and_flip = [
        *LOAD,
        dict(type='torchvision/RandomResizedCrop', size=224),
        dict(type='torchvision/RandomHorizontalFlip'),
        dict(type='PILToNumpy'),
        *PACK,
    ]
    return dict(
        model=dict(
            type='FrozenClassifier',
            data_preprocessor=PREPROCESSOR | dict(type='ClsDataPreprocessor'),
            backbone=dict(
                type='ResNet',
                depth=50,
                zero_init_residual=False,
                init_cfg=dict(type='Pretrained', checkpoint=None),
            ),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=1000),
        ),
        **images('train', crop_and_flip, 128, shuffle=True),
        **images('val', PLAIN, 128, shuffle=False),
        val_evaluator=dict(type='Accuracy', topk=(1, 5)),
        val_cfg={},
        custom_hooks=[],
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=lr, momentum=0.9, weight_decay=1e-6),
        ),
        param_scheduler=[dict(type='CosineAnnealingLR', T_max=90)],
        train_cfg=dict(by_epoch=True, max_epochs=90, val_interval=10),
        auto_scale_lr=dict(base_batch_size=1024, enable=False),
    )


SELFSUP, LINEAR = 'selfsup', 'benchmarks/classification/imagenet'
COKE = {
    'coke_r50_8xb64_in1k.py': (coke(coke_model(ONE_VIEW_HEAD, STAGE_2), 1001), ONE_VIEW),
    'coke_r50_8xb64-2view_in1k.py': (coke(coke_model(TWO_VIEW_HEAD), 1001), [FIRST, SECOND]),
    'coke_r50_8xb64-mcrop_in1k.py': (
        coke(coke_model(TWO_VIEW_HEAD | dict(small_weight=0.5)), 801),
        [FIRST, SECOND, *[SMALL] * 6],
    ),
    'coke_vit-small-p16_8xb64_in1k.py': (VIT, ONE_VIEW),
}
CLASSIFIERS = {
    'deepcluster/deepcluster_r50_8xb64_in1k.py': deepcluster('ResNet'),
    'deepcluster/deepcluster-sobel_r50_8xb64_in1k.py': deepcluster('ResNetSobel'),
    'odc/odc_r50_8xb64_in1k.py': ODC,
}


def pretraining(coke_images, classifier_images):
    """The recipes of pre-training, with views made in one of two ways."""
    return {
        f'{SELFSUP}/coke/{name}': with_images(recipe, *coke_images(views))
        for name, (recipe, views) in COKE.items()
    } | {
        f'{SELFSUP}/{name}': with_images(recipe, *classifier_images)
        for name, recipe in CLASSIFIERS.items()
    }


PUBLISHED = pretraining(on_device, CLASSIFIER_ON_DEVICE) | {
    f'{SELFSUP}/deepclusterv2/deepclusterv2_r50_8xb64-mcrop_in1k.py': with_images(
        DEEPCLUSTER_V2, *on_device(DEEPCLUSTER_V2_VIEWS)
    ),
    f'{LINEAR}/resnet50_8xb128-coslr-90e_in1k.py': linear(0.2),
    f'{LINEAR}/resnet50_8xb128-coslr-90e-mcrop_in1k.py': linear(0.4),
}
"""All that decides the result, by recipe."""

PUBLISHED_IN_WORKERS = pretraining(in_workers, CLASSIFIER_IN_WORKERS)
"""The same with the images of ``*_pil.py`` instead."""
