"""Every file that only the user can supply: curation's backends, and the body and encoders of the model."""

from __future__ import annotations

from lhmforge.pipelines.backends.user_weights import USER_WEIGHTS, UserWeights

# fmt: off
MODEL_FILES: tuple[UserWeights, ...] = (
    UserWeights(role="body", backend="smplx",
                description="SMPL-X neutral body model (the free CC0 body is the default)",
                file_format="SMPLX_NEUTRAL.npz", official="smpl-x.is.tue.mpg.de (registration)",
                licence="SMPL-X licence, non-commercial; commercial licences by its owner", commercial_use=False,
                example="--body SMPLX_NEUTRAL.npz"),
    UserWeights(role="body encoder", backend="sapiens",
                description="Sapiens-1B pretraining encoder of the 0.5b / 0.7b / 1b presets, frozen",
                file_format="TorchScript .pt2: [B,3,1024,1024] -> [B,1536,64,64]",
                official="huggingface.co/facebook, collection sapiens", licence="Sapiens License / CC-BY-NC-4.0",
                commercial_use=False, example="sapiens_1b_epoch_173_torchscript.pt2"),
    UserWeights(role="head encoder", backend="dinov2",
                description="DINOv2 ViT-L/14 with registers, the start of the trainable head encoder",
                file_format="state dict .pth or .safetensors", official="github.com/facebookresearch/dinov2",
                licence="Apache-2.0", commercial_use=True, example="dinov2_vitl14_reg4_pretrain.pth"),
    UserWeights(role="model", backend="lhm",
                description="a released LHM checkpoint, for `lhmforge model import`",
                file_format="safetensors", official="huggingface.co/3DAIGC",
                licence="CC-BY-NC-4.0 (weights)", commercial_use=False, example="LHM-500M-HF/model.safetensors"),
)
# fmt: on

USER_FILES: tuple[UserWeights, ...] = (*MODEL_FILES, *USER_WEIGHTS)
