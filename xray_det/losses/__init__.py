"""Pure tensor maths: what a detector's outputs cost. A loss knows no detector, and a detector not which loss it has."""

from xray_det.losses.concurrent import ConcurrentSoftmax as ConcurrentSoftmax
from xray_det.losses.effective_number import EffectiveNumber as EffectiveNumber
from xray_det.losses.equalization import EqualizationV2 as EqualizationV2
from xray_det.losses.federated import Federated as Federated
from xray_det.losses.focal import SigmoidFocal as SigmoidFocal
from xray_det.losses.seesaw import Seesaw as Seesaw
from xray_det.losses.softmax import Softmax as Softmax

#: The classification losses a detector's configuration can name.
Classification = SigmoidFocal | Softmax | ConcurrentSoftmax | EffectiveNumber | Federated | Seesaw | EqualizationV2
