"""Detectors: images in, predictions out; what they learn from and what they find."""

from xray_det.models.faster_rcnn import FasterRCNN as FasterRCNN
from xray_det.models.retinanet import RetinaNet as RetinaNet

#: The architectures an experiment can name.
Model = FasterRCNN | RetinaNet
