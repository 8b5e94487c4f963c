"""Samples that are made when they are asked for, and that count how many of their images are held at a time."""

from collections.abc import Iterator, Sequence

from ost.data import Sample


class Streamed(Sequence[Sample]):
    """A pool as a dataset gives it: each sample anew each time, with images that nobody else holds."""

    def __init__(self, samples: Sequence[Sample]):
        self._samples = samples
        self.made = self.held = self.most = 0
        """Images that were read so far, that somebody holds now, and at most at any time."""

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        found = self._samples[place]
        return [self._anew(sample) for sample in found] if isinstance(place, slice) else self._anew(found)

    def __iter__(self) -> Iterator[Sample]:
        return map(self._anew, self._samples)

    def _anew(self, sample: Sample) -> Sample:
        images = tuple(_Image(image, self) for image in sample.images)
        return Sample(images, sample.messages, sample.task, sample.id)


class _Image(bytes):
    """The bytes of an image, told of when they are made and when nobody holds them any more."""

    def __new__(cls, data: bytes, owner: Streamed) -> "_Image":
        image = super().__new__(cls, data)
        image.owner = owner
        owner.made += 1
        owner.held += 1
        owner.most = max(owner.most, owner.held)
        return image

    def __del__(self) -> None:
        self.owner.held -= 1
