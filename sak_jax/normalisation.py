"""The statistics of ImageNet, by which the student's images are normalised: (value in 0..1 - mean) / std, RGB."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
