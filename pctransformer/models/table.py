"""Every model there is, a line each: name, file, summary, paper. This file imports no torch."""

from __future__ import annotations

import dataclasses
from typing import Literal

Task = Literal["classification", "segmentation", "detection", "pretraining"]
Graph = Literal["whole", "pieces"]


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without importing it.

    Attributes:
        name: what `create_model` knows it by; also the function in its module that makes it.
        module: file in `pctransformer/models/`, without its ending.
        summary: one line.
        source: the paper.
        public_weights: where there are weights that `create_model(..., pretrained=file)` reads; "" for nowhere.
        task: "classification" gives logits of clouds (a `Classifier`), "segmentation" of points (a `Segmenter`);
            "detection" finds boxes (a `Detector`); "pretraining" learns without labels (a `Pretraining`) what a
            classifier or a detector starts from, whose name it has with `_pretraining` behind; so may a `Segmenter`,
            which has that name with `_seg` behind.
        graph: of the model with its default options. "whole": in evaluation and for clouds of equal sizes,
            `torch.compile(fullgraph=True)` takes it as one graph, and `torch.export` too but for pretraining. "pieces":
            `torch.compile` breaks the graph where sizes depend on coordinates, and there is nothing to export.
    """

    name: str
    module: str
    summary: str
    source: str
    public_weights: str = ""
    task: Task = "classification"
    graph: Graph = "whole"


_PCT = "Guo et al., PCT: Point Cloud Transformer, 2021, arXiv:2012.09688"
_POINT_TRANSFORMER = "Zhao et al., Point Transformer, 2021, arXiv:2012.09164"
_POINT_TRANSFORMER_V3 = "Wu et al., Point Transformer V3, 2024, arXiv:2312.10035"
_POINTNET2 = "Qi et al., PointNet++, 2017, arXiv:1706.02413"
_POINT_BERT = "after Yu et al., Point-BERT, 2022, arXiv:2111.14819; mixers: pctransformer.layers.mixers"
_POSTECH = "github.com/POSTECH-CVLab/point-transformer and Pointcept"
_YANX27 = "github.com/yanx27/Pointnet_Pointnet2_pytorch, with closed=True"
_POINT_MAE = "Pang et al., Masked Autoencoders for Point Cloud Self-supervised Learning, 2022, arXiv:2203.06604"
_VOXEL_MAE = "after Hess et al., Masked Autoencoder for LiDAR Point Clouds (Voxel-MAE), 2022, arXiv:2207.00531"
_POINT_VIT = "after Dosovitskiy et al., An Image is Worth 16x16 Words, 2021, arXiv:2010.11929"
_POINTPILLARS = "Lang et al., PointPillars, 2019, arXiv:1812.05784"
_VITDET = "after Li et al., Exploring Plain Vision Transformer Backbones (ViTDet), 2022, arXiv:2203.16527"
_SMLP = "after Tang et al., Sparse MLP for Image Recognition, 2021, arXiv:2109.05422"
_SECOND = "Yan et al., SECOND: Sparsely Embedded Convolutional Detection, 2018, Sensors 18(10)"
_VOXEL_TRANSFORMER = "after Liu et al., Swin Transformer, 2021, and Wang et al., DSVT, 2023, arXiv:2301.06051"
_SWIN = "after Liu et al., Swin Transformer, 2021, arXiv:2103.14030, on voxels"
_DEFORMABLE_DETR = "after Zhu et al., Deformable DETR, 2021, arXiv:2010.04159"
_3DETR = "after Misra et al., 3DETR, 2021, arXiv:2109.08141"
_OPENPCDET = "github.com/open-mmlab/OpenPCDet"
_POINT_GPT = "Chen et al., PointGPT, 2023, arXiv:2305.11487"

MODELS = {
    info.name: info
    for info in (
        ModelInfo("npct", "pct", "PCT, point embedding and self-attention", _PCT),
        ModelInfo("spct", "pct", "PCT, point embedding and offset-attention", _PCT),
        ModelInfo(
            "pct",
            "pct",
            "PCT, neighbour embedding and offset-attention",
            _PCT,
            "github.com/Strawberry-Eat-Mango/PCT_Pytorch, with skip_near_origin=True",
        ),
        ModelInfo("pct_small", "pct", "PCT of half the width for training on a CPU", _PCT),
        ModelInfo(
            "point_transformer",
            "point_transformer",
            "vector attention among neighbours",
            _POINT_TRANSFORMER,
            "github.com/souheib1/Point-Transformer",
        ),
        ModelInfo("patch_mixer", "patch_mixer", "patches as tokens, with any token mixer", _POINT_BERT),
        ModelInfo(
            "patch_mixer_small", "patch_mixer", "patches as tokens, of a third of the width for a CPU", _POINT_BERT
        ),
        ModelInfo(
            "point_transformer_26",
            "point_transformer_unet",
            "Point Transformer as its authors code it, one block a level",
            _POINT_TRANSFORMER,
        ),
        ModelInfo(
            "point_transformer_50",
            "point_transformer_unet",
            "Point Transformer as its authors code it, 13 blocks",
            _POINT_TRANSFORMER,
        ),
        ModelInfo(
            "point_transformer_26_seg",
            "point_transformer_unet",
            "Point Transformer for points, one block a level",
            _POINT_TRANSFORMER,
            _POSTECH,
            "segmentation",
        ),
        ModelInfo(
            "point_transformer_50_seg",
            "point_transformer_unet",
            "Point Transformer for points, 13 blocks",
            _POINT_TRANSFORMER,
            _POSTECH,
            "segmentation",
        ),
        ModelInfo(
            "point_transformer_small_seg",
            "point_transformer_unet",
            "Point Transformer for points, of three levels for training on a CPU",
            _POINT_TRANSFORMER,
            task="segmentation",
        ),
        ModelInfo(
            "point_mae",
            "point_mae",
            "transformer on patches with a class token, pretrained as a masked autoencoder",
            _POINT_MAE,
            "github.com/Pang-Yatian/Point-MAE, with skip_near_origin=True",
        ),
        ModelInfo("point_mae_small", "point_mae", "Point-MAE of a third the width for training on a CPU", _POINT_MAE),
        ModelInfo(
            "point_mae_seg",
            "point_mae_segmentation",
            "transformer on patches, three of its layers interpolated to points",
            _POINT_MAE,
            "github.com/Pang-Yatian/Point-MAE, with skip_near_origin=True, num_categories=16",
            "segmentation",
        ),
        ModelInfo(
            "point_mae_small_seg",
            "point_mae_segmentation",
            "Point-MAE for points, of a third the width for training on a CPU",
            _POINT_MAE,
            task="segmentation",
        ),
        ModelInfo(
            "point_mae_pretraining",
            "point_mae",
            "Point-MAE made to make up hidden patches",
            _POINT_MAE,
            "github.com/Pang-Yatian/Point-MAE, with skip_near_origin=True",
            "pretraining",
        ),
        ModelInfo(
            "point_mae_small_pretraining",
            "point_mae",
            "small Point-MAE made to make up hidden patches",
            _POINT_MAE,
            task="pretraining",
        ),
        ModelInfo("point_vit", "point_vit", "vision transformer on patches, or behind set abstraction", _POINT_VIT),
        ModelInfo("point_vit_small", "point_vit", "Point ViT of a sixth the width for training on a CPU", _POINT_VIT),
        ModelInfo("point_gpt", "point_gpt", "causal transformer on ordered patches, pretrained to go on", _POINT_GPT),
        ModelInfo("point_gpt_small", "point_gpt", "PointGPT of a third the width for training on a CPU", _POINT_GPT),
        ModelInfo(
            "point_gpt_pretraining",
            "point_gpt",
            "PointGPT made to make up the next patch",
            _POINT_GPT,
            task="pretraining",
        ),
        ModelInfo(
            "point_gpt_small_pretraining",
            "point_gpt",
            "small PointGPT made to make up the next patch",
            _POINT_GPT,
            task="pretraining",
        ),
        ModelInfo(
            "point_transformer_v3",
            "point_transformer_v3",
            "attention in patches of space-filling curves",
            _POINT_TRANSFORMER_V3,
            graph="pieces",
        ),
        ModelInfo(
            "voxel_transformer_cls",
            "voxel_transformer_cls",
            "attention in shifted windows of voxels, eight of which are joined from stage to stage",
            _SWIN,
            graph="pieces",
        ),
        ModelInfo(
            "voxel_transformer_small_cls",
            "voxel_transformer_cls",
            "voxel transformer for shapes, of a third of the width for training on a CPU",
            _SWIN,
            graph="pieces",
        ),
        ModelInfo(
            "point_transformer_v3_seg",
            "point_transformer_v3",
            "attention in patches of space-filling curves, for points",
            _POINT_TRANSFORMER_V3,
            'github.com/Pointcept/PointTransformerV3, with position="convolution"',
            task="segmentation",
            graph="pieces",
        ),
        ModelInfo(
            "point_transformer_v3_small_seg",
            "point_transformer_v3",
            "Point Transformer V3 for points, three narrow levels for training on a CPU",
            _POINT_TRANSFORMER_V3,
            task="segmentation",
            graph="pieces",
        ),
        ModelInfo(
            "pointnet2_ssg", "pointnet2", "PointNet++, single-scale grouping", _POINTNET2, _YANX27, graph="pieces"
        ),
        ModelInfo(
            "pointnet2_msg", "pointnet2", "PointNet++, multi-scale grouping", _POINTNET2, _YANX27, graph="pieces"
        ),
        ModelInfo(
            "pointnet2_small",
            "pointnet2",
            "PointNet++ of half the size for training on a CPU",
            _POINTNET2,
            graph="pieces",
        ),
        ModelInfo(
            "pointnet2_small_seg",
            "pointnet2",
            "PointNet++ for points, of half the size for training on a CPU",
            _POINTNET2,
            task="segmentation",
            graph="pieces",
        ),
        ModelInfo(
            "pointnet2_ssg_seg",
            "pointnet2",
            "PointNet++ for points, single-scale grouping",
            _POINTNET2,
            f"{_YANX27}, num_categories=16",
            "segmentation",
            graph="pieces",
        ),
        ModelInfo(
            "pointnet2_msg_seg",
            "pointnet2",
            "PointNet++ for points, multi-scale grouping",
            _POINTNET2,
            f"{_YANX27}, num_categories=16",
            "segmentation",
            graph="pieces",
        ),
        ModelInfo(
            "pointpillars",
            "pointpillars",
            "PointNet on pillars, then convolutions on a map seen from above",
            _POINTPILLARS,
            f"{_OPENPCDET}, with max_points=32",
            "detection",
            "pieces",
        ),
        ModelInfo(
            "pointpillars_small",
            "pointpillars",
            "PointPillars of half the width on coarser pillars for training on a CPU",
            _POINTPILLARS,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "second",
            "second",
            "sparse convolutions on voxels, then convolutions on a map seen from above",
            _SECOND,
            f"{_OPENPCDET}, with max_points=5",
            "detection",
            "pieces",
        ),
        ModelInfo(
            "second_small",
            "second",
            "SECOND of half the width on coarser voxels for training on a CPU",
            _SECOND,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "voxel_transformer",
            "voxel_transformer",
            "attention in shifted windows of voxels, joined along z, then convolutions on a map seen from above",
            _VOXEL_TRANSFORMER,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "voxel_transformer_small",
            "voxel_transformer",
            "voxel transformer of a third of the width on coarser voxels for training on a CPU",
            _VOXEL_TRANSFORMER,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "pillar_transformer",
            "voxel_transformer",
            "attention in shifted windows of pillars, then convolutions on a map seen from above",
            _VOXEL_TRANSFORMER,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "pillar_transformer_small",
            "voxel_transformer",
            "pillar transformer of a third of the width on coarser pillars for training on a CPU",
            _VOXEL_TRANSFORMER,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "pillar_transformer_pretraining",
            "masked_columns",
            "Pillar transformer made to make up hidden columns of scans",
            _VOXEL_MAE,
            task="pretraining",
            graph="pieces",
        ),
        ModelInfo(
            "pillar_transformer_small_pretraining",
            "masked_columns",
            "small pillar transformer made to make up hidden columns of scans",
            _VOXEL_MAE,
            task="pretraining",
            graph="pieces",
        ),
        ModelInfo(
            "voxel_transformer_pretraining",
            "masked_columns",
            "Voxel transformer made to make up hidden columns of scans",
            _VOXEL_MAE,
            task="pretraining",
            graph="pieces",
        ),
        ModelInfo(
            "voxel_transformer_small_pretraining",
            "masked_columns",
            "small voxel transformer made to make up hidden columns of scans",
            _VOXEL_MAE,
            task="pretraining",
            graph="pieces",
        ),
        ModelInfo(
            "pointpillars_pretraining",
            "masked_columns",
            "PointPillars made to make up hidden columns of scans",
            _VOXEL_MAE,
            task="pretraining",
            graph="pieces",
        ),
        ModelInfo(
            "pointpillars_small_pretraining",
            "masked_columns",
            "small PointPillars made to make up hidden columns of scans",
            _VOXEL_MAE,
            task="pretraining",
            graph="pieces",
        ),
        ModelInfo(
            "deformable_detector",
            "deformable_detector",
            "pillars, then deformable attention on maps of three resolutions, and queries",
            _DEFORMABLE_DETR,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "deformable_detector_small",
            "deformable_detector",
            "deformable detector of half the width on coarser pillars for training on a CPU",
            _DEFORMABLE_DETR,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "point_detr",
            "point_detr",
            "points to boxes: set abstraction, transformer encoder, queries",
            _3DETR,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "point_detr_small",
            "point_detr",
            "PointDETR of a quarter of the width for training on a CPU",
            _3DETR,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "plain_transformer",
            "plain_transformer_detector",
            "one-scale transformer on a map seen from above, in windows and four times beyond",
            _VITDET,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "plain_transformer_small",
            "plain_transformer_detector",
            "plain transformer of eight narrow layers for training on a CPU",
            _VITDET,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "smlp_detector",
            "smlp_detector",
            "rows and columns of a map seen from above mixed without attention, or any grid mixer",
            _SMLP,
            task="detection",
            graph="pieces",
        ),
        ModelInfo(
            "smlp_detector_small",
            "smlp_detector",
            "sMLP of half the width on coarser pillars for training on a CPU",
            _SMLP,
            task="detection",
            graph="pieces",
        ),
    )
}
