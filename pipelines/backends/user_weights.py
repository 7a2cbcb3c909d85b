"""Weights that users bring themselves: one row per backend, with format, official source and licence.

Nothing of this is downloaded. `lhmforge assets list` prints the rows below the embedded assets.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UserWeights:
    """What a user must supply for a backend, and on which terms its owner gives it away."""

    role: str
    backend: str
    description: str
    file_format: str
    official: str
    licence: str
    commercial_use: bool  # whether the licence allows it, to the best of our reading; the licence text decides
    example: str


# fmt: off
USER_WEIGHTS: tuple[UserWeights, ...] = (
    UserWeights(role="keypoints", backend="sapiens",
                description="Sapiens v1 pose estimator (0.3B to 2B), 17, 133 or 308 keypoints",
                file_format="TorchScript .pt2: [B,3,1024,768] -> heatmaps [B,K,256,192]",
                official="huggingface.co/facebook, collection sapiens; github.com/facebookresearch/sapiens",
                licence="Sapiens License / CC-BY-NC-4.0", commercial_use=False,
                example="sapiens_1b_coco_wholebody_best_coco_wholebody_AP_727_torchscript.pt2"),
    UserWeights(role="keypoints", backend="sapiens2",
                description="Sapiens2 pose estimator (0.4B to 5B), 308 keypoints; needs the extra [sapiens2]",
                file_format="folder with config.json and *.safetensors: [B,3,1024,768] -> heatmaps [B,308,256,192]",
                official="huggingface.co/facebook, sapiens2-pose-*; github.com/facebookresearch/sapiens2",
                licence="Sapiens2 License", commercial_use=False, example="sapiens2-pose-0.4b/"),
    UserWeights(role="keypoints", backend="vitpose",
                description="ViTPose or ViTPose+ in transformers' form; needs the extra [vitpose]",
                file_format="folder with config.json and *.safetensors: [B,3,256,192] -> heatmaps [B,K,64,48]",
                official="huggingface.co/usyd-community, vitpose-*; github.com/ViTAE-Transformer/ViTPose",
                licence="Apache-2.0", commercial_use=True, example="vitpose-base-simple/"),
    UserWeights(role="keypoints", backend="mmpose",
                description="top-down mmpose model (RTMW, RTMPose, ViTPose, HRNet), 17, 133 or 308 keypoints; needs "
                            "the extra [mmpose]",
                file_format="checkpoint .pth of mmpose (weights) and its config .py (config)",
                official="github.com/open-mmlab/mmpose, model zoo", licence="Apache-2.0", commercial_use=True,
                example="rtmw-x_simcc-cocktail14_pt-ucoco_270e-384x288.pth"),
    UserWeights(role="keypoints", backend="rtmw_onnx",
                description="RTMPose / RTMW / DWPose whole-body pose model with SimCC outputs",
                file_format="ONNX: [B,3,H,W] -> simcc_x [B,K,Wx], simcc_y [B,K,Hy]",
                official="github.com/open-mmlab/mmpose, projects/rtmpose", licence="Apache-2.0", commercial_use=True,
                example="rtmw-dw-x-l_simcc-cocktail14_270e-384x288.onnx"),
    UserWeights(role="detector", backend="onnx",
                description="RTMDet, YOLOX or RT-DETR / D-FINE person detector trained on COCO",
                file_format="ONNX; outputs recognised by shape, see onnx_detector.py",
                official="github.com/open-mmlab/mmdetection; github.com/Megvii-BaseDetection/YOLOX; "
                         "github.com/lyuwenyu/RT-DETR",
                licence="Apache-2.0", commercial_use=True, example="yolox_m.onnx"),
    UserWeights(role="matting", backend="onnx",
                description="MODNet, BiRefNet, ISNet or U^2-Net style matting model",
                file_format="ONNX: image [B,3,H,W] -> alpha [B,1,H,W]",
                official="github.com/ZHKKKe/MODNet; github.com/ZhengPeng7/BiRefNet",
                licence="Apache-2.0 (MODNet), MIT (BiRefNet)", commercial_use=True,
                example="BiRefNet-portrait-epoch_150.onnx"),
    UserWeights(role="matting", backend="torchscript",
                description="a matting model exported with torch.jit",
                file_format="TorchScript: image [B,3,H,W] -> alpha [B,1,H,W] (or a list whose last entry is it)",
                official="the model's own repository", licence="the model's own", commercial_use=False,
                example="birefnet.ts"),
    UserWeights(role="matting", backend="rvm_onnx",
                description="Robust Video Matting (recurrent: temporally stable alpha)",
                file_format="ONNX: src, r1i..r4i, downsample_ratio -> fgr, pha, r1o..r4o",
                official="github.com/PeterL1n/RobustVideoMatting", licence="GPL-3.0", commercial_use=False,
                example="rvm_mobilenetv3_fp32.onnx"),
    UserWeights(role="matting", backend="sam2",
                description="SAM 2 / 2.1 video segmenter, prompted with the track's boxes; needs the extra [sam2]",
                file_format="checkpoint .pt of sam2 (weights) and the name of its config in the package (config)",
                official="github.com/facebookresearch/sam2", licence="Apache-2.0", commercial_use=True,
                example="sam2.1_hiera_small.pt"),
    UserWeights(role="body_init", backend="npz",
                description="SMPL-X parameters per frame from a regressor of your choice (Multi-HMR, SMPLer-X, NLF)",
                file_format="npz, keys and shapes as in npz_body_init.py; weights = file, or folder with one per track",
                official="the regressor's own repository",
                licence="the regressor's own (Multi-HMR, SMPLer-X: non-commercial)", commercial_use=False,
                example="regressed/"),
)
# fmt: on


def user_weights(role: str, backend: str) -> UserWeights:
    """The row of a backend that needs a file of the user's."""
    rows = [row for row in USER_WEIGHTS if (row.role, row.backend) == (role, backend)]
    assert len(rows) == 1, f"no single row of user weights for {role} {backend}"
    return rows[0]
