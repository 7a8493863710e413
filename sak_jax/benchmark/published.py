"""The same work done by the published PyTorch implementation (https://github.com/innovator-zero/SAK), from a clone.

Weights are random, so nothing is downloaded; everything else is as its `train_s1.py` and `train_s2.py` run it on one
device: autocast to float16 with a gradient scaler on a GPU (its `--fp16`), float32 on a CPU.
"""

import contextlib
import importlib.util
import io
import resource
import sys
import time
from pathlib import Path

from sak_jax.errors import UserError

DATA = {"nyud": "nyud", "pascal_context": "pascalcontext", "imagenet": "imagenet"}
"""Its names of our data sets."""

TEACHERS = {
    f"{ours}_{size}": f"{theirs}_{size}"
    for ours, theirs in (("dinov2", "dinov2"), ("clip", "timmclip"), ("sam", "sam"))
    for size in ("base", "large")
}
"""Its names of our teachers."""

WORK = ("forward", "student", "distill", "multitask")


def check_clone(clone: str) -> None:
    """Raises UserError where there is no clone of the published code."""
    if not (Path(clone) / "models" / "mt_distiller.py").exists():
        raise UserError(f"{clone} is no clone of the published code: models/mt_distiller.py is not there")


class Published:
    """One of `WORK`, ready to be timed.

    Args:
      clone: the root of the clone.
      name: which.
      data: our name of the data set.
      stem: size of the student.
      teachers: our registry's names by teacher.
      aligned: whether the student has aligners.
      batch: images.
      single: float32 even on a GPU.

    Raises:
      UserError: no clone, or work that it does not have.
    """

    def __init__(
        self, clone: str, name: str, *, data: str, stem: str, teachers: dict[str, str], aligned: bool, batch: int,
        single: bool = False,
    ):  # fmt: skip
        check_clone(clone)
        unknown = [model for model in teachers.values() if model not in TEACHERS]
        if name not in WORK or data not in DATA or unknown:
            raise UserError(f"the published code has no {name} of {data} with {', '.join(teachers.values())}")
        import torch

        declare_torchvision()
        sys.path.insert(0, str(clone))
        _without_downloads()
        from datasets.utils import configs as settings
        from losses import get_criterion
        from models.mt_distiller import MTMT_Distiller

        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        self.torch, self.batch = torch, batch
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.half = self.device.type == "cuda" and not single
        data = DATA[data]
        channels = {"nyud": settings.NYUD_OUT_CHANNELS, "pascalcontext": settings.PASCAL_OUT_CHANNELS}.get(data, {})
        self.size, self.name, self.channels = settings.INPUT_SIZE[data], name, channels
        backbone = {"backbone_type": "sak", "vit_name": f"vit_{stem}", "down_ratio": 4, "aligner": aligned}
        if channels:
            backbone |= {"router_type": "mor", "noisy_gating": True}
        committee = {key: {"backbone_type": TEACHERS[model], "pretrain": False} for key, model in teachers.items()}
        with contextlib.redirect_stdout(io.StringIO()):  # It says what it loads.
            model = MTMT_Distiller(
                img_size=self.size,
                tea_configs=committee,
                stu_config={"backbone": backbone | {"freeze_vit": False}},
                task_out=bool(channels),
                stu_criterion=get_criterion(data, list(channels)) if channels else None,
                dataname=data,
                tasks=list(channels) or None,
            )
        self.model = model.to(self.device)
        self.inputs = self._inputs()
        if name in ("student", "forward"):
            with torch.no_grad():
                one = self.inputs["image"][:1]
                self.features = {
                    key: [x.expand(batch, -1, -1, -1).contiguous() for x in teacher(one)]
                    for key, teacher in self.model.teachers.items()
                }
            self.model.teachers = torch.nn.ModuleDict()
        rate = {"lr": 2e-5, "weight_decay": 1e-6} if channels else {"lr": 1e-3, "weight_decay": 0.01}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **rate)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _inputs(self) -> dict:
        """Random images and labels, with its 255 where there is none."""
        torch, (height, width) = self.torch, self.size
        inputs = {"image": torch.randn(self.batch, 3, height, width)}
        for task, channels in self.channels.items():
            shape = self.batch, 3 if task == "normals" else 1, height, width
            if task == "normals":
                label = torch.nn.functional.normalize(torch.randn(shape), dim=1)
            elif task == "depth":
                label = 10 * torch.rand(shape)
            else:
                label = torch.randint(max(channels, 2), shape).float()
                label[:, :, :8] = 255
            inputs[task] = label
        return {key: value.to(self.device) for key, value in inputs.items()}

    def seconds(self, times: int) -> float:
        """Mean seconds of one of so many."""
        self._wait()
        started = time.perf_counter()
        for _ in range(times):
            self._forward() if self.name == "forward" else self._step()
        self._wait()
        return (time.perf_counter() - started) / times

    def _wait(self) -> None:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()

    def _forward(self) -> None:
        self.model.student.eval()
        with self.torch.no_grad(), self._autocast():
            self.model.student(self.inputs["image"])

    def _step(self) -> None:
        self.optimizer.zero_grad()
        model, batch = self.model, self.inputs
        with self._autocast():
            if self.name == "student":
                model.student.train()
                aligned, outputs = model.student(batch["image"])
                losses = model.kd_criterion(self.features, aligned), model.stu_criterion(outputs, batch, model.tasks)
            elif self.channels:
                losses = model(batch)
            else:
                losses = (model(batch["image"]),)
        for rows in losses:  # As its loop logs them.
            [value.detach().item() for key, value in rows.items() if key != "total"]
        self.scaler.scale(sum(rows["total"] for rows in losses)).backward()
        if self.channels:  # Stage 2 clips.
            self.scaler.unscale_(self.optimizer)
            self.torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _autocast(self):
        return self.torch.autocast(device_type=self.device.type, dtype=self.torch.float16, enabled=self.half)

    def peak_bytes(self) -> int:
        """The most memory so far: the GPU's, or on a CPU the process's."""
        if self.device.type == "cuda":
            return self.torch.cuda.max_memory_allocated()
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def declare_torchvision() -> None:
    """Lets torchvision be imported beside a build of PyTorch that its compiled part does not fit, as for a CPU.

    timm imports it, and uses nothing compiled of it here.
    """
    import torch

    found = importlib.util.find_spec("torchvision")
    for path in Path(found.origin).parent.glob("_C*") if found else ():
        with contextlib.suppress(OSError):
            torch.ops.load_library(path)
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)  # What it declares would end with it.


_LIBRARIES: list = []


def _without_downloads() -> None:
    """Lets its stem be built without its weights, which it would download."""
    from models.backbones import vit

    create = vit._create_vision_transformer
    vit._create_vision_transformer = lambda variant, pretrained=False, **options: create(variant, **options)
