"""Pure tensor maths: what a detector's outputs cost. A loss knows no detector, and a detector not which loss it has."""

from xray_det.losses.focal import SigmoidFocal
from xray_det.losses.softmax import Softmax

#: The classification losses a detector's configuration can name.
Classification = SigmoidFocal | Softmax
