"""The statistics of ImageNet, by which the student's images are normalised: (value in 0..1 - mean) / std, RGB."""

import numpy as np

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

FACTOR = (1 / (255 * np.array(STD, np.float32).astype(np.float64))).astype(np.float32)
OFFSET = (-np.array(MEAN, np.float32).astype(np.float64) / np.array(STD, np.float32)).astype(np.float32)
"""What turns grey levels into normalised values: level * FACTOR + OFFSET, one a channel."""
