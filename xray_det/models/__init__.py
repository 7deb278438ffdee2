"""Detectors: images in, predictions out; what they learn from and what they find."""

from xray_det.models.retinanet import RetinaNet

#: The architectures an experiment can name.
Model = RetinaNet
