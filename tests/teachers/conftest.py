"""The PyTorch references import torchvision, of which they use nothing compiled."""

import torch

from sak_jax.benchmark.published import declare_torchvision

declare_torchvision()
torch.set_num_threads(2)
