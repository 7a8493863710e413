"""The PyTorch references import torchvision, of which they use nothing compiled."""

import importlib.util
from pathlib import Path

import torch

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def provide_torchvision_operators():
    """torchvision fails to import where its compiled part does not fit PyTorch (a CPU build of one, say): declare what
    it looks for."""
    found = importlib.util.find_spec("torchvision")
    for path in Path(found.origin).parent.glob("_C*") if found else ():
        try:
            torch.ops.load_library(path)
        except OSError:
            continue
    if not hasattr(torch.ops.torchvision, "nms"):
        for name in ("nms", "qnms"):
            LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


provide_torchvision_operators()
torch.set_num_threads(2)
