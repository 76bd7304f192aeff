"""Networks: plain modules, called as `network(inputs, lengths, metadata)` and answering with `Logits`."""

from torch import nn

from heartnet.model.deepheart import DeepHeart
from heartnet.model.hourly_cnn import HourlyCNN
from heartnet.model.two_timescale import TwoTimescale

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "DeepHeart": DeepHeart,
    "HourlyCNN": HourlyCNN,
    "TwoTimescale": TwoTimescale,
}
"""Networks that a checkpoint may name; loading one builds from this list and never imports what a file says."""
