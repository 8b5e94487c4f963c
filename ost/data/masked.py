"""Samples of which some turns are context alone, although the sample set has them learned."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ost.data.dataset import Samples
from ost.data.sample import Sample


class Masked(Samples):
    """Samples with some of their turns masked: not learned, and context for the others.

    `masks`: id → indices of these turns' messages. Ids are those of the samples as they were; text and images as well.
    """

    def __init__(self, samples: Samples, masks: Mapping[str, Sequence[int]]):
        self.samples, self.masks = samples, masks

    def __len__(self) -> int:
        return len(self.samples)

    def at(self, places: Sequence[int]) -> list[Sample]:
        """See `Samples.at`."""
        return [self._masked(sample) for sample in self.samples.at(places)]

    def ids(self) -> list[str]:
        """See `Samples.ids`."""
        return self.samples.ids()

    def contents(self) -> list[str]:
        """What tells the samples from others in what is learned of them: id, and which turns are masked, in order."""
        return [f"{name} without {list(self.masks[name])}" if name in self.masks else name for name in self.ids()]

    def _masked(self, sample: Sample) -> Sample:
        turns = self.masks.get(sample.id)
        return replace(sample, messages=with_masks(sample.messages, turns)) if turns else sample


def with_masks(messages: Sequence[dict], turns: Sequence[int]) -> tuple[dict, ...]:
    """The messages, those at the indices `turns` as context alone; no other is changed."""
    return tuple(message | {"loss": False} if at in turns else message for at, message in enumerate(messages))
